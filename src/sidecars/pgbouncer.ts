/**
 * The pgbouncer of this machine: its ini is edited, and it is made to reload it.
 *
 * Never starts it and never restarts it. What a running pgbouncer did not take up is taken back, so that the next
 * spec tries again. Its password is in no message.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as fs from "node:fs/promises"
import { type Failure, FileFailed, SidecarUnusable, type TimedOut, type WireFailed } from "../errors/Failure.ts"
import { codeOf } from "../errors/errno.ts"
import { connect } from "../pgwire/Wire.ts"
import { replaceFile } from "../platform/files.ts"
import { processInFile, stopProcess } from "../platform/processes.ts"
import type { ShutdownStage } from "../platform/shutdownStages.ts"
import type { Tls } from "../spec/ComputeConfig.ts"

// -- process
// Changes settings in an ini file and nothing else: comments, order, blank lines and unknown keys stay as they are.
//
// Pure. Knows the ini of pgbouncer: `;` and `#` begin a comment only at the beginning of a line, values are not
// quoted, and of two lines with one key the later counts.
// -- process

const head = /^\s*\[([^\]]*)\]/
const assignment = /^(\s*)([^\s=;#%][^\s=]*)(\s*=\s*)(.*?)(\s*)$/

const withValue = (line: string, value: string): string =>
  line.replace(assignment, (_all, indent: string, key: string, equals: string) => `${indent}${key}${equals}${value}`)

interface Line {
  readonly text: string
  readonly end: string
}

const linesOf = (text: string): ReadonlyArray<Line> =>
  [...text.matchAll(/([^\r\n]*)(\r\n|\n|$)/g)]
    .map(([, line = "", end = ""]) => ({ text: line, end }))
    .filter(({ end, text }, index, all) => text !== "" || end !== "" || index < all.length - 1)

/** Could this be written as a line of its own that says exactly this? */
export const fitsIni = (key: string, value: string): boolean =>
  /^[A-Za-z_][A-Za-z0-9_.-]*$/.test(key) && !/[\r\n\0]/.test(value) && value === value.trim()

/**
 * The text with every entry of the section set; `null` when it has no such section. Comments, order, blank lines and
 * unknown keys stay as they are. In this ini, `;` and `#` begin a comment only at the beginning of a line, values are
 * not quoted, and of two lines with one key the later counts. Entries must fit (`fitsIni`).
 * New keys go to the end of the section, in their order.
 */
export const setInIni = (text: string, section: string, entries: ReadonlyMap<string, string>): string | null => {
  const lines = linesOf(text)
  let inside = false
  let end = -1
  const seen = new Map<string, number>()
  for (const [index, { text: line }] of lines.entries()) {
    const opened = head.exec(line)?.[1]
    if (opened !== undefined) inside = opened === section
    if (!inside) continue
    const key = assignment.exec(line)?.[2]
    if (opened !== undefined || key !== undefined) end = index
    if (key !== undefined) seen.set(key, index)
  }
  if (end < 0) return null
  const newline = lines.find((line) => line.end !== "")?.end ?? "\n"
  const changed = new Map<number, string>()
  for (const [key, value] of entries) {
    const at = seen.get(key)
    if (at !== undefined) changed.set(at, value)
  }
  const added = [...entries].filter(([key]) => !seen.has(key)).map(([key, value]) => `${key} = ${value}`)
  return lines
    .map((line, index) => {
      const value = changed.get(index)
      const kept = value === undefined ? line.text : withValue(line.text, value)
      if (index !== end || added.length === 0) return `${kept}${line.end}`
      return `${kept}${newline}${added.join(newline)}${line.end}`
    })
    .join("")
}

// -- settings and where it is found (docs/reference/compute_ctl.md#pgbouncer)

/** A pgbouncer of this machine. */
export interface PgbouncerPlace {
  /** The admin console; `host` starts with `/`: the folder of its socket. */
  readonly admin: {
    readonly host: string
    readonly port: number
    readonly user: string
    readonly password: Redacted.Redacted<string> | null
  }
  readonly ini: string
  readonly pidFile: string
}

/** Inside Neon's virtual machines it is elsewhere, and trusts its own system user. */
export const pgbouncerPlace = (autoscaling: boolean, password: Redacted.Redacted<string> | null): PgbouncerPlace => ({
  admin: autoscaling
    ? { host: "/tmp", port: 6432, user: "pgbouncer", password: null }
    : { host: "localhost", port: 6432, user: "postgres", password },
  ini: autoscaling ? "/etc/pgbouncer.ini" : "/var/db/postgres/pgbouncer/pgbouncer.ini",
  pidFile: "/tmp/pgbouncer.pid"
})

const pgbouncerSection = "pgbouncer"

/** The spec's settings, and the certificate when there is one. */
export const pgbouncerEntries = (settings: ReadonlyMap<string, string>, tls: Tls | null): ReadonlyMap<string, string> =>
  tls === null
    ? settings
    : new Map([
        ...settings,
        ["client_tls_cert_file", tls.certPath],
        ["client_tls_key_file", tls.keyPath],
        ["client_tls_sslmode", "allow"]
      ])

/** Names of the settings that no ini file can hold; a value may be secret, so it is not repeated. */
const unfitEntries = (entries: ReadonlyMap<string, string>): ReadonlyArray<string> =>
  [...entries].filter(([key, value]) => !fitsIni(key, value)).map(([key]) => JSON.stringify(key))

// -- process

/** It does not run. When it does, it reads what is in the ini then. */
const isAway = (failure: WireFailed | TimedOut): boolean =>
  failure._tag === "WireFailed" && failure.operation === "connect to"

/** Four attempts in all: it may be starting just now. */
const connectAgain = { schedule: Schedule.spaced(Duration.seconds(1)), times: 3, while: isAway }
const connectWithin = Duration.seconds(3)
const commandWithin = Duration.seconds(10)

const unusable = (detail: string) => new SidecarUnusable({ sidecar: "pgbouncer", detail })

const readIni = (path: string) =>
  Effect.tryPromise({
    try: () => fs.readFile(path, "utf8"),
    catch: (cause) =>
      codeOf(cause) === "ENOENT" ? unusable(`there is no ${path}`) : new FileFailed({ operation: "read", path, cause })
  })

/** The settings and the certificate are in the ini, and pgbouncer has reloaded it; `false`: they were there already. */
export const tunePgbouncer = Effect.fn("Pgbouncer.tune")(function* (
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
    Effect.tapError((failure) => (isAway(failure) ? Effect.void : Effect.ignore(write(before))))
  )
  return true
})

/** Also for a certificate whose files have new content under their old names. */
export const reloadPgbouncer = Effect.fn("Pgbouncer.reload")(function* (place: PgbouncerPlace) {
  const { host, password, port, user } = place.admin
  yield* Effect.scoped(
    Effect.gen(function* () {
      const admin = yield* connect({
        host,
        port,
        user,
        database: "pgbouncer",
        connectWithin,
        ...(password === null ? {} : { password })
      }).pipe(Effect.retry(connectAgain))
      yield* admin.simple("RELOAD", commandWithin)
    })
  )
})

/** TERM is "now" to older versions and "when the clients have left" to newer ones; QUIT is "now" to both. */
const stages: ReadonlyArray<ShutdownStage> = [
  { signal: "SIGTERM", grace: Duration.seconds(2), meaning: "leave" },
  { signal: "SIGQUIT", grace: Duration.seconds(2), meaning: "leave now" },
  { signal: "SIGKILL", grace: Duration.seconds(2), meaning: "the kernel does it" }
]

/** Before Postgres stops, so that new clients are refused early. A stale pid file is ignored. */
export const stopPgbouncer = Effect.fn("Pgbouncer.stop")(function* (place: PgbouncerPlace) {
  const pgbouncer = processInFile(place.pidFile, "pgbouncer")
  if (pgbouncer === null) return
  yield* Effect.logInfo(`asking pgbouncer (pid ${pgbouncer.pid}) to leave`)
  if (!(yield* stopProcess(pgbouncer, stages)))
    yield* Effect.logWarning(`pgbouncer (pid ${pgbouncer.pid}) did not leave`)
})
