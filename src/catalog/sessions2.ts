/**
 * The sessions of one apply: cluster-wide ones are kept and shared, those to other databases are closed after use.
 *
 * The session that observed is the first of the shared ones. A session that failed its user is thrown away.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import { Admin, type Purpose } from "../pgwire/Admin.ts"
import type { ApplyPlan } from "./operations.ts"
import { openSession, type Session, type Tally } from "./sessions.ts"

export interface Sessions {
  /** `null` is the system database. Fails only if the connection cannot be had, or breaks. */
  readonly with: <A>(
    database: string | null,
    use: (session: Session) => Effect.Effect<A, WireFailed | TimedOut>
  ) => Effect.Effect<A, WireFailed | TimedOut>
}

export const makeSessions: (
  plan: ApplyPlan,
  main: Session,
  tally: Tally,
  purpose: Purpose
) => Effect.Effect<Sessions, never, Admin | Scope.Scope> = Effect.fnUntraced(function*(plan, main, tally, purpose) {
  const admin = yield* Admin
  const scope = yield* Effect.scope
  const turns = yield* Semaphore.make(plan.creators)
  const idle: Array<Session> = [main]

  const open = (database: string | null) => openSession(tally, purpose, database).pipe(Effect.provideService(Admin, admin))

  const shared = <A>(use: (session: Session) => Effect.Effect<A, WireFailed | TimedOut>) =>
    turns.withPermit(Effect.suspend(() => {
      const known = idle.shift()
      const session = known === undefined ? open(null).pipe(Scope.provide(scope)) : Effect.succeed(known)
      return Effect.flatMap(session, (one) =>
        Effect.onExit(use(one), (exit) => Effect.sync(() => void (Exit.isSuccess(exit) ? idle.unshift(one) : undefined))))
    }))

  return {
    with: (database, use) =>
      database === null
        ? shared(use)
        // A database that is copied, renamed or dropped next must not have us in it.
        : Effect.scoped(Effect.flatMap(open(database), (session) => Effect.tap(use(session), () => session.leave)))
  }
})
