/**
 * The error policy: what each failure means for the compute, for its HTTP callers and for its exit code, and what a
 * person can do; and a failure as text. Pure.
 *
 * A failure added to `Failure` without a row here does not compile.
 */
import * as Result from "effect/Result"
import { codeOf, messageOf } from "./errno.ts"
import type { ExitStatus, Failure } from "./Failure.ts"
import { redactUrls } from "./redactUrls.ts"

export interface ErrorPolicy {
  /** Stable, for clients: it never changes once published. */
  readonly code: string
  readonly httpStatus: number
  readonly hint: string
  /** May it pass by itself, so that who has a schedule for it tries again? */
  readonly retry: boolean
  /**
   * What a later spec that fails with it does to the compute that runs: it stays up and says so, for someone else must
   * act; or it ends, so that the orchestrator starts a fresh one; or it is as it was, for nothing was done with the
   * spec. A start that fails always ends.
   */
  readonly whileRunning: "stay" | "end" | "unchanged"
  /** Of the process, when it ends the compute and Postgres left in order. */
  readonly exitCode: number
}

// Exit codes of the program (docs/reference/compute_ctl.md#exit-code): Postgres's own, 1 on failure, 2 on a usage
// error.

export const usageError = 2
export const failed = 1

const row = (
  code: string,
  httpStatus: number,
  hint: string,
  other: Partial<Pick<ErrorPolicy, "retry" | "whileRunning" | "exitCode">> = {}
): ErrorPolicy => ({ code, httpStatus, hint, retry: false, whileRunning: "stay", exitCode: failed, ...other })

export const errorPolicies: Record<Failure["_tag"], ErrorPolicy> = {
  SpecInvalid: row("spec_invalid", 400, "correct the spec; `compute_ctl validate SPEC` checks one offline"),
  SpecConflict: row(
    "spec_conflict",
    409,
    "send this compute its own tenant, timeline and mode; POST /promote makes a primary of a replica",
    { whileRunning: "unchanged" }
  ),
  SpecUnreadable: row("spec_unreadable", 500, "check that the file or address exists and may be read by this user"),
  ControlPlaneFailed: row("control_plane_failed", 500, "check -p, -i and NEON_CONTROL_PLANE_TOKEN"),
  PostgresUnusable: row("postgres_unusable", 500, "give a working Postgres with -b"),
  RunAsInvalid: row("run_as_invalid", 500, "name an existing user other than root with --run-as"),
  SpawnFailed: row("spawn_failed", 500, "check that the program exists and is executable by this user"),
  CommandFailed: row("command_failed", 500, "the program's own words above say why", { retry: true }),
  FileFailed: row("file_failed", 500, "check owner, mode and free space of the path"),
  CgroupUnusable: row(
    "cgroup_unusable",
    500,
    "name a cgroup v2 with memory.stat whose cgroup.procs Postgres's user may write"
  ),
  TimedOut: row("timed_out", 504, "the other side is slow or gone; look at its own log", { retry: true }),
  WireFailed: row("connection_failed", 500, "the other side's answer above says why", { retry: true }),
  PageserverRefused: row("pageserver_refused", 500, "the pageserver's own words above say why"),
  SyncSafekeepersFailed: row("settle_failed", 500, "bring a quorum of safekeepers back; see the causes for each"),
  BasebackupFailed: row("basebackup_failed", 500, "look at the pageserver's log for this tenant and timeline"),
  ArchiveInvalid: row("archive_invalid", 500, "the pageserver sent a broken archive; look at its log", { retry: true }),
  TimelineBusy: row("timeline_busy", 409, "stop the other compute, or use another timeline_id"),
  PgdataBusy: row(
    "pgdata_busy",
    409,
    "stop it, or give this compute a data directory of its own with -D; nothing in it was touched"
  ),
  LockUnavailable: row(
    "lock_unavailable",
    500,
    "use a file system with flock, and have flock, busybox, perl or python3 on the PATH; or see --allow-unfenced"
  ),
  StorageMissing: row(
    "storage_missing",
    500,
    "mount the volume; without --require-existing a new and empty timeline is made there"
  ),
  BranchRefused: row("branch_refused", 409, "the detail above says what can be had instead"),
  StorageForeign: row(
    "storage_foreign",
    409,
    "give the volume of the spec's timeline with -D, or correct tenant_id and timeline_id; nothing was touched"
  ),
  StorageDamaged: row("storage_damaged", 500, "do not delete anything; the detail above names what is missing"),
  NotSupported: row("not_supported", 422, "leave it out of the spec"),
  PostmasterNotReady: row("postgres_not_ready", 500, "Postgres's own log above says why"),
  PostmasterDied: row("postgres_died", 500, "Postgres's own log above says why; a fresh start recovers", {
    whileRunning: "end"
  }),
  PostmasterForced: row(
    "postgres_stop_forced",
    500,
    "Postgres's own log says what it waited for: a slow disk under its last checkpoint, as a rule"
  ),
  PromotionFailed: row(
    "promotion_failed",
    500,
    "ask again once the cause above is gone; what is done is not done twice"
  ),
  ApplyFailed: row("apply_failed", 500, "each failed operation is listed; correct the spec and send it again"),
  ListenFailed: row(
    "listen_failed",
    500,
    "another process has the port; choose one with --external-http-port or --http-port"
  ),
  PostgresPortTaken: row(
    "postgres_port_taken",
    500,
    "stop what listens there, or give this compute a port of its own with -C"
  ),
  ActorGaveUp: row("actor_gave_up", 500, "this is a fault in compute_ctl or its host; the causes are above", {
    whileRunning: "end"
  }),
  Defect: row("defect", 500, "this is a bug in compute_ctl: report it with the causes above; a new spec may be tried"),
  ExtensionUnknown: row("extension_unknown", 404, "add it to the spec's remote_extensions"),
  ExtensionsUnavailable: row("extensions_unavailable", 412, "give -r, and remote_extensions in the spec"),
  ExtensionFailed: row("extension_failed", 500, "look at the store of extensions; ask again to try again"),
  LfcBusy: row("lfc_busy", 429, "wait until it is done, or cancel it"),
  SidecarUnusable: row("sidecar_unusable", 500, "check that it runs on this machine, and its own log"),
  CertificateUnusable: row(
    "certificate_unusable",
    500,
    "put a PEM certificate and its own PEM key, without a passphrase, in place"
  ),
  Abandoned: row("abandoned", 503, "the compute is ending; ask its successor", { exitCode: 0 }),
  Superseded: row("superseded", 409, "nothing: the later spec stands in its place")
}

export const policyOf = (failure: Failure): ErrorPolicy => errorPolicies[failure._tag]

// Text for `/status`, logs and the terminal.

/** A cause chain longer than this is cut: a cycle must not hang the report of an error. */
const maxCauses = 12

const describe = (error: unknown): string => {
  if (error instanceof Error) return error.message === "" ? error.name : messageOf(error)
  if (typeof error === "string") return error
  // A cause may be anything, also what JSON can not say; the report of an error must not be the next error.
  return Result.getOrElse(
    Result.try(() => JSON.stringify(error) ?? String(error)),
    () => Object.prototype.toString.call(error)
  )
}

/** From the outermost sentence to the root cause. A sentence that the one before it is, or ends with, is left out. */
export const causesOf = (error: unknown): ReadonlyArray<string> => {
  const chain: Array<string> = []
  let current: unknown = error
  while (current !== undefined && current !== null && chain.length < maxCauses) {
    const text = redactUrls(describe(current))
    const before = chain.at(-1)
    if (before !== text && before?.endsWith(`: ${text}`) !== true) chain.push(text)
    current = typeof current === "object" && "cause" in current ? current.cause : undefined
  }
  return chain
}

/**
 * What to do about it.
 *
 * @example
 * ```ts
 * const advice = (failure: Failure) => `${explain(failure)}; ${hintOf(failure)}`
 * ```
 */
export const hintOf = (failure: Failure): string => {
  const own = "hint" in failure ? failure.hint : ""
  const code = failure._tag === "FileFailed" ? codeOf(failure.cause) : null
  return own || (code === "EIO" || code === "EUCLEAN" ? brokenDisk : errorPolicies[failure._tag].hint)
}

const brokenDisk = "the disk itself fails there: the kernel's log (dmesg) says more; restore what is lost from a copy"

/**
 * One line: `sentence: cause: cause`. What `/status` carries as `error`.
 *
 * @example
 * ```ts
 * const text = (failure: Failure) => explain(failure)
 * ```
 */
export const explain = (failure: Failure): string => causesOf(failure).join(": ")

/**
 * A Postgres killed by a signal has no code of its own: 1. An end in order of a compute that failed: as the failure's
 * policy says.
 */
export const exitCodeOf = (exit: ExitStatus | null, failure: Failure | null): number => {
  if (exit?._tag === "Code" && exit.code !== 0) return exit.code
  return failure !== null ? policyOf(failure).exitCode : exit?._tag === "Signal" ? failed : 0
}
