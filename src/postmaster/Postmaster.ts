/**
 * The one Postgres process this compute exists to keep.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import type { ExitStatus } from "../domain/ExitStatus.ts"
import type { Failure } from "../domain/Failure.ts"

export interface Running {
  readonly pid: number
  /** postmaster.pid says `ready` (or `standby` accepts connections). Fails when Postgres leaves first, or after 60 s. */
  readonly ready: Effect.Effect<void, Failure>
  /** Any number may wait. */
  readonly exit: Effect.Effect<ExitStatus>
  /** Climbs the stop ladder until Postgres has left. Safe to call twice: both wait for the same end. */
  readonly stop: Effect.Effect<ExitStatus>
  /** The next rung of the ladder, now. */
  readonly hasten: Effect.Effect<void>
  /** SIGHUP: Postgres reads its files again. */
  readonly reload: Effect.Effect<void>
  /** The last records Postgres wrote, oldest first; bounded. */
  readonly recentLog: Effect.Effect<ReadonlyArray<string>>
}

export class Postmaster extends Context.Service<Postmaster, {
  /** Starts `postgres -D PGDATA`; the scope's end climbs the stop ladder. `token` becomes NEON_AUTH_TOKEN. */
  readonly start: (options: { readonly token: Redacted.Redacted<string> | null }) => Effect.Effect<Running, Failure, Scope.Scope>
}>()("compute/postmaster/Postmaster") {}
