/**
 * The rsyslogd of this machine: files for it, and a restart when they changed, because it reads them only then.
 *
 * An init system is to start it again; this only stops it, by its own pid, and never signals a process of another
 * name.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as fs from "node:fs"
import * as path from "node:path"
import { type HostPort, parseServerAddress } from "../pgwire/address.ts"
import { type Failure, NotSupported, SidecarUnusable } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { makeFolder, type Owner, replaceFile } from "../platform/files.ts"
import { type OtherProcess, processInFile, processOf, stopProcess } from "../platform/processes.ts"
import type { ShutdownStage } from "../platform/shutdownStages.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

// -- its files (docs/reference/compute_ctl.md#rsyslog-and-audit-records); whatever is put into them stays inside its
// quotes

/** A quoted constant. Beyond printable ASCII nothing is let in: no version of the reader agrees on more. */
const quoted = (text: string): string => `"${text.replaceAll(/["\\]/g, "\\$&").replaceAll(/[^\x20-\x7e]/g, "?")}"`

/** A quoted value of an expression, where dollars are no variables. Control characters are not let in. */
const expression = (text: string): string =>
  `'${text
    .toWellFormed()
    .replaceAll(/['\\]/g, "\\$&")
    .replaceAll(/\p{Cc}/gu, "?")}'`

export interface AuditExport {
  readonly target: HostPort
  readonly tls: boolean
  /** Where Postgres writes its files of audit records. */
  readonly logDirectory: string
  /** Where rsyslogd remembers how far it has read. */
  readonly workDirectory: string
  readonly endpointId: string
  readonly projectId: string
}

/** Of a record that is sent; what is longer is cut. */
const mostBytes = 65_536
/**
 * What rsyslogd reads of a record, and what it sends of a message: it would cut that in the middle of the JSON. In JSON
 * a byte may become six, and the rest of the line is shorter than the difference.
 */
const maxMessageSize = 8 * mostBytes
const cutNote = ` [cut: the record is longer than ${mostBytes} bytes]`

/** Up to the last whole character of UTF-8, byte by byte, as rsyslogd matches in its locale C. */
const wholeCharacters =
  "^.*([\\x01-\\x7f]|[\\xc2-\\xdf][\\x80-\\xbf]|[\\xe0-\\xef][\\x80-\\xbf][\\x80-\\xbf]|" +
  "[\\xf0-\\xf4][\\x80-\\xbf][\\x80-\\xbf][\\x80-\\xbf])"

/** Records that wait on disk while the receiver is away. */
const mostWaiting = 100_000
const mostWaitingBytes = "256m"

/** Authorities that a receiver's certificate is checked against. */
const authorities = "/etc/ssl/certs/ca-certificates.crt"

const globalParameters = ({ tls, workDirectory }: AuditExport): ReadonlyArray<string> => [
  `workDirectory=${quoted(workDirectory)}`,
  `maxMessageSize="${maxMessageSize}"`,
  ...(tls ? [`defaultNetstreamDriverCAFile=${quoted(authorities)}`] : [])
]

const tlsParameters = ({ host }: HostPort): ReadonlyArray<string> => [
  `streamDriver="gtls"`,
  `streamDriverMode="1"`,
  `streamDriverAuthMode="x509/name"`,
  `streamDriverPermittedPeers=${quoted(host)}`
]

/** As Postgres's `log_line_prefix` of audit records begins: `2026-01-31 23:59:59.999 GMT,`. */
const recordStart =
  "^[[:digit:]]{4}-[[:digit:]]{2}-[[:digit:]]{2} " +
  "[[:digit:]]{2}:[[:digit:]]{2}:[[:digit:]]{2}\\\\.[[:digit:]]{3} GMT,"

/**
 * One JSON record `{endpoint_id, project_id, msg}` per audit record, in an RFC 5424 line. A record of several lines
 * is one message, because only a time stamp begins a new one. The JSON is valid whatever a record holds: bytes that are
 * no UTF-8 become blanks, and what is too long is cut and says so.
 *
 * Nothing is lost when rsyslogd is killed, and at most the record that is being sent comes twice: how far the files are
 * read is noted record by record, and what was read waits in a queue on disk.
 */
export const auditText = (audit: AuditExport): string =>
  `# Written by compute_ctl; changes are lost.
module(load="imfile")
module(load="mmutf8fix")
global(${globalParameters(audit).join(" ")})

template(name="compute_audit_record" type="list") {
  constant(value="<")
  property(name="pri")
  constant(value=">1 ")
  property(name="timestamp" dateFormat="rfc3339")
  constant(value=" ")
  property(name="hostname")
  constant(value=" ")
  property(name="app-name")
  constant(value=" - - - {\\"endpoint_id\\":\\"")
  property(name="$.endpoint_id" format="json")
  constant(value="\\",\\"project_id\\":\\"")
  property(name="$.project_id" format="json")
  constant(value="\\",\\"msg\\":\\"")
  property(name="$.msg" format="json")
  constant(value="\\"}\\n")
}

ruleset(name="compute_audit" queue.type="Direct") {
  action(type="mmutf8fix" mode="utf-8")
  if strlen($msg) > ${mostBytes} then {
    set $.msg = re_extract(substring($msg, 0, ${mostBytes}), "${wholeCharacters}", 0, 0, "") & ${quoted(cutNote)};
  } else {
    set $.msg = $msg;
  }
  set $.endpoint_id = ${expression(audit.endpointId)};
  set $.project_id = ${expression(audit.projectId)};
  action(
    type="omfwd"
    target=${quoted(audit.target.host)}
    port="${audit.target.port}"
    protocol="tcp"
    template="compute_audit_record"
    queue.type="Disk"
    queue.filename="compute_audit"
    queue.spoolDirectory=${quoted(audit.workDirectory)}
    queue.size="${mostWaiting}"
    queue.maxDiskSpace="${mostWaitingBytes}"
    queue.checkpointInterval="1"
    action.resumeRetryCount="-1"
    action.resumeInterval="5"
    action.resumeIntervalMax="60"
${
  audit.tls
    ? tlsParameters(audit.target)
        .map((line) => `    ${line}\n`)
        .join("")
    : ""
}  )
}

input(
  type="imfile"
  file=${quoted(`${audit.logDirectory}/*.log`)}
  tag="pgaudit_log"
  severity="info"
  facility="local5"
  startmsg.regex="${recordStart}"
  escapeLF="off"
  readTimeout="2"
  persistStateInterval="1"
  ruleset="compute_audit"
)
`

/** Postgres's log, as it arrives by syslog. */
export const exportText = (target: HostPort): string =>
  `# Written by compute_ctl; changes are lost.
if $programname == "postgres" then {
  action(
    type="omfwd"
    target=${quoted(target.host)}
    port="${target.port}"
    protocol="tcp"
    template="RSYSLOG_SyslogProtocol23Format"
    action.resumeRetryCount="3"
    queue.type="linkedList"
    queue.size="1000"
  )
}
`

// -- process

export interface RsyslogPlace {
  /** Its folder of additional files. */
  readonly directory: string
  readonly workDirectory: string
  /** The first one that names a live rsyslogd counts; when none does and `search`, every process is considered. */
  readonly pidFiles: ReadonlyArray<string>
  readonly search: boolean
  /** How long a restarted rsyslogd may take to be there. */
  readonly restartWithin: Duration.Duration
}

export const rsyslogPlace: RsyslogPlace = {
  directory: "/etc/rsyslog.d",
  workDirectory: "/var/log/rsyslog",
  pidFiles: ["/var/run/rsyslogd/rsyslogd.pid", "/run/rsyslogd.pid"],
  search: true,
  restartWithin: Duration.seconds(5)
}

/** `host:port` of the receivers of audit records, as the environment has them; empty is the same as absent. */
export interface AuditEndpoints {
  readonly plain: string | null
  readonly tls: string | null
}

const unusable = (detail: string) => new SidecarUnusable({ sidecar: "rsyslogd", detail })

const everyProcess = (): ReadonlyArray<OtherProcess> => {
  try {
    return fs
      .readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .flatMap((name) => processOf(Number(name)) ?? [])
  } catch {
    return []
  }
}

const findRsyslog = ({ pidFiles, search }: RsyslogPlace): OtherProcess | null => {
  for (const file of pidFiles) {
    const found = processInFile(file, "rsyslogd")
    if (found !== null) return found
  }
  return search ? (everyProcess().find(({ name }) => name === "rsyslogd") ?? null) : null
}

const stages: ReadonlyArray<ShutdownStage> = [
  { signal: "SIGTERM", grace: Duration.seconds(3), meaning: "send what is left and leave" },
  { signal: "SIGKILL", grace: Duration.seconds(2), meaning: "the kernel does it" }
]

const checkEvery = Duration.millis(50)

/** A new rsyslogd runs, with the files as they are now. */
const restartRsyslog = Effect.fn("Rsyslog.restart")(function* (place: RsyslogPlace) {
  const before = findRsyslog(place)
  if (before !== null) yield* stopProcess(before, stages)
  const findRestarted = Effect.suspend(() => {
    const found = findRsyslog(place)
    const fresh = found !== null && (found.pid !== before?.pid || found.startedAt !== before.startedAt)
    return fresh
      ? Effect.succeed(found)
      : Effect.fail(unusable(before === null ? "it does not run" : "it was not started again"))
  })
  const checks = Math.ceil(Duration.toMillis(place.restartWithin) / Duration.toMillis(checkEvery))
  const found = yield* Effect.retry(findRestarted, { schedule: Schedule.spaced(checkEvery), times: checks })
  yield* Effect.logInfo(`rsyslogd runs with new files (pid ${found.pid})`)
})

/** A file that no rsyslogd has read is put back as it was: else the next attempt would find nothing to change. */
const put = Effect.fnUntraced(function* (place: RsyslogPlace, name: string, content: string) {
  const file = path.join(place.directory, name)
  const before = yield* Effect.sync(() => (fs.existsSync(file) ? fs.readFileSync(file) : null))
  const wanted = { path: file, content, mode: 0o644, owner: null }
  if (!(yield* replaceFile(wanted))) return
  yield* restartRsyslog(place).pipe(
    Effect.tapError(() =>
      before === null
        ? Effect.sync(() => fs.rmSync(file, { force: true }))
        : Effect.ignore(replaceFile({ ...wanted, content: before }))
    )
  )
})

const compliance: ReadonlySet<ParsedSpec["auditLevel"]> = new Set<ParsedSpec["auditLevel"]>([
  "Hipaa",
  "Extended",
  "Full"
])

/** Levels whose records leave the machine. */
export const exportsAudit = (spec: ParsedSpec): boolean => compliance.has(spec.auditLevel)

/** Who runs it: whoever dropped its privileges is not who its folder in /proc belongs to. */
const ownerOf = ({ pid }: OtherProcess): Owner | null => {
  try {
    const status = fs.readFileSync(`/proc/${pid}/status`, "utf8")
    const idOf = (name: string) => new RegExp(`^${name}:\\s+\\d+\\s+(\\d+)`, "m").exec(status)?.[1]
    const [uid, gid] = [idOf("Uid"), idOf("Gid")]
    return uid === undefined || gid === undefined ? null : { uid: Number(uid), gid: Number(gid) }
  } catch {
    return null
  }
}

/**
 * Where rsyslogd keeps how far it has read, and what waits: without one it would be whatever folder it was started in.
 * Beside its files, where the usual place may not be made by us.
 */
const stateDirectory = Effect.fnUntraced(function* (place: RsyslogPlace) {
  const rsyslogd = process.geteuid?.() === 0 ? findRsyslog(place) : null
  const owner = rsyslogd === null ? null : ownerOf(rsyslogd)
  const made = yield* Effect.result(makeFolder(place.workDirectory, owner))
  if (Result.isSuccess(made)) return place.workDirectory
  const beside = path.join(place.directory, "compute_audit.state")
  yield* makeFolder(beside, owner)
  yield* Effect.logWarning(`${explain(made.failure)}; what rsyslogd has read of audit records is noted in ${beside}`)
  return beside
})

/** At a start only. The start fails with it: a compute that must be audited does not run without. */
export const exportAudit = Effect.fn("Rsyslog.exportAudit")(function* (
  place: RsyslogPlace,
  spec: ParsedSpec,
  endpoints: AuditEndpoints,
  pgdata: string
): Effect.fn.Return<void, Failure> {
  if (!exportsAudit(spec)) return
  const what = `audit_log_level ${spec.auditLevel}`
  const endpoint = endpoints.tls || endpoints.plain
  if (!endpoint) {
    return yield* new NotSupported({
      what,
      because: "AUDIT_LOGGING_ENDPOINT and AUDIT_LOGGING_TLS_ENDPOINT are both empty"
    })
  }
  const target = parseServerAddress(endpoint)
  if (Result.isFailure(target)) {
    const name = endpoints.tls ? "AUDIT_LOGGING_TLS_ENDPOINT" : "AUDIT_LOGGING_ENDPOINT"
    return yield* new NotSupported({ what, because: `${name} is not usable: ${target.failure}` })
  }
  yield* put(
    place,
    "compute_audit_rsyslog.conf",
    auditText({
      target: target.success,
      tls: Boolean(endpoints.tls),
      logDirectory: path.join(pgdata, "log"),
      workDirectory: yield* stateDirectory(place),
      endpointId: spec.endpointId ?? "",
      projectId: spec.projectId ?? ""
    })
  )
})

/** At a start and with every later spec. A file that is no longer asked for stays, as it does in the reference. */
export const exportLog = Effect.fn("Rsyslog.exportLog")(function* (
  place: RsyslogPlace,
  spec: ParsedSpec
): Effect.fn.Return<void, Failure> {
  if (spec.logsExportHost === null) return
  yield* put(place, "postgres_logs.conf", exportText(spec.logsExportHost))
})
