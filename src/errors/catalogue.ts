/**
 * The catalogue of errors: of each failure what it means and what it comes from, beside what the policy says of it; as
 * text for a terminal (`compute_ctl explain`) and as `docs/errors.md`. Pure.
 *
 * A failure added to `Failure` without a row here does not compile.
 */
import type { Failure } from "./Failure.ts"
import { type ErrorPolicy, errorPolicies } from "./policy.ts"

interface Entry {
  readonly meaning: string
  /** What it comes from, as a rule. */
  readonly cause: string
}

const entries: Record<Failure["_tag"], Entry> = {
  SpecInvalid: {
    meaning: "The spec could be read, but does not say what a spec must say. Nothing was done with it.",
    cause: "A field is missing, has the wrong type or contradicts another. Each problem has its path in the message."
  },
  SpecConflict: {
    meaning: "The spec is valid, but not for this compute. Nothing was done with it, and the compute goes on.",
    cause: "Its tenant, timeline or mode is another than the one that the compute began with."
  },
  SpecUnreadable: {
    meaning: "The spec could not be read at all.",
    cause: "The file of -S or -c does not exist, may not be read, is no JSON or is too large."
  },
  ControlPlaneFailed: {
    meaning: "The control plane of -p gave no spec.",
    cause: "It cannot be reached, does not know the compute of -i, or does not take the token."
  },
  PostgresUnusable: {
    meaning: "There is no Postgres, or it is one that cannot do what is asked.",
    cause: "None is installed, its version is not supported, its programs are incomplete, or its user cannot reach it."
  },
  RunAsInvalid: {
    meaning: "Postgres cannot run as the user of --run-as.",
    cause: "There is no such user, it is root, or only root could become that user."
  },
  SpawnFailed: {
    meaning: "A program that the compute needs could not be started.",
    cause: "It is not there, may not be executed, or the limit of processes or memory is reached."
  },
  CommandFailed: {
    meaning: "A program that the compute needs ran and failed.",
    cause: "Its own last words are in the message."
  },
  FileFailed: {
    meaning: "A file or folder could not be made, read, written or moved.",
    cause: "The disk is full or broken, the file system is read-only, or owner and mode of the path forbid it."
  },
  CgroupUnusable: {
    meaning: "Postgres cannot run in the cgroup that the autoscaler's limits need.",
    cause: "There is no such cgroup, it has no memory statistics, or Postgres's user may not enter it."
  },
  TimedOut: {
    meaning: "Something outside did not answer in time.",
    cause: "The other side is overloaded or gone, or the network between loses packets."
  },
  WireFailed: {
    meaning: "A connection (to Postgres, a pageserver or a safekeeper) was refused, or it broke.",
    cause: "The other side is not there, is ending, or said no; its words and SQLSTATE are in the message."
  },
  PageserverRefused: {
    meaning: "The pageserver said no, and will say so again.",
    cause: "The token, the tenant or the timeline is wrong, or the LSN is older than what the pageserver has kept."
  },
  SyncSafekeepersFailed: {
    meaning: "The safekeepers did not agree on where the acknowledged WAL ends, so Postgres was not started.",
    cause: "Fewer than a quorum of them answer, or one of them refuses; the message has the answer of each."
  },
  BasebackupFailed: {
    meaning: "No whole basebackup could be had, so there is no PGDATA.",
    cause: "The pageserver is gone, restarts, or failed while it made the archive."
  },
  ArchiveInvalid: {
    meaning: "A basebackup arrived, but it is not an archive that is unpacked.",
    cause: "It ends too early, is damaged, or has paths that lead out of PGDATA."
  },
  TimelineBusy: {
    meaning: "Another compute runs on this timeline. It was left alone.",
    cause: "Its predecessor has not ended yet, or two were started for one timeline."
  },
  PgdataBusy: {
    meaning: "Somebody else uses this data directory. It was left alone.",
    cause: "Another compute or a Postgres that was started by hand runs there."
  },
  LockUnavailable: {
    meaning: "No lock can keep a second compute out, so none was started.",
    cause: "The file system has no flock (some network file systems), or no program is there that can take it."
  },
  BranchRefused: {
    meaning: "No branch of a timeline was made. Nothing was changed: the timeline it was to be of is as it was.",
    cause:
      "The name is taken, there is no such timeline to branch, or the storage does not hold the LSN that was asked."
  },
  StorageMissing: {
    meaning: "The storage was to be there already (--require-existing), and is not.",
    cause: "The volume is not mounted, or --storage or -D names another folder."
  },
  StorageForeign: {
    meaning: "What lies on the volume is not what the spec is about. Nothing was touched.",
    cause: "Another tenant's or timeline's volume is mounted, or a cluster that no compute made."
  },
  StorageDamaged: {
    meaning: "The storage is not in a state from which a start can succeed.",
    cause: "Files of it are gone or changed, or the disk returned something else than was written."
  },
  NotSupported: {
    meaning: "The spec asks for something that this storage or this Postgres cannot give.",
    cause: "The message names what, and why."
  },
  PostmasterNotReady: {
    meaning: "Postgres was started and did not become ready.",
    cause:
      "A setting, a library of shared_preload_libraries or the recovery failed; its last records are in the message."
  },
  PostmasterDied: {
    meaning: "Postgres left without having been asked to. What was acknowledged is not lost.",
    cause: "It was killed (often for memory), crashed, or somebody stopped it; the message has its last records."
  },
  PostmasterForced: {
    meaning:
      "Postgres did not stop in order and was made to. What was acknowledged is not lost; the next start recovers.",
    cause: "Its last checkpoint took longer than the stop was given, or a process of it hung."
  },
  PromotionFailed: {
    meaning: "The replica was not made a primary, and goes on as a replica.",
    cause: "It has not replayed enough WAL, its storage failed, or Postgres refused; the message says which."
  },
  ApplyFailed: {
    meaning: "Roles, databases or extensions are not as the spec says. What could be done is done.",
    cause: "Postgres refused one or more statements; `GET /apply` has each of them."
  },
  ListenFailed: {
    meaning: "A port of compute_ctl itself could not be had.",
    cause: "Another process listens there, or this user may not have ports below 1024."
  },
  PostgresPortTaken: {
    meaning: "Another server answers on the port of our Postgres, which was not started.",
    cause: "A Postgres of the system or another compute runs on that port."
  },
  ActorGaveUp: {
    meaning: "A part of compute_ctl failed more often than it may, and the compute ended in order.",
    cause: "The causes in the message say what failed each time."
  },
  Defect: {
    meaning: "A bug in compute_ctl was caught. What it was doing failed; Postgres was not touched by it.",
    cause: "A case that nobody thought of; the log has the stack."
  },
  ExtensionUnknown: {
    meaning: "The spec does not let anybody have this extension, or does not know it.",
    cause: "It is in neither public_extensions nor custom_extensions of remote_extensions."
  },
  ExtensionsUnavailable: {
    meaning: "Extensions cannot be fetched.",
    cause: "Nobody said from where (-r), or there is no spec yet that says which."
  },
  ExtensionFailed: {
    meaning: "An extension could not be fetched or put in its place. Nothing of it is left behind.",
    cause: "The store does not answer or has no such archive, or the archive would overwrite files of others."
  },
  LfcBusy: {
    meaning: "The local file cache is being prewarmed or offloaded already.",
    cause: "An earlier request is still being done."
  },
  SidecarUnusable: {
    meaning: "pgbouncer, local_proxy or rsyslogd is not there, or does not take its configuration. Postgres serves on.",
    cause: "It does not run on this machine, or refused a setting; the message has its words."
  },
  CertificateUnusable: {
    meaning: "A TLS certificate and its key cannot be used. Nothing was replaced.",
    cause: "They are no PEM, do not belong together, or the key has a passphrase."
  },
  Abandoned: {
    meaning: "The compute was asked to end before this was done.",
    cause: "A signal or `POST /terminate` came while it was under way."
  },
  Superseded: {
    meaning: "A later spec took this one's place before it was begun.",
    cause: "Two requests came shortly after each other."
  }
}

const catalogue = Object.entries(entries)
  .map(([tag, entry]) => ({ ...errorPolicies[tag as Failure["_tag"]], ...entry }))
  .sort((one, other) => (one.code < other.code ? -1 : 1))

export const errorCodes: ReadonlyArray<string> = catalogue.map(({ code }) => code)

const whileRunning: Record<ErrorPolicy["whileRunning"], string> = {
  stay: "the compute stays up and says so",
  end: "the compute ends in order, for a fresh start",
  unchanged: "nothing: the compute is as it was"
}

const sentence = (text: string): string => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`

/** `null`: there is no such code. */
export const explainCode = (code: string): string | null => {
  const found = catalogue.find((one) => one.code === code)
  if (found === undefined) return null
  return [
    found.code,
    "",
    `  ${found.meaning}`,
    "",
    `  Cause          ${found.cause}`,
    `  Remedy         ${sentence(found.hint)}`,
    `  HTTP status    ${found.httpStatus}`,
    `  Exit code      ${found.exitCode}, when it ends the compute`,
    `  While it runs  ${whileRunning[found.whileRunning]}`,
    ...(found.retry ? ["  Tried again    where there is a schedule for it: it may pass by itself"] : []),
    ""
  ].join("\n")
}

/** `docs/errors.md`, and what `compute_ctl explain` prints without a code. */
export const errorsPage = (): string =>
  [
    "# Errors",
    "",
    "Every failure that compute_ctl knows, by the `code` that HTTP answers carry. Printed by `compute_ctl explain`;",
    "`compute_ctl explain CODE` prints one. The exit code is that of the process when the failure ends the compute,",
    "unless Postgres left with one of its own. While it runs: what a later spec that fails so does to the compute.",
    "",
    ...catalogue.flatMap((one) => [
      `## ${one.code}`,
      "",
      one.meaning,
      "",
      `- **Cause:** ${one.cause}`,
      `- **Remedy:** ${sentence(one.hint)}`,
      `- **HTTP status:** ${one.httpStatus}`,
      `- **Exit code:** ${one.exitCode}`,
      `- **While it runs:** ${whileRunning[one.whileRunning]}`,
      ...(one.retry ? ["- It may pass by itself, and is tried again where there is a schedule for it."] : []),
      ""
    ])
  ].join("\n")
