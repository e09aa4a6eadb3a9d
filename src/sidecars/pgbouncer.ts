/**
 * The pgbouncer of this machine: the spec's settings are put into its ini, and it is made to reload it.
 *
 * Never starts it and never restarts it. Its answer to RELOAD says nothing in most versions, so what it runs with is
 * compared with what was asked for. What it does not take is taken back as a whole: an ini that it refuses in part is
 * one from which it could not start again. Passwords and values are in no message.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as fs from "node:fs/promises"
import { codeOf } from "../errors/errno.ts"
import { type Failure, FileFailed, SidecarUnusable, type TimedOut, type WireFailed } from "../errors/Failure.ts"
import { connect, type Wire } from "../pgwire/Wire.ts"
import { realPath, replaceFile } from "../platform/files.ts"
import { processInFile, stopProcess } from "../platform/processes.ts"
import type { ShutdownStage } from "../platform/shutdownStages.ts"
import type { Tls } from "../spec/ComputeConfig.ts"
import { tlsFault } from "./pgbouncerTls.ts"
import { fitsIni, isShown, type Settings, settingsInIni, withSettings } from "./pgbouncerIni.ts"

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

/** The spec's settings, and the certificate when there is one. */
export const pgbouncerEntries = (settings: Settings, tls: Tls | null): Settings =>
  tls === null
    ? settings
    : new Map([
        ...settings,
        ["client_tls_cert_file", tls.certPath],
        ["client_tls_key_file", tls.keyPath],
        ["client_tls_sslmode", "allow"]
      ])

const pathOf = (key: string): string => `pgbouncer_settings.${/^\w+$/.test(key) ? key : JSON.stringify(key)}`

// -- failures

const unusable = (detail: string, cause?: unknown) =>
  new SidecarUnusable({ sidecar: "pgbouncer", detail, ...(cause === undefined ? {} : { cause }) })

/** Trying again would be the same; the next spec may be another. */
const refused = (detail: string) => new SidecarUnusable({ sidecar: "pgbouncer", detail, refused: true })

/** It does not run. When it does, it reads what is in the ini then. */
const isAway = (failure: WireFailed): boolean => failure.operation === "connect to"

/** Who may use its console is said in its own files, and over a socket by who we are to the operating system. */
const consoleFailed = ({ admin }: PgbouncerPlace, failure: WireFailed): SidecarUnusable => {
  if (isAway(failure)) return unusable("its console cannot be reached", failure)
  const help = admin.host.startsWith("/")
    ? "; run compute_ctl as the system user that pgbouncer runs as, whom its socket lets in"
    : `; name ${admin.user} in its admin_users, and give the password in PGBOUNCER_PASSWORD`
  return unusable(`its console refuses the user ${admin.user}, so its settings stay as they are${help}`, failure)
}

// -- its ini

const readIni = (path: string) =>
  Effect.tryPromise({
    try: () => fs.readFile(path, "utf8"),
    catch: (cause) =>
      codeOf(cause) === "ENOENT" ? unusable(`there is no ${path}`) : new FileFailed({ operation: "read", path, cause })
  })

const noSection = ({ ini }: PgbouncerPlace) => unusable(`${ini} has no section [pgbouncer]`)

/** Was there anything to change? A link stays one: what it leads to is replaced. */
const writeIni = Effect.fnUntraced(function* (place: PgbouncerPlace, settings: Settings) {
  const text = withSettings(yield* readIni(place.ini), settings)
  if (text === null) return yield* noSection(place)
  return yield* replaceFile({ path: realPath(place.ini), content: text, mode: 0o640, owner: null })
})

// -- its console

const connectWithin = Duration.seconds(3)
const commandWithin = Duration.seconds(10)
/** Four attempts in all: it may be starting just now. */
const connectAgain = { schedule: Schedule.spaced(Duration.seconds(1)), times: 3, while: isAway }

const openConsole = ({ admin: { host, password, port, user } }: PgbouncerPlace) =>
  connect({
    host,
    port,
    user,
    database: "pgbouncer",
    connectWithin,
    ...(password === null ? {} : { password })
  })

const lost = (failure: WireFailed | TimedOut) => unusable("its console broke off", failure)

/** Later versions answer with an error when they could not read the ini or a certificate; `null`: none was told. */
const reload = (admin: Wire): Effect.Effect<string | null, SidecarUnusable> =>
  admin.simple("RELOAD", commandWithin).pipe(
    Effect.as(null),
    Effect.catch((failure) =>
      failure._tag === "WireFailed" && failure.operation === "query"
        ? Effect.succeed(failure.detail)
        : Effect.fail(lost(failure))
    )
  )

interface Shown {
  readonly value: string | null
  /** Does a reload change it? */
  readonly changeable: boolean
}

/** The columns are key, value, default (from 1.15 on), changeable. */
const showConfig = (admin: Wire): Effect.Effect<ReadonlyMap<string, Shown>, SidecarUnusable> =>
  admin.rows("SHOW CONFIG", commandWithin).pipe(
    Effect.mapBoth({
      onSuccess: (rows) =>
        new Map(
          rows.map((row): [string, Shown] => [row[0] ?? "", { value: row[1] ?? null, changeable: row.at(-1) !== "no" }])
        ),
      onFailure: lost
    })
  )

const tlsFaultOf = (config: ReadonlyMap<string, Shown>) => tlsFault((name) => config.get(name)?.value ?? "")

const differs = (config: ReadonlyMap<string, Shown>, [key, value]: readonly [string, string]): boolean =>
  !isShown(config.get(key)?.value ?? null, value)

/** What no reload could bring about. */
const impossible = (config: ReadonlyMap<string, Shown>, wanted: Settings): ReadonlyArray<string> =>
  [...wanted].flatMap(([key, value]) => {
    const shown = config.get(key)
    if (shown === undefined) return [`${pathOf(key)} (this version has no such setting)`]
    if (shown.changeable || !differs(config, [key, value])) return []
    return [`${pathOf(key)} (read only when pgbouncer starts: write it into the ini itself)`]
  })

const runsWith = (config: ReadonlyMap<string, Shown>, wanted: Settings): boolean =>
  [...wanted].every((entry) => !differs(config, entry))

const isSame = <A>(one: ReadonlyMap<string, A>, other: ReadonlyMap<string, A>, same: (a: A, b: A) => boolean) =>
  one.size === other.size &&
  [...one].every(([key, value]) => {
    const there = other.get(key)
    return there !== undefined && same(value, there)
  })

// -- process

export interface Pgbouncer {
  /**
   * The settings are in the ini, and pgbouncer runs with them. `attempts`: how many with the same settings have failed
   * before this one.
   */
  readonly tune: (wanted: Settings, attempts: number) => Effect.Effect<void, Failure>
  /** Has an earlier spec left settings in the ini? */
  readonly isTuned: Effect.Effect<boolean>
  /** For a certificate whose files have new content under their old names. */
  readonly reload: Effect.Effect<void, SidecarUnusable>
  /** Before Postgres stops, so that new clients are refused early. A stale pid file is ignored. */
  readonly stop: Effect.Effect<void>
}

/**
 * So many attempts a pgbouncer that is away finds settings in its ini that none has accepted; some take effect only
 * when it starts. After that (half a minute) they may be why it does not start, and are taken out until it runs.
 */
const patience = 3

const reloadCertificate = Effect.fnUntraced(function* (admin: Wire) {
  const fault = (yield* reload(admin)) ?? (yield* tlsFaultOf(yield* showConfig(admin)))
  if (fault !== null) return yield* unusable(`it did not take its new certificate: ${fault}`)
})

/** What the ini falls back to: settings that a pgbouncer is known to take, and not those that are being refused. */
const otherThan = (wanted: Settings, known: Settings): Settings =>
  isSame(known, wanted, (one, other) => one === other) ? new Map() : known

/** Puts them into the ini and sees that it runs with them; `known` as in `tune`. */
const applySettings = Effect.fnUntraced(function* (
  place: PgbouncerPlace,
  admin: Wire,
  wanted: Settings,
  { known, written }: { readonly known: Settings; readonly written: boolean }
): Effect.fn.Return<void, Failure> {
  const before = yield* showConfig(admin)
  const there = settingsInIni(yield* readIni(place.ini))
  const fallback = otherThan(wanted, there.size > 0 && runsWith(before, there) ? there : known)
  const attempt = Effect.gen(function* () {
    const stays = "its ini and what it runs with stay as they were"
    const hopeless = impossible(before, wanted)
    if (hopeless.length > 0) return yield* refused(`it cannot take ${hopeless.join(", ")}; ${stays}`)
    const changed = yield* writeIni(place, wanted)
    if (!changed && !written && runsWith(before, wanted)) return
    const answer = yield* reload(admin)
    const after = yield* showConfig(admin)
    const missing = [...wanted].filter((entry) => differs(after, entry)).map(([key]) => pathOf(key))
    const asksForTls = [...wanted.keys()].some((key) => key.startsWith("client_tls_"))
    const fault = answer ?? (missing.length === 0 && asksForTls ? yield* tlsFaultOf(after) : null)
    if (missing.length === 0 && fault === null) return
    yield* writeIni(place, fallback)
    yield* reload(admin)
    const back = isSame(yield* showConfig(admin), before, (one, other) => one.value === other.value)
    const what =
      missing.length === 0
        ? `all that the spec asks for (${fault})`
        : `${missing.join(", ")}: it stops reading at the first that it refuses`
    return yield* refused(
      `it did not take ${what}, and its log says why; ` +
        (back ? stays : `${place.ini} is as it was, and yet it runs with other settings than before: restart it`)
    )
  })
  yield* Effect.onError(attempt, () => Effect.ignore(writeIni(place, fallback)))
})

const tune = Effect.fn("Pgbouncer.tune")(function* (
  place: PgbouncerPlace,
  wanted: Settings,
  /** What it took last; none: what people wrote is all that is known to be well. */
  known: Settings,
  attempts: number
): Effect.fn.Return<void, Failure> {
  const unfit = [...wanted].filter(([key, value]) => !fitsIni(key, value)).map(([key]) => pathOf(key))
  if (unfit.length > 0) return yield* refused(`these settings do not fit into an ini file: ${unfit.join(", ")}`)
  // First of all, so that a missing one is the complaint at every attempt.
  if (withSettings(yield* readIni(place.ini), wanted) === null) return yield* noSection(place)
  yield* Effect.scoped(
    Effect.gen(function* () {
      let admin = yield* Effect.result(openConsole(place))
      let written = false
      if (Result.isFailure(admin) && isAway(admin.failure)) {
        if (attempts === 0) written = yield* writeIni(place, wanted)
        // Nobody is left who would have to be told.
        if (wanted.size === 0) return
        admin = yield* Effect.result(Effect.retry(openConsole(place), connectAgain))
      }
      if (Result.isSuccess(admin)) return yield* applySettings(place, admin.success, wanted, { known, written })
      if (!isAway(admin.failure) || attempts >= patience) yield* writeIni(place, otherThan(wanted, known))
      return yield* consoleFailed(place, admin.failure)
    })
  )
})

/** TERM is "now" to older versions and "when the clients have left" to newer ones; QUIT is "now" to both. */
const stages: ReadonlyArray<ShutdownStage> = [
  { signal: "SIGTERM", grace: Duration.seconds(2), meaning: "leave" },
  { signal: "SIGQUIT", grace: Duration.seconds(2), meaning: "leave now" },
  { signal: "SIGKILL", grace: Duration.seconds(2), meaning: "the kernel does it" }
]

const stop = Effect.fn("Pgbouncer.stop")(function* (place: PgbouncerPlace) {
  const pgbouncer = processInFile(place.pidFile, "pgbouncer")
  if (pgbouncer === null) return
  yield* Effect.logInfo(`asking pgbouncer (pid ${pgbouncer.pid}) to leave`)
  if (!(yield* stopProcess(pgbouncer, stages)))
    yield* Effect.logWarning(`pgbouncer (pid ${pgbouncer.pid}) did not leave`)
})

export const makePgbouncer = (place: PgbouncerPlace): Pgbouncer => {
  let known: Settings = new Map()
  return {
    tune: (wanted, attempts) =>
      Effect.suspend(() => tune(place, wanted, known, attempts)).pipe(
        Effect.tap(() => Effect.sync(() => (known = wanted)))
      ),
    isTuned: Effect.match(readIni(place.ini), {
      onSuccess: (text) => settingsInIni(text).size > 0,
      onFailure: () => false
    }),
    reload: Effect.scoped(
      openConsole(place).pipe(
        Effect.retry(connectAgain),
        Effect.mapError((failure) => consoleFailed(place, failure)),
        Effect.flatMap(reloadCertificate)
      )
    ),
    stop: stop(place)
  }
}
