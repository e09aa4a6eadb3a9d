/**
 * What can go wrong where the data is: safekeepers, pageservers, a folder or a volume of this machine, and PGDATA.
 *
 * Members of the closed union in `Failure.ts`, and imported from there.
 */
import * as Schema from "effect/Schema"

const cause = Schema.optionalKey(Schema.Defect())

/** The safekeepers could not be made to agree. */
export class SyncSafekeepersFailed extends Schema.TaggedError<SyncSafekeepersFailed>()("SyncSafekeepersFailed", {
  attempts: Schema.Int,
  /** What each of them said when it was asked afterwards. */
  answers: Schema.optionalKey(Schema.Array(Schema.String)),
  cause,
  hint: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    const { answers = [], attempts } = this
    const said = answers.length === 0 ? "" : `; asked one by one, ${answers.join("; ")}`
    return `cannot sync the safekeepers (${attempts} attempts)${said}`
  }
}

const refusals = {
  token: ["does not take the token for this tenant", "give a storage_auth_token that its key signed, for this tenant"],
  unknown: ["does not have this timeline", "check tenant_id, timeline_id and which pageserver the spec names"],
  collected: ["no longer has what was at this LSN", "start at a later LSN: what it has collected does not come back"],
  request: ["refuses the request", "its own words above say why"]
} as const

/** A pageserver said no, and will say so again. */
export class PageserverRefused extends Schema.TaggedError<PageserverRefused>()("PageserverRefused", {
  peer: Schema.String,
  reason: Schema.Literals(["token", "unknown", "collected", "request"]),
  cause
}) {
  override get message(): string {
    return `the pageserver at ${this.peer} ${refusals[this.reason][0]}`
  }
  get hint(): string {
    return refusals[this.reason][1]
  }
}

/** No whole basebackup could be had. */
export class BasebackupFailed extends Schema.TaggedError<BasebackupFailed>()("BasebackupFailed", {
  lsn: Schema.String,
  attempts: Schema.Int,
  cause,
  hint: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    return `failed to get basebackup@${this.lsn} (${this.attempts} attempts)`
  }
}

/** A basebackup arrived, but it is not an archive we will unpack. */
export class ArchiveInvalid extends Schema.TaggedError<ArchiveInvalid>()("ArchiveInvalid", {
  kind: Schema.Literals(["truncated", "corrupt", "escapes"]),
  detail: Schema.String,
  cause
}) {
  override get message(): string {
    return `the basebackup archive is ${this.kind === "escapes" ? "trying to leave PGDATA" : this.kind}: ${this.detail}`
  }
}

/** Another compute holds this timeline. */
export class TimelineBusy extends Schema.TaggedError<TimelineBusy>()("TimelineBusy", {
  directory: Schema.String,
  holder: Schema.String,
  hint: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    return `another compute (${this.holder}) runs on this timeline: ${this.directory}`
  }
}

/** Somebody else uses this data directory. `holder` says who. */
export class PgdataBusy extends Schema.TaggedError<PgdataBusy>()("PgdataBusy", {
  directory: Schema.String,
  holder: Schema.String,
  hint: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    return `the data directory ${this.directory} is in use by ${this.holder}`
  }
}

/** Nobody else can be kept out, because the file system or the machine has no locks of the kind that is needed. */
export class LockUnavailable extends Schema.TaggedError<LockUnavailable>()("LockUnavailable", {
  path: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `no second compute can be kept out with a lock on ${this.path}: ${this.detail}`
  }
}

/** A storage of this machine was to be there already, and is not. */
export class StorageMissing extends Schema.TaggedError<StorageMissing>()("StorageMissing", {
  directory: Schema.String,
  detail: Schema.String,
  hint: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    return `the storage in ${this.directory} is not there: ${this.detail}`
  }
}

/** No branch can be made as it was asked for. Nothing was changed. */
export class BranchRefused extends Schema.TaggedError<BranchRefused>()("BranchRefused", {
  detail: Schema.String,
  hint: Schema.String
}) {
  override get message(): string {
    return `no branch was made: ${this.detail}`
  }
}

/** A storage of this machine is not in a state from which a start can succeed. */
export class StorageDamaged extends Schema.TaggedError<StorageDamaged>()("StorageDamaged", {
  directory: Schema.String,
  detail: Schema.String,
  hint: Schema.String,
  cause
}) {
  override get message(): string {
    return `the storage in ${this.directory} cannot be used: ${this.detail}`
  }
}

/** What lies on a volume is not what the spec is about. */
export class StorageForeign extends Schema.TaggedError<StorageForeign>()("StorageForeign", {
  directory: Schema.String,
  detail: Schema.String,
  hint: Schema.optionalKey(Schema.String)
}) {
  override get message(): string {
    return `the volume at ${this.directory} is not this compute's: ${this.detail}`
  }
}

/** The spec asks for something this storage cannot give. */
export class NotSupported extends Schema.TaggedError<NotSupported>()("NotSupported", {
  what: Schema.String,
  because: Schema.String
}) {
  override get message(): string {
    return `${this.what} is not supported: ${this.because}`
  }
}

/** Members of `Failure`. */
export const storageFailures = [
  ArchiveInvalid,
  BasebackupFailed,
  BranchRefused,
  LockUnavailable,
  NotSupported,
  PageserverRefused,
  PgdataBusy,
  StorageDamaged,
  StorageForeign,
  StorageMissing,
  SyncSafekeepersFailed,
  TimelineBusy
] as const
