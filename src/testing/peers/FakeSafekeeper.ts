/**
 * An imitation safekeeper that answers `TIMELINE_STATUS` over a real socket, well or badly.
 *
 * It keeps no WAL and knows no other command. Gone, with its port, when the scope ends.
 */
import * as Effect from "effect/Effect"
import type * as Duration from "effect/Duration"
import type * as Scope from "effect/Scope"
import type { ListenFailed } from "../../errors/Failure.ts"
import { type Lsn, printLsn } from "../../spec/identifiers.ts"
import { FaultQueue, SeenList } from "./faults.ts"
import {
  inUrl,
  type ListenAt,
  loggedIn,
  neonError,
  optionsOf,
  readyForQuery,
  serve,
  type Session,
  table,
  unauthorized
} from "./serverWire.ts"

/**
 * `ok`; `lag`: it flushLsn and committed less than it should; `unknown timeline`: no row; `wrong token`: it takes none;
 * `another tenant's token`: it takes the token, and refuses the query; `refuse`: nobody listens; `hang`: it accepts and
 * says nothing; `reset`: it breaks the connection.
 */
export type SafekeeperMode =
  | "ok"
  | "lag"
  | "unknown timeline"
  | "wrong token"
  | "another tenant's token"
  | "refuse"
  | "hang"
  | "reset"

export interface SafekeeperOptions {
  readonly tenant: string
  readonly timeline: string
  /** Asked for as the password; without it everybody may log in. */
  readonly token?: string
  readonly flush: Lsn
  /** Default: as flush. */
  readonly commit?: Lsn
  readonly mode?: SafekeeperMode
  readonly listen?: ListenAt
  /** What the next clients meet instead of `mode`, to be armed while it runs. */
  readonly attempts?: FaultQueue<SafekeeperAttempt>
  readonly record?: SeenList<SafekeeperSeen>
}

/** What one client meets. */
export interface SafekeeperAttempt {
  readonly mode?: SafekeeperMode
  /** Before it is answered. */
  readonly delay?: Duration.Duration
}

/** One client, as it introduced itself. */
export interface SafekeeperSeen {
  readonly user: string
  readonly options: string
  readonly password: string | null
  readonly command: string | null
}

export interface FakeSafekeeper {
  /** `host:port`, as a spec's `safekeeper_connstrings` has it. */
  readonly address: string
  readonly seen: Effect.Effect<ReadonlyArray<SafekeeperSeen>>
}

/** How far a lagging safekeeper is behind. */
const lag = 0x100n

/**
 * A safekeeper that says how far it is.
 *
 * @example
 * ```ts
 * const ids = { tenant: "a".repeat(32), timeline: "b".repeat(32) }
 * const { address } = yield* makeFakeSafekeeper({ ...ids, flush: 0x20n, mode: "ok" })
 * ```
 */
export const makeFakeSafekeeper: (
  options: SafekeeperOptions
) => Effect.Effect<FakeSafekeeper, ListenFailed, Scope.Scope> = Effect.fnUntraced(function* (options) {
  const { attempts = new FaultQueue<SafekeeperAttempt>(), record = new SeenList<SafekeeperSeen>() } = options

  const answer = Effect.fnUntraced(function* (session: Session) {
    const { delay, mode = options.mode ?? "ok" } = attempts.next() ?? {}
    if (delay !== undefined) yield* Effect.sleep(delay)
    const behind = mode === "lag" ? lag : 0n
    const row = [printLsn(options.flush - behind), printLsn((options.commit ?? options.flush) - behind)]
    const asked = optionsOf(session)
    const mine = asked.get("tenant_id") === options.tenant && asked.get("timeline_id") === options.timeline
    if (mode === "hang") return yield* Effect.never
    if (mode === "reset") return yield* session.reset
    const password = options.token === undefined && mode !== "wrong token" ? null : yield* session.password
    const who = { user: session.startup.get("user") ?? "", options: session.startup.get("options") ?? "", password }
    if (mode === "wrong token" || (options.token !== undefined && password !== options.token)) {
      record.add({ ...who, command: null })
      return yield* session.send(unauthorized)
    }
    yield* session.send(loggedIn)
    const command = yield* session.query
    record.add({ ...who, command })
    if (command !== "TIMELINE_STATUS") yield* session.send(neonError(`unsupported command ${command}`), readyForQuery)
    else if (mode === "another tenant's token") yield* session.send(unauthorized, readyForQuery)
    else {
      const rows = mine && mode !== "unknown timeline" ? [row] : []
      yield* session.send(table(["flush_lsn", "commit_lsn"], rows, "TIMELINE_STATUS"))
    }
    yield* session.query
  })

  const { host, port } = yield* serve(answer, { ...options.listen, gone: options.mode === "refuse" })
  return { address: `${inUrl(host)}:${port}`, seen: Effect.sync(() => record.all) }
})
