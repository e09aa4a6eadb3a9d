/**
 * Our own superuser sessions: where Postgres listens, and a start-up packet that no tenant setting can bend.
 *
 * `ALTER ROLE … SET` and `ALTER DATABASE … SET` lose against start-up options, so what could bend a session is pinned
 * there (`pinnedSettings.ts`). Options in the connection string come last and win
 * (docs/reference/compute_ctl.md#apply-connections).
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type { WireFailed } from "../errors/Failure.ts"
import type { ConnString } from "./ConnString.ts"
import { makeOwnSessions, type OwnSessions } from "./ownSessions.ts"
import { pinnedOptions } from "./pinnedSettings.ts"
import { connect, type Wire, type WireConfig } from "./Wire.ts"

/** What a session is for; becomes its `application_name`, by which the activity monitor knows us. */
export type Purpose =
  | "apply_config"
  | "reconfigure"
  | "migrations"
  | "post_apply_config"
  | "compute_monitor"
  | "availability_checker"
  | "get_dbs_and_roles"
  | "collect_insights"
  | "set_role_grants"
  | "install_extension"
  | "get_installed_extensions"
  | "lfc_prewarm"
  | "lfc_offload"
  | "local_storage"
  | "configure_check"
  | "promote"

/** What the names of our sessions begin with. */
export const ourApplications = "compute_ctl:"

export const applicationName = (purpose: Purpose): string => `${ourApplications}${purpose}`

/** The superuser of a cluster that the connection string does not name one for. */
export const defaultSuperuser = "cloud_admin"

/** Those that change the catalog. */
const applying: ReadonlySet<Purpose> = new Set(["apply_config", "reconfigure", "migrations", "post_apply_config"])

/** Fails for a session that must not be used. */
export type Prove = (wire: Wire) => Effect.Effect<void, WireFailed>

export class Admin extends Context.Service<
  Admin,
  {
    readonly at: ConnString
    readonly superuser: string
    /** The database of the connection string: where cluster-wide work is done. */
    readonly systemDatabase: string
    /** From now on a session is used only when this succeeds: it proves that the server is the one we started. */
    readonly guard: (prove: Prove) => Effect.Effect<void>
    /** That proof, for a session which was not opened by `connect`. */
    readonly prove: Prove
    /** Counts those of our sessions that were in users' databases. */
    readonly sessions: OwnSessions
    /** What version is expected there, so that the first session need not ask for it. */
    readonly expectMajor: (major: number) => Effect.Effect<void>
    /** For a client program that goes to the same server: what our own sessions have as start-up options. */
    readonly startupOptions: (purpose: Purpose) => Effect.Effect<string>
    /**
     * A session of its own, gone with the scope. Database names are sent as they are: whatever it is, it works.
     * `as users`: with the libraries that every user's session preloads, which ours do without.
     */
    readonly connect: (
      purpose: Purpose,
      database?: string,
      libraries?: "none" | "as users"
    ) => Effect.Effect<Wire, WireFailed, Scope.Scope>
  }
>()("compute/pg/Admin") {
  static readonly layer = (at: ConnString): Layer.Layer<Admin> => Layer.effect(Admin, make(at))
}

/** What is known of the server, and of us there. */
interface Known {
  readonly major: number | null
  readonly superuser: boolean
}

/** `17.5`, `18beta1`, `17.2 (Debian 17.2-1)`. */
const readMajor = (version: string): number | null => {
  const digits = /^\d+/.exec(version)?.[0]
  return digits === undefined ? null : Number(digits)
}

/** Of each set of settings, one version that knows it. */
const guesses = [17, 16]

const unknownSetting = "42704"
const notPermitted = "42501"

/** What a session is for, its database, and whether it preloads what users' sessions do. */
type Wanted = readonly [purpose: Purpose, database: string, libraries: boolean]

const optionsOf = (at: ConnString, user: string, about: Known, purpose: Purpose, libraries: boolean): string => {
  const pinned = pinnedOptions({ user, applying: applying.has(purpose), libraries, ...about })
  return at.options === null ? pinned : `${pinned} ${at.options}`
}

/** One attempt at a session, believing this of the server. */
const opener =
  (at: ConnString, user: string, sessions: OwnSessions) =>
  (about: Known, [purpose, database, libraries]: Wanted, onParameter?: WireConfig["onParameter"]) =>
    connectCounted(sessions, {
      host: at.host,
      port: at.port,
      user,
      database,
      applicationName: applicationName(purpose),
      options: optionsOf(at, user, about, purpose, libraries),
      connectWithin: Duration.seconds(10),
      ...(onParameter === undefined ? {} : { onParameter }),
      ...(at.password === null ? {} : { password: at.password })
    })

/** Has ended when its connection is closed, with the scope, or when it came to nothing. */
const connectCounted = Effect.fnUntraced(function* (
  sessions: OwnSessions,
  config: WireConfig & { readonly database: string }
) {
  const session = yield* Effect.acquireRelease(
    Effect.sync(() => sessions.begin(config.database)),
    ({ ended }) => Effect.sync(ended)
  )
  const wire = yield* Effect.onError(connect(config), () => Effect.sync(session.ended))
  session.opened()
  return wire
})

/**
 * By a session that pins only what every version knows. The server says its version even when that session fails, but
 * not when it fails at once: then it is the newest whose settings it knows.
 */
const askMajor = Effect.fnUntraced(function* (open: ReturnType<typeof opener>, about: Known, wanted: Wanted) {
  let major: number | null = null
  const ask = (guess: number | null) =>
    Effect.scoped(
      open({ ...about, major: guess }, wanted, (name, value) => {
        if (name === "server_version") major = readMajor(value)
      })
    ).pipe(Effect.result)
  const first = yield* ask(null)
  if (major !== null || Result.isSuccess(first)) return major
  // Without a code, nobody has answered.
  for (const guess of first.failure.sqlState === undefined ? [] : guesses) {
    const next = yield* ask(guess)
    if (major !== null) return major
    if (Result.isFailure(next) && next.failure.sqlState !== unknownSetting) break
  }
  return yield* first.failure
})

/** What turns out to be otherwise than was known is remembered for the next session. */
const openPinned = Effect.fnUntraced(function* (
  open: ReturnType<typeof opener>,
  known: Ref.Ref<Known>,
  wanted: Wanted
) {
  const before = yield* Ref.get(known)
  const tried = (about: Known) => Effect.tap(open(about, wanted), () => Ref.set(known, about))
  const learn = (about: Known) => Effect.flatMap(askMajor(open, about, wanted), (major) => tried({ ...about, major }))
  /** Only a superuser may pin everything; a first refusal that has another reason stays the answer. */
  const asAnybody = (refused: WireFailed) => {
    const about = { ...before, superuser: false }
    return Effect.mapError(before.major === null ? learn(about) : tried(about), () => refused)
  }
  return yield* (before.major === null ? learn(before) : open(before, wanted)).pipe(
    Effect.catchIf(
      ({ sqlState }) => before.major !== null && sqlState === unknownSetting,
      () => learn(before)
    ),
    Effect.catchIf(({ sqlState }) => before.superuser && sqlState === notPermitted, asAnybody)
  )
})

const make = Effect.fnUntraced(function* (at: ConnString) {
  const guard = yield* Ref.make<Prove>(() => Effect.void)
  const known = yield* Ref.make<Known>({ major: null, superuser: true })
  const superuser = at.user ?? defaultSuperuser
  const systemDatabase = at.database ?? "postgres"
  const sessions = makeOwnSessions()
  const open = opener(at, superuser, sessions)
  const prove: Prove = (wire) => Effect.flatMap(Ref.get(guard), (one) => one(wire))
  return Admin.of({
    at,
    superuser,
    systemDatabase,
    sessions,
    guard: (next) => Ref.set(guard, next),
    prove,
    expectMajor: (major) => Ref.update(known, (about) => ({ ...about, major })),
    startupOptions: (purpose) => Effect.map(Ref.get(known), (about) => optionsOf(at, superuser, about, purpose, false)),
    connect: Effect.fnUntraced(function* (purpose, database = systemDatabase, libraries = "none") {
      const wire = yield* openPinned(open, known, [purpose, database, libraries === "as users"])
      yield* prove(wire)
      return wire
    })
  })
})
