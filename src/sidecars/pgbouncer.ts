/**
 * The pgbouncer of this machine: its ini is edited, and it is told to read it again.
 *
 * Never starts it and never restarts it. What a running pgbouncer did not take up is taken back, so that the next
 * spec tries again. Its password is in no message.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as fs from "node:fs/promises"
import type { Tls } from "../spec/ComputeConfig.ts"
import { type Failure, FileFailed, SidecarUnusable, type TimedOut, type WireFailed } from "../errors/Failure.ts"
import { dismiss, processInFile } from "../platform/processes.ts"
import { replaceFile } from "../platform/files.ts"
import { connect } from "../pgwire/Wire.ts"
import { setInIni } from "./iniText.ts"
import { pgbouncerEntries, type PgbouncerPlace, pgbouncerSection, unfitEntries } from "./pgbouncer2.ts"
import type { Rung } from "../platform/stopLadder.ts"

/** It does not run. When it does, it reads what is in the ini then. */
function isAway(failure: WireFailed | TimedOut): boolean {
  return failure._tag === "WireFailed" && failure.operation === "connect to"
}

/** Four attempts in all: it may be starting just now. */
const connectAgain = { schedule: Schedule.spaced(Duration.seconds(1)), times: 3, while: isAway }
const connectWithin = Duration.seconds(3)
const commandWithin = Duration.seconds(10)

const unusable = (detail: string) => new SidecarUnusable({ sidecar: "pgbouncer", detail })

const readIni = (path: string) =>
  Effect.tryPromise({
    try: () => fs.readFile(path, "utf8"),
    catch: (cause) =>
      cause instanceof Error && "code" in cause && cause.code === "ENOENT"
        ? unusable(`there is no ${path}`)
        : new FileFailed({ operation: "read", path, cause })
  })

/** The settings and the certificate are in the ini, and pgbouncer has been told; `false`: they were there already. */
export const tunePgbouncer = Effect.fn("Pgbouncer.tune")(function*(
  place: PgbouncerPlace,
  settings: ReadonlyMap<string, string>,
  tls: Tls | null
): Effect.fn.Return<boolean, Failure> {
  const entries = pgbouncerEntries(settings, tls)
  const unfit = unfitEntries(entries)
  if (unfit.length > 0) return yield* unusable(`these settings do not fit into an ini file: ${unfit.join(", ")}`)
  const before = yield* readIni(place.ini)
  const text = setInIni(before, pgbouncerSection, entries)
  if (text === null) return yield* unusable(`${place.ini} has no section [${pgbouncerSection}]`)
  const write = (content: string) => replaceFile({ path: place.ini, content, mode: 0o640, owner: null })
  if (!(yield* write(text))) return false
  yield* reloadPgbouncer(place).pipe(
    Effect.tapError((failure) => isAway(failure) ? Effect.void : Effect.ignore(write(before)))
  )
  return true
})

/** Also for a certificate whose files have new content under their old names. */
export const reloadPgbouncer = Effect.fn("Pgbouncer.reload")(function*(place: PgbouncerPlace) {
  const { host, password, port, user } = place.admin
  yield* Effect.scoped(Effect.gen(function*() {
    const admin = yield* connect({
      host,
      port,
      user,
      database: "pgbouncer",
      connectWithin,
      ...(password === null ? {} : { password })
    }).pipe(Effect.retry(connectAgain))
    yield* admin.simple("RELOAD", commandWithin)
  }))
})

/** TERM is "now" to older versions and "when the clients have left" to newer ones; QUIT is "now" to both. */
const ladder: ReadonlyArray<Rung> = [
  { signal: "SIGTERM", grace: Duration.seconds(2), meaning: "leave" },
  { signal: "SIGQUIT", grace: Duration.seconds(2), meaning: "leave now" },
  { signal: "SIGKILL", grace: Duration.seconds(2), meaning: "the kernel does it" }
]

/** Before Postgres leaves, so that clients are turned away at the door. A pid file without its pgbouncer is nobody's. */
export const stopPgbouncer = Effect.fn("Pgbouncer.stop")(function*(place: PgbouncerPlace) {
  const pgbouncer = processInFile(place.pidFile, "pgbouncer")
  if (pgbouncer === null) return
  yield* Effect.logInfo(`asking pgbouncer (pid ${pgbouncer.pid}) to leave`)
  if (!(yield* dismiss(pgbouncer, ladder))) yield* Effect.logWarning(`pgbouncer (pid ${pgbouncer.pid}) did not leave`)
})
