/**
 * What can go wrong around Postgres: cgroup, remote extensions, local file cache, sockets, sidecars, certificates.
 *
 * Members of the closed union in `Failure.ts`, and imported from there.
 */
import * as Schema from "effect/Schema"

const cause = Schema.optionalKey(Schema.Defect())

/** Postgres shall run in a cgroup that is not there, cannot be entered, or has no memory statistics. */
export class CgroupUnusable extends Schema.TaggedError<CgroupUnusable>()("CgroupUnusable", {
  /** Its folder. */
  cgroup: Schema.String,
  detail: Schema.String,
  cause
}) {
  override get message(): string {
    return `the cgroup ${this.cgroup} cannot be used: ${this.detail}`
  }
}

/** The spec does not let anybody have this extension, or does not know it. */
export class ExtensionUnknown extends Schema.TaggedError<ExtensionUnknown>()("ExtensionUnknown", {
  /** As it was asked for: the name of an extension or of a library. */
  asked: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return this.detail
  }
}

/** Extensions can not be fetched: nobody said from where, or there is no spec yet that says which. */
export class ExtensionsUnavailable extends Schema.TaggedError<ExtensionsUnavailable>()("ExtensionsUnavailable", {
  missing: Schema.Literals(["store", "list"])
}) {
  override get message(): string {
    return this.missing === "store"
      ? "remote storage is not configured"
      : "information about remote extensions is unavailable"
  }
}

/** An extension could not be fetched or put in its place. Nothing of it is left behind; asking again tries again. */
export class ExtensionFailed extends Schema.TaggedError<ExtensionFailed>()("ExtensionFailed", {
  extension: Schema.String,
  url: Schema.String,
  detail: Schema.String,
  attempts: Schema.Int,
  cause
}) {
  override get message(): string {
    const attempts = `${this.attempts} attempts`
    return `the extension ${this.extension} could not be had from ${this.url} (${attempts}): ${this.detail}`
  }
}

/** The local file cache is being prewarmed or offloaded already. */
export class LfcBusy extends Schema.TaggedError<LfcBusy>()("LfcBusy", {
  what: Schema.Literals(["prewarm", "prewarm offload"])
}) {
  override get message(): string {
    return `Multiple requests for ${this.what} are not allowed`
  }
}

/** A listening socket could not be had. */
export class ListenFailed extends Schema.TaggedError<ListenFailed>()("ListenFailed", {
  what: Schema.String,
  port: Schema.Int,
  cause
}) {
  override get message(): string {
    return `cannot listen for ${this.what} on port ${this.port}`
  }
}

/** Somebody else answers where our Postgres is to listen. */
export class PostgresPortTaken extends Schema.TaggedError<PostgresPortTaken>()("PostgresPortTaken", {
  host: Schema.String,
  port: Schema.Int
}) {
  override get message(): string {
    return `port ${this.port} of ${this.host} is taken: another server answers there, so Postgres was not started`
  }
}

/** A sidecar (pgbouncer, local_proxy, rsyslogd) is not there or does not take its configuration. */
export class SidecarUnusable extends Schema.TaggedError<SidecarUnusable>()("SidecarUnusable", {
  sidecar: Schema.Literals(["pgbouncer", "local_proxy", "rsyslogd"]),
  detail: Schema.String,
  /** It is there and said no, so that trying the same again is of no use. */
  refused: Schema.optionalKey(Schema.Boolean),
  cause
}) {
  override get message(): string {
    return `${this.sidecar}: ${this.detail}`
  }
}

/** The TLS certificate and its key cannot be used as they are. Nothing was replaced. */
export class CertificateUnusable extends Schema.TaggedError<CertificateUnusable>()("CertificateUnusable", {
  certificate: Schema.String,
  detail: Schema.String,
  cause
}) {
  override get message(): string {
    return `the certificate ${this.certificate} cannot be used: ${this.detail}`
  }
}

/** Members of `Failure`. */
export const auxiliaryFailures = [
  CertificateUnusable,
  CgroupUnusable,
  ExtensionFailed,
  ExtensionsUnavailable,
  ExtensionUnknown,
  LfcBusy,
  ListenFailed,
  PostgresPortTaken,
  SidecarUnusable
] as const
