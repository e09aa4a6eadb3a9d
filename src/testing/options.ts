/**
 * What a test says about the compute that it wants, and what it gets of a database. Types alone, and none of Effect's:
 * `compute-ctl/promise` is used without it.
 */

/** A path, or a major version from 14 to 18. */
export type PostgresOption = string | number

/**
 * `onFailure`: on standard error, when the compute fails; `silent`: nowhere; a function: gets each line. In every case
 * the last lines can be asked for.
 */
export type LogOption = "onFailure" | "silent" | ((line: string) => void)

/** What a branch is made of. Plain data: another process of the run can have it. */
export interface Ancestor {
  /** The folder of its timeline. */
  readonly storage: string
  /** What the ancestor was started with, and a branch is by default. */
  readonly spec: unknown
  readonly password: string
  readonly postgres?: PostgresOption
}

export interface ComputeOptions {
  /** Begin as a branch of this one: with its content, its spec and its password, unless others are given. */
  readonly branchOf?: Ancestor
  /** The spec as the control plane would write it. Default: an empty cluster. */
  readonly spec?: unknown
  /** Path of a `postgres` program, or a major version that is installed here. Default: the embedded one, 17. */
  readonly postgres?: PostgresOption
  /** `process` (default) survives a kill; `os` survives a power cut and costs an fsync per commit. */
  readonly durability?: "os" | "process"
  /** Keep the storage in this folder instead of a temporary one: a second layer finds the data of the first. */
  readonly directory?: string
  /** Of the superuser, and of roles of the spec that have no `encrypted_password`. Default: made anew. */
  readonly password?: string
  /** Where the log goes: `onFailure` (default) shows it when the compute fails. */
  readonly log?: LogOption
}

export interface TemplateOptions {
  /** The database to copy. With `migrate` it is made, unless the spec has it; default: a new database's content. */
  readonly template?: string
  /** A role of the spec that owns the database, and whose URL it gets. Default: the superuser. */
  readonly owner?: string
}

export interface TestDatabase {
  readonly name: string
  readonly url: string
}
