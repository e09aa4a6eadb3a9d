/**
 * The limit of Postgres's local file cache (LFC), set over one connection of its own
 * (docs/reference/vm_monitor.md#file-cache-over-sql).
 *
 * A stock Postgres has no such settings; then there is nothing to manage. What is set is not read back: Postgres
 * reloads when its backends next do something. The connection closes with the scope.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { type TimedOut, WireFailed } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import type { Prove } from "../pgwire/Admin.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import { pinnedOptions } from "../pgwire/pinnedSettings.ts"
import { connect, type Wire } from "../pgwire/Wire.ts"
import { cacheLimitMib, MiB } from "./decisions.ts"

export interface FileCache {
  /** The limit that was in force when the cache was opened, in bytes. */
  readonly found: number
  /** Bytes wanted, bytes set: whole MiB, and not more than Postgres was started for. Always writes. */
  readonly resize: (wanted: number) => Effect.Effect<number, WireFailed | TimedOut>
}

const queryWithin = Duration.seconds(3)

const sizeOf = (setting: string) => `SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('${setting}', true))`
const limit = "neon.file_cache_size_limit"
const cap = "neon.max_file_cache_size"

/** `null`: Postgres does not know the setting. */
const readSize = Effect.fnUntraced(function* (wire: Wire, setting: string) {
  const text = (yield* wire.rows(sizeOf(setting), queryWithin))[0]?.[0] ?? null
  if (text === null) return null
  const bytes = Number(text)
  return Number.isSafeInteger(bytes) && bytes >= 0
    ? bytes
    : yield* new WireFailed({ operation: "query", peer: wire.peer, detail: `${setting} is not a size` })
})

/** It may be anybody's session, and the version is not known; what any user may set cannot bend it. */
const pinnedFor = (user: string): string =>
  pinnedOptions({ user, major: null, superuser: false, applying: false, libraries: false })

const dial = (at: ConnString) => {
  const user = at.user ?? "cloud_admin"
  return connect({
    host: at.host,
    port: at.port,
    user,
    database: at.database ?? "postgres",
    applicationName: at.applicationName ?? "vm-monitor",
    options: [pinnedFor(user), at.options].filter((one) => one !== null).join(" "),
    connectWithin: queryWithin,
    ...(at.password === null ? {} : { password: at.password })
  })
}

/** One connection at a time, each in a scope of its own; a new one replaces the old. */
const replaceableSession = Effect.fnUntraced(function* (at: ConnString, prove: Prove) {
  let open: { readonly wire: Wire; readonly scope: Scope.Closeable } | undefined
  const release = Effect.suspend(() => {
    const scope = open?.scope
    open = undefined
    return scope === undefined ? Effect.void : Scope.close(scope, Exit.void)
  })
  yield* Effect.addFinalizer(() => release)
  const renew = Effect.gen(function* () {
    yield* release
    const scope = yield* Scope.make()
    open = {
      scope,
      wire: yield* Scope.provide(Effect.tap(dial(at), prove), scope).pipe(
        Effect.onError(() => Scope.close(scope, Exit.void))
      )
    }
    return open.wire
  })
  return { renew, current: Effect.suspend(() => (open === undefined ? renew : Effect.succeed(open.wire))) }
})

/**
 * `null`: this Postgres has no file cache to manage. Fails when it cannot be asked. A session is used only when `prove`
 * succeeds for it.
 */
export const openFileCache = Effect.fn("Vm.openFileCache")(function* (
  at: ConnString,
  prove: Prove
): Effect.fn.Return<FileCache | null, WireFailed | TimedOut, Scope.Scope> {
  const session = yield* replaceableSession(at, prove)
  /** Reading is tried once more over a new connection: the old one may have died unnoticed. */
  const read = (setting: string) =>
    Effect.catch(
      Effect.flatMap(session.current, (wire) => readSize(wire, setting)),
      (error) =>
        Effect.logInfo(`the file cache's connection is renewed: ${explain(error)}`).pipe(
          Effect.andThen(session.renew),
          Effect.flatMap((wire) => readSize(wire, setting))
        )
    )

  const resize: FileCache["resize"] = Effect.fn("Vm.resizeFileCache")(function* (wanted) {
    const most = yield* read(cap)
    const wire = yield* session.current
    if (most === null) return yield* new WireFailed({ operation: "query", peer: wire.peer, detail: `${cap} is gone` })
    const mib = cacheLimitMib(wanted, most)
    // Each is sent alone: ALTER SYSTEM does not work inside a transaction.
    yield* wire.simple(`ALTER SYSTEM SET ${limit} = ${mib}`, queryWithin)
    yield* wire.simple("SELECT pg_catalog.pg_reload_conf()", queryWithin)
    return mib * MiB
  })

  const found = yield* read(limit)
  const most = yield* read(cap)
  return found === null || most === null ? null : { found, resize }
})
