/**
 * Drops the private template that an apply has left: after its answer, for DROP DATABASE waits for a checkpoint.
 *
 * Allowed to miss: what is left is found by the next start or apply, and a database that is in the way of nothing.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { Admin } from "../pgwire/Admin.ts"
import { dropTemplate, findTemplate } from "./planTemplate.ts"
import { freshTally, openSession } from "./sessions.ts"

const within = Duration.minutes(1)

/** Nothing where there is no template of ours. Never fails; says so in the log when it could not be dropped. */
export const discardTemplate: Effect.Effect<void, never, Admin> = Effect.scoped(Effect.gen(function*() {
  const session = yield* openSession(freshTally(), "migrations", null)
  const [found] = yield* session.send([findTemplate])
  if (found === undefined) return yield* Effect.die("one message has one answer")
  if (((yield* Effect.fromResult(found))[0]?.rows.length ?? 0) === 0) return
  const [dropped] = yield* session.send([dropTemplate])
  if (dropped !== undefined && Result.isFailure(dropped)) return yield* dropped.failure
})).pipe(
  Effect.timeout(within),
  Effect.catch((failure) => Effect.logWarning(`the template that databases were copied from is still there: ${failure.message}`)),
  Effect.withSpan("Applier.discardTemplate")
)
