/**
 * Asks Postgres for the errors in its configuration files as they are now, before it is told to reload them.
 *
 * `pg_file_settings` reads the files anew in the session that asks, and calls every setting it could not take an
 * error. A setting that only a restart can change is among them, but is no mistake: the same session knows it then as
 * `pending_restart`, and that is how the two are told apart. Changes nothing, and opens one session for each check.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { type Failure, type Problem } from "../errors/Failure.ts"
import { within } from "../errors/within.ts"
import { Admin } from "../pgwire/Admin.ts"

/** A setting whose value in the files waits for a restart. Values as Postgres prints them, cut to a readable length. */
export interface PendingRestart {
  readonly name: string
  readonly current: string
  readonly wanted: string
}

/** Columns in the order of `problemsOf`; lines that a later one overrides say nothing. */
const fileSettingsSql =
  "SELECT name, sourcefile, sourceline, error, setting FROM pg_catalog.pg_file_settings ORDER BY seqno"

/** Asked in the session that asked `fileSettingsSql` before. */
const pendingSettingsSql = `SELECT name, pg_catalog.current_setting(name, true),
  setting IS NOT DISTINCT FROM boot_val
FROM pg_catalog.pg_settings WHERE pending_restart`

export type Row = ReadonlyArray<string | null>

export interface ConfigurationProblems {
  /** Why the files must not be taken up. */
  readonly problems: ReadonlyArray<Problem>
  readonly pending: ReadonlyArray<PendingRestart>
}

const longest = 200
const secretive = /password|passphrase|secret|token|conninfo/i

/** A value may be anything that a spec holds; what its name makes a secret is not shown. */
const shown = (name: string, value: string): string =>
  secretive.test(name) ? "(not shown)" : value.length > longest ? `${value.slice(0, longest)}…` : value

const fileOf = (path: string | null): string => path?.split("/").at(-1) ?? "postgresql.conf"

export const readFileSettings = (files: ReadonlyArray<Row>, waiting: ReadonlyArray<Row>): ConfigurationProblems => {
  const current = new Map(waiting.map(([name, value]) => [name ?? "", value ?? ""]))
  /** The waiting setting of an error. One that was taken out of the files has no row, but an error that names it. */
  const waitingOf = ([name = null, , , error = null]: Row): string | undefined =>
    error === null
      ? undefined
      : [...current.keys()].find((one) => (name === null ? error.includes(`"${one}"`) : name === one))
  const problems = files
    .filter((row) => (row[3] ?? null) !== null && waitingOf(row) === undefined)
    .map(([name = null, file = null, line = null, error = null]) => ({
      path: line === null ? fileOf(file) : `${fileOf(file)} line ${line}`,
      message: name === null ? `${error}` : `${name}: ${error}`
    }))
  // Postgres goes on calling a setting pending when its line is gone again; without an error, nothing waits.
  const pending = [...new Set(files.map(waitingOf))]
    .filter((name) => name !== undefined)
    .flatMap((name) => {
      // Without a line of its own it was taken out of the files: the built-in value waits, unless it is in force.
      const wanted = files.findLast(([one]) => one === name)?.[4] ?? null
      const same = wanted === null && waiting.some(([one, , isBuiltIn]) => one === name && isBuiltIn === "t")
      return same
        ? []
        : [{ name, current: shown(name, current.get(name) ?? ""), wanted: shown(name, wanted ?? "its default") }]
    })
  return { problems, pending }
}

/** One line for the log. */
export const printPending = (pending: ReadonlyArray<PendingRestart>): string =>
  `${pending.length} setting(s) wait for a restart of Postgres: ${pending
    .map(({ current, name, wanted }) => `${name} (${current} now, ${wanted} then)`)
    .join(", ")}`

/** Short on purpose: a session of a Postgres whose pageserver is gone may never begin. */
const deadline = Duration.seconds(5)

/** Finds nothing wrong unless there is a Postgres to ask: see `configurationCheck`. */
export const ConfigurationCheck = Context.Reference<Effect.Effect<ConfigurationProblems, Failure>>(
  "compute/pg/ConfigurationCheck",
  {
    defaultValue: () => Effect.succeed({ problems: [], pending: [] })
  }
)

/** One session for both queries: the second answers from what the first has read. */
const ask = (admin: Admin["Service"]): Effect.Effect<ConfigurationProblems, Failure> =>
  Effect.gen(function* () {
    const wire = yield* admin.connect("configure_check")
    const files = yield* wire.rows(fileSettingsSql)
    return readFileSettings(files, yield* wire.rows(pendingSettingsSql))
  }).pipe(Effect.scoped, within("the check of the configuration files", deadline))

export const configurationCheck: Layer.Layer<never, never, Admin> = Layer.effect(
  ConfigurationCheck,
  Effect.map(Admin, ask)
)
