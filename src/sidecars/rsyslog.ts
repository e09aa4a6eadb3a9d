/**
 * The rsyslogd of this machine: files for it, and a restart when they changed, because it reads them only then.
 *
 * Somebody else starts it again (an init system); it is asked to leave by its own pid, and nobody with another name
 * is ever signalled.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as fs from "node:fs"
import * as path from "node:path"
import { type Failure, NotSupported, SidecarUnusable } from "../errors/Failure.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { dismiss, processInFile, processOf, type Stranger } from "../platform/processes.ts"
import { replaceFile } from "../platform/files.ts"
import { auditText, exportText, parseTarget } from "./rsyslogText.ts"
import type { Rung } from "../platform/stopLadder.ts"

export interface RsyslogPlace {
  /** Its folder of additional files. */
  readonly directory: string
  readonly workDirectory: string
  /** The first one that names a live rsyslogd counts; when none does and `search`, every process is looked at. */
  readonly pidFiles: ReadonlyArray<string>
  readonly search: boolean
  /** How long a restarted rsyslogd may take to be there. */
  readonly patience: Duration.Duration
}

export const rsyslogPlace: RsyslogPlace = {
  directory: "/etc/rsyslog.d",
  workDirectory: "/var/log/rsyslog",
  pidFiles: ["/var/run/rsyslogd/rsyslogd.pid", "/run/rsyslogd.pid"],
  search: true,
  patience: Duration.seconds(5)
}

/** `host:port` of the receivers of audit records, as the environment has them; empty is the same as absent. */
export interface AuditEndpoints {
  readonly plain: string | null
  readonly tls: string | null
}

const unusable = (detail: string) => new SidecarUnusable({ sidecar: "rsyslogd", detail })

const everyProcess = (): ReadonlyArray<Stranger> => {
  try {
    return fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((name) => processOf(Number(name)) ?? [])
  } catch {
    return []
  }
}

const findRsyslog = ({ pidFiles, search }: RsyslogPlace): Stranger | null => {
  for (const file of pidFiles) {
    const found = processInFile(file, "rsyslogd")
    if (found !== null) return found
  }
  return search ? everyProcess().find(({ name }) => name === "rsyslogd") ?? null : null
}

const ladder: ReadonlyArray<Rung> = [
  { signal: "SIGTERM", grace: Duration.seconds(3), meaning: "send what is left and leave" },
  { signal: "SIGKILL", grace: Duration.seconds(2), meaning: "the kernel does it" }
]

const lookEvery = Duration.millis(50)

/** A new rsyslogd runs, with the files as they are now. */
export const restartRsyslog = Effect.fn("Rsyslog.restart")(function*(place: RsyslogPlace) {
  const before = findRsyslog(place)
  if (before !== null) yield* dismiss(before, ladder)
  const look = Effect.suspend(() => {
    const found = findRsyslog(place)
    const fresh = found !== null && (found.pid !== before?.pid || found.startedAt !== before.startedAt)
    return fresh ? Effect.succeed(found) : Effect.fail(unusable(before === null ? "it does not run" : "it was not started again"))
  })
  const looks = Math.ceil(Duration.toMillis(place.patience) / Duration.toMillis(lookEvery))
  const found = yield* Effect.retry(look, { schedule: Schedule.spaced(lookEvery), times: looks })
  yield* Effect.logInfo(`rsyslogd runs with new files (pid ${found.pid})`)
})

/** A file that no rsyslogd took up is taken back, or it would look taken up to whoever tries again. */
const put = Effect.fnUntraced(function*(place: RsyslogPlace, name: string, content: string) {
  const file = path.join(place.directory, name)
  const before = yield* Effect.sync(() => fs.existsSync(file) ? fs.readFileSync(file) : null)
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

const compliance: ReadonlySet<ParsedSpec["auditLevel"]> = new Set<ParsedSpec["auditLevel"]>(["Hipaa", "Extended", "Full"])

/** Levels whose records leave the machine. */
export const exportsAudit = (spec: ParsedSpec): boolean => compliance.has(spec.auditLevel)

/** At a start only. The start fails with it: a compute that must be audited does not run without. */
export const exportAudit = Effect.fn("Rsyslog.exportAudit")(function*(
  place: RsyslogPlace,
  spec: ParsedSpec,
  endpoints: AuditEndpoints,
  pgdata: string
): Effect.fn.Return<void, Failure> {
  if (!exportsAudit(spec)) return
  const what = `audit_log_level ${spec.auditLevel}`
  const endpoint = endpoints.tls || endpoints.plain
  if (!endpoint) {
    return yield* new NotSupported({ what, because: "AUDIT_LOGGING_ENDPOINT and AUDIT_LOGGING_TLS_ENDPOINT are both empty" })
  }
  const target = parseTarget(endpoint)
  if (Result.isFailure(target)) {
    const name = endpoints.tls ? "AUDIT_LOGGING_TLS_ENDPOINT" : "AUDIT_LOGGING_ENDPOINT"
    return yield* new NotSupported({ what, because: `${name} is not usable: ${target.failure}` })
  }
  yield* put(place, "compute_audit_rsyslog.conf", auditText({
    target: target.success,
    tls: Boolean(endpoints.tls),
    logDirectory: path.join(pgdata, "log"),
    workDirectory: place.workDirectory,
    endpointId: spec.endpointId ?? "",
    projectId: spec.projectId ?? ""
  }))
})

/** At a start and with every later spec. A file that is no longer asked for stays, as it does in the reference. */
export const exportLog = Effect.fn("Rsyslog.exportLog")(function*(
  place: RsyslogPlace,
  spec: ParsedSpec
): Effect.fn.Return<void, Failure> {
  if (spec.logsExportHost === null) return
  const target = parseTarget(spec.logsExportHost)
  if (Result.isFailure(target)) {
    return yield* new NotSupported({ what: "logs_export_host", because: target.failure })
  }
  yield* put(place, "postgres_logs.conf", exportText(target.success))
})
