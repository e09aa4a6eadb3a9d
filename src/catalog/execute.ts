/**
 * Does what a plan says: groups in order, tracks side by side, each operation answered for.
 *
 * Chooses nothing. A failed operation stops only those that rest on it. Connections are gone when it returns.
 */
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import type { Admin, Purpose } from "../pgwire/Admin.ts"
import type { ApplyPlan, Group, Lane, Track } from "./operations.ts"
import { type Outcome, settledBeforehand } from "./outcome.ts"
import { runAlone, runJoined } from "./lane.ts"
import { excuse, type Ledger, millisNow } from "./ledger.ts"
import type { Session, Tally } from "./sessions.ts"
import { makeSessions, type Sessions } from "./sessions2.ts"

/** One entry per operation of the plan. Never fails: what goes wrong is in the outcomes. */
export const execute: (
  plan: ApplyPlan,
  main: Session,
  tally: Tally,
  purpose: Purpose
) => Effect.Effect<ReadonlyArray<Outcome>, never, Admin> = Effect.fn("Applier.execute")(function*(plan, main, tally, purpose) {
  const ledger: Ledger = { outcomes: new Map() }
  for (const outcome of settledBeforehand(plan)) ledger.outcomes.set(outcome.operation.id, outcome)
  yield* Effect.scoped(Effect.gen(function*() {
    const sessions = yield* makeSessions(plan, main, tally, purpose)
    const slots = yield* Semaphore.make(plan.width)
    for (const group of plan.groups) yield* runGroup(plan, group, sessions, slots, ledger)
  }))
  return [...ledger.outcomes.values()]
})

const runGroup = (plan: ApplyPlan, group: Group, sessions: Sessions, slots: Semaphore.Semaphore, ledger: Ledger) =>
  Effect.forEach(group.tracks, (track) => runTrack(plan, track, sessions, slots, ledger), { concurrency: group.width, discard: true })

const runTrack = (plan: ApplyPlan, track: Track, sessions: Sessions, slots: Semaphore.Semaphore, ledger: Ledger) =>
  Effect.forEach(track, (lane) => slots.withPermit(runLane(plan, lane, sessions, ledger)), { discard: true })

const runLane = Effect.fnUntraced(function*(plan: ApplyPlan, lane: Lane, sessions: Sessions, ledger: Ledger) {
  const now = yield* millisNow
  const ready = lane.operations.filter((operation) => !excuse(operation, ledger, now))
  if (ready.length === 0) return
  const work = Effect.fnUntraced(function*(session: Session) {
    const left = lane.joined ? yield* runJoined(plan, ready, session, ledger) : ready
    yield* runAlone(left, session, ledger)
  })
  yield* sessions.with(lane.database, work).pipe(
    Effect.catch((failure) => giveUp(lane, ledger, failure)),
    // What is done and where, but never the SQL: it may hold a secret.
    Effect.withSpan("Applier.lane", {
      attributes: {
        "db.namespace": lane.database,
        "compute.phases": [...new Set(ready.map(({ phase }) => phase))].join(","),
        "compute.operations": ready.length
      }
    })
  )
})

/** The connection could not be had, or broke: what has no outcome yet did not happen, as far as we know. */
const giveUp = Effect.fnUntraced(function*(lane: Lane, ledger: Ledger, failure: { readonly message: string; readonly sqlState?: string }) {
  const now = yield* millisNow
  for (const operation of lane.operations) {
    if (ledger.outcomes.has(operation.id)) continue
    if (excuse(operation, ledger, now)) continue
    ledger.outcomes.set(operation.id, {
      operation,
      outcome: "failed",
      reason: failure.message,
      sqlState: failure.sqlState ?? null,
      hint: null,
      attempts: 1,
      millis: 0,
      from: now,
      to: now
    })
  }
})
