/**
 * Drops the private template that an apply has left: after its answer, for DROP DATABASE waits for a checkpoint.
 *
 * May fail: what is left is found by the next start or apply, and nobody uses that database.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { within } from "../errors/within.ts"
import type { Admin } from "../pgwire/Admin.ts"
import { dropTemplate, findTemplate } from "./planTemplate.ts"
import { newSqlStatistics, openSession } from "./sessions.ts"

const patience = Duration.minutes(1)

/** Nothing where there is no template of ours. Never fails; says so in the log when it could not be dropped. */
export const discardTemplate: Effect.Effect<void, never, Admin> = Effect.scoped(
  Effect.gen(function* () {
    const session = yield* openSession(newSqlStatistics(), "migrations", null)
    const [found] = yield* session.send([findTemplate])
    if (found === undefined) return yield* Effect.die("one message has one answer")
    if (((yield* Effect.fromResult(found))[0]?.rows.length ?? 0) === 0) return
    const [dropped] = yield* session.send([dropTemplate])
    if (dropped !== undefined && Result.isFailure(dropped)) return yield* dropped.failure
  })
).pipe(
  within("dropping the template database", patience),
  Effect.catch((failure) =>
    Effect.logWarning(`the template that databases were copied from is still there: ${failure.message}`)
  ),
  Effect.withSpan("Applier.discardTemplate")
)
