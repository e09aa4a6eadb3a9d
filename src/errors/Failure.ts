/**
 * Everything that can go wrong, as one closed union.
 *
 * Fields are facts, `message` is a sentence for an operator, `hint` says what to do next. No field ever holds a
 * secret. The error policy (`policy.ts`) is total over this union.
 */
import * as Schema from "effect/Schema"
import { auxiliaryFailures } from "./AuxiliaryFailure.ts"
import { storageFailures } from "./StorageFailure.ts"

/** How a process left: with a code, or by a signal. */
export const ExitStatus = Schema.Union([
  Schema.TaggedStruct("Code", { code: Schema.Int }),
  Schema.TaggedStruct("Signal", { signal: Schema.String })
])
export type ExitStatus = typeof ExitStatus.Type

export const printExit = (exit: ExitStatus): string =>
  exit._tag === "Code" ? `exit code ${exit.code}` : `signal ${exit.signal}`

export * from "./AuxiliaryFailure.ts"
export * from "./StorageFailure.ts"

const cause = Schema.optionalKey(Schema.Defect())

/** `path` is the place in the input, such as `cluster.roles[0].name`. */
export const Problem = Schema.Struct({ path: Schema.String, message: Schema.String })
export type Problem = typeof Problem.Type

/** The spec could be read but does not say what a spec must say. */
export class SpecInvalid extends Schema.TaggedError<SpecInvalid>()("SpecInvalid", {
  source: Schema.String,
  problems: Schema.Array(Problem)
}) {
  override get message(): string {
    const lines = this.problems.map(({ path, message }) => (path === "" ? message : `${path}: ${message}`))
    return `the spec (${this.source}) is not valid: ${lines.join("; ")}`
  }
}

/** The spec is valid, but not for this compute: what it says changes what a compute is for all its life. */
export class SpecConflict extends Schema.TaggedError<SpecConflict>()("SpecConflict", {
  problems: Schema.Array(Problem)
}) {
  override get message(): string {
    const lines = this.problems.map(({ path, message }) => `${path}: ${message}`)
    return `the spec is not for this compute: ${lines.join("; ")}`
  }
}

/** The spec could not be read at all. */
export class SpecUnreadable extends Schema.TaggedError<SpecUnreadable>()("SpecUnreadable", {
  source: Schema.String,
  cause
}) {
  override get message(): string {
    return `cannot read the spec from ${this.source}`
  }
}

/** The control plane gave no spec. */
export class ControlPlaneFailed extends Schema.TaggedError<ControlPlaneFailed>()("ControlPlaneFailed", {
  uri: Schema.String,
  detail: Schema.String,
  attempts: Schema.Int,
  /** It answered and said no, instead of being down. */
  refused: Schema.optionalKey(Schema.Boolean),
  cause
}) {
  override get message(): string {
    return `the control plane at ${this.uri} gave no spec (${this.attempts} attempts): ${this.detail}`
  }
}

/** No usable Postgres, or one that cannot do what is asked. */
export class PostgresUnusable extends Schema.TaggedError<PostgresUnusable>()("PostgresUnusable", {
  binary: Schema.String,
  detail: Schema.String,
  hint: Schema.String,
  cause
}) {
  override get message(): string {
    return `Postgres at ${this.binary} cannot be used: ${this.detail}`
  }
}

/** The user that Postgres shall run as does not exist or may not be used. */
export class RunAsInvalid extends Schema.TaggedError<RunAsInvalid>()("RunAsInvalid", {
  user: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `cannot run Postgres as ${this.user}: ${this.detail}`
  }
}

/** A helper program could not be started. */
export class SpawnFailed extends Schema.TaggedError<SpawnFailed>()("SpawnFailed", {
  command: Schema.String,
  cause
}) {
  override get message(): string {
    return `cannot start ${this.command}`
  }
}

/** A helper program ran and failed. `output` is the tail of what it printed. */
export class CommandFailed extends Schema.TaggedError<CommandFailed>()("CommandFailed", {
  command: Schema.String,
  exit: ExitStatus,
  output: Schema.String
}) {
  override get message(): string {
    return `${this.command} ended with ${printExit(this.exit)}${this.output === "" ? "" : `: ${this.output}`}`
  }
}

/** A file or folder of ours could not be made, read or moved. */
export class FileFailed extends Schema.TaggedError<FileFailed>()("FileFailed", {
  operation: Schema.String,
  path: Schema.String,
  cause,
  hint: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    return `cannot ${this.operation} ${this.path}`
  }
}

/** Something outside did not answer in time. */
export class TimedOut extends Schema.TaggedError<TimedOut>()("TimedOut", {
  what: Schema.String,
  millis: Schema.Number
}) {
  override get message(): string {
    return `timed out after ${this.millis} ms: ${this.what}`
  }
}

/** The other side of a Postgres connection said no, or the connection broke. */
export class WireFailed extends Schema.TaggedError<WireFailed>()("WireFailed", {
  /** What was being done: `connect`, `authenticate`, `query`, `copy out`. */
  operation: Schema.String,
  peer: Schema.String,
  detail: Schema.String,
  sqlState: Schema.optionalKey(Schema.String),
  /** Name of the status, such as `UNAUTHENTICATED`, when it was a gRPC call. */
  grpcStatus: Schema.optionalKey(Schema.String),
  serverDetail: Schema.optionalKey(Schema.String),
  serverHint: Schema.optionalKey(Schema.String),
  cause
}) {
  override get message(): string {
    const code = this.sqlState === undefined ? this.grpcStatus : `SQLSTATE ${this.sqlState}`
    const state = code === undefined ? "" : ` (${code})`
    const detail = this.serverDetail === undefined ? "" : `; ${this.serverDetail}`
    return `${this.operation} ${this.peer}: ${this.detail}${state}${detail}`
  }
}

/** Postgres was started and did not become ready. */
export class PostmasterNotReady extends Schema.TaggedError<PostmasterNotReady>()("PostmasterNotReady", {
  reason: Schema.String,
  /** The last records Postgres wrote before it gave up. */
  log: Schema.Array(Schema.String),
  hint: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    const said = this.log.length === 0 ? "" : `; Postgres said: ${this.log.join(" | ")}`
    return `${this.reason}${said}`
  }
}

/** A replica could not be made a primary; it goes on as what it is. */
export class PromotionFailed extends Schema.TaggedError<PromotionFailed>()("PromotionFailed", {
  detail: Schema.String
}) {
  override get message(): string {
    return `the replica was not promoted: ${this.detail}`
  }
}

/** Postgres left without having been asked to. */
export class PostmasterDied extends Schema.TaggedError<PostmasterDied>()("PostmasterDied", {
  exit: ExitStatus,
  /** How it left and what its last records suggest, as one sentence. */
  crashReport: Schema.String,
  log: Schema.Array(Schema.String),
  hint: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    const said = this.log.length === 0 ? "" : `; Postgres said: ${this.log.join(" | ")}`
    return `Postgres died unasked with ${printExit(this.exit)}: ${this.crashReport}${said}`
  }
}

/** Postgres had to be made to leave, so it left no shutdown checkpoint. */
export class PostmasterForced extends Schema.TaggedError<PostmasterForced>()("PostmasterForced", {
  signal: Schema.String,
  seconds: Schema.Number
}) {
  override get message(): string {
    return (
      `Postgres did not stop in order within ${this.seconds} s and was made to leave with ${this.signal}; ` +
      "nothing acknowledged is lost, but the next start has to recover"
    )
  }
}

/** The catalog does not match the spec: `failures` has one line per operation that failed. */
export class ApplyFailed extends Schema.TaggedError<ApplyFailed>()("ApplyFailed", {
  failures: Schema.Array(Schema.String),
  cause
}) {
  override get message(): string {
    return `the spec could not be applied: ${this.failures.join("; ")}`
  }
}

/** An actor failed more often than its policy allows. */
export class ActorGaveUp extends Schema.TaggedError<ActorGaveUp>()("ActorGaveUp", {
  actor: Schema.String,
  cause
}) {
  override get message(): string {
    return `the ${this.actor} failed too often and was given up`
  }
}

/** A bug of ours, caught where it can be told and answered. */
export class Defect extends Schema.TaggedError<Defect>()("Defect", {
  what: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `${this.what} failed because of a bug in compute_ctl`
  }
}

/** We were asked to end before this was done. */
export class Abandoned extends Schema.TaggedError<Abandoned>()("Abandoned", { what: Schema.String }) {
  override get message(): string {
    return `${this.what} was abandoned: the compute was asked to terminate`
  }
}

/** A later spec took this one's place before it was begun. Both are operations of ours, by id. */
export class Superseded extends Schema.TaggedError<Superseded>()("Superseded", {
  operation: Schema.String,
  by: Schema.String
}) {
  override get message(): string {
    return `operation ${this.operation} was superseded by ${this.by} before it was begun`
  }
}

/**
 * Everything that a compute can fail with; what each of them means: docs/errors.md.
 *
 * @example
 * ```ts
 * const isFailure = Schema.is(Failure)
 * const known = isFailure(new Error("of somebody else"))
 * ```
 */
export const Failure = Schema.Union([
  SpecInvalid,
  SpecConflict,
  SpecUnreadable,
  ControlPlaneFailed,
  PostgresUnusable,
  RunAsInvalid,
  SpawnFailed,
  CommandFailed,
  FileFailed,
  TimedOut,
  WireFailed,
  PostmasterNotReady,
  PostmasterDied,
  PostmasterForced,
  PromotionFailed,
  ApplyFailed,
  ActorGaveUp,
  Defect,
  Abandoned,
  Superseded,
  ...storageFailures,
  ...auxiliaryFailures
])
export type Failure = typeof Failure.Type
