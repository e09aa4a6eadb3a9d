/**
 * Does what a plan says: groups in order, tracks side by side, each operation answered for.
 *
 * Chooses nothing. A failed operation stops only those that rest on it. Connections are gone when it returns.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Semaphore from "effect/Semaphore"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import type { Admin, Purpose } from "../pgwire/Admin.ts"
import type { Answer } from "../pgwire/Wire.ts"
import { joinOperations } from "./joinedMessage.ts"
import type { ApplyPlan, Group, Lane, Operation, Track } from "./operations.ts"
import {
  type SqlError,
  isPassing,
  mostAttempts,
  type Outcome,
  pauseBefore,
  scrub,
  settledBeforehand
} from "./outcome.ts"
import { dropTemplate, findTemplate } from "./planTemplate.ts"
import {
  excuse,
  freshTally,
  type Ledger,
  makeSessions,
  millisNow,
  openSession,
  type Session,
  type Sessions,
  type Tally
} from "./sessions.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Sends the operations of one lane on one session: together as one transaction if that works, else one by one.
//
// Passing failures are tried again, a bounded number of times and before anything later in the lane.
// ---------------------------------------------------------------------------------------------------------------------

/** What is left to be done alone: nothing, or everything because the message failed as a whole. */
export const runJoined: (
  plan: ApplyPlan,
  operations: ReadonlyArray<Operation>,
  session: Session,
  ledger: Ledger
) => Effect.Effect<ReadonlyArray<Operation>, WireFailed | TimedOut> = Effect.fnUntraced(
  function* (plan, operations, session, ledger) {
    const message = joinOperations(operations, plan.joining)
    if (message === null) return operations
    const from = yield* millisNow
    const { attempts, sqlError } = yield* persist(() => complain(session, message.sql, message.statements))
    const to = yield* millisNow
    if (sqlError !== null) {
      yield* Effect.logWarning(
        `${operations.length} operations failed together and are now done one by one: ${sqlError.message}`
      )
      return operations
    }
    const millis = (to - from) / operations.length
    for (const operation of operations) {
      ledger.outcomes.set(operation.id, {
        operation,
        outcome: "done",
        reason: null,
        sqlState: null,
        hint: null,
        attempts,
        millis,
        from,
        to
      })
    }
    return []
  }
)

/** In order. Those that rest on nothing still unanswered, and are one message each, travel together. */
export const runAlone: (
  operations: ReadonlyArray<Operation>,
  session: Session,
  ledger: Ledger
) => Effect.Effect<void, WireFailed | TimedOut> = Effect.fnUntraced(function* (operations, session, ledger) {
  let pending: Array<Operation> = []
  const flush = Effect.suspend(() => {
    const those = pending
    pending = []
    return those.length === 0 ? Effect.void : runPipelined(those, session, ledger)
  })
  for (const operation of operations) {
    const rests = operation.after.some((id) => pending.some((one) => one.id === id))
    if (rests || operation.statements.length !== 1 || pending.length >= 256) yield* flush
    if (excuse(operation, ledger, yield* millisNow)) continue
    if (operation.statements.length === 1) pending.push(operation)
    else yield* runOne(operation, session, ledger, 0, null)
  }
  yield* flush
})

const runPipelined = Effect.fnUntraced(function* (
  operations: ReadonlyArray<Operation>,
  session: Session,
  ledger: Ledger
) {
  const from = yield* millisNow
  const answers = yield* session.send(operations.flatMap((one) => one.statements.map(sent)))
  const to = yield* millisNow
  const millis = (to - from) / operations.length
  for (const [index, operation] of operations.entries()) {
    const sqlError = complaintOf(answers[index])
    if (sqlError !== null && isPassing(sqlError)) yield* runOne(operation, session, ledger, 1, sqlError)
    else note(ledger, operation, sqlError, 1, millis, from, to)
  }
})

/** Statement by statement; one that failed in passing is tried again from where it stopped. */
const runOne = Effect.fnUntraced(function* (
  operation: Operation,
  session: Session,
  ledger: Ledger,
  tried: number,
  before: SqlError | null
) {
  const from = yield* millisNow
  let attempts = Math.max(1, tried)
  let sqlError: SqlError | null = before
  for (const statement of operation.statements) {
    const result = yield* persist(() => complain(session, sent(statement), 1), sqlError === null ? 0 : tried)
    attempts = Math.max(attempts, result.attempts)
    sqlError = result.sqlError
    if (sqlError !== null) break
  }
  const to = yield* millisNow
  note(ledger, operation, sqlError, attempts, to - from, from, to)
})

const sent = (statement: Operation["statements"][number]) => statement.secret ?? statement.shown

/** Runs until it succeeds, fails for good, or has been tried often enough. `tried` times were before this. */
const persist = Effect.fnUntraced(function* (
  run: () => Effect.Effect<SqlError | null, WireFailed | TimedOut>,
  tried = 0
) {
  for (let attempts = tried + 1; ; attempts++) {
    if (attempts > 1) yield* Effect.sleep(Duration.millis(pauseBefore(attempts)))
    const sqlError = yield* run()
    if (sqlError === null || !isPassing(sqlError) || attempts >= mostAttempts) return { attempts, sqlError }
  }
})

const complain = (session: Session, sql: string | Redacted.Redacted<string>, statements: number) =>
  Effect.map(session.send([sql], statements), ([answer]) => complaintOf(answer))

const complaintOf = (answer: Answer | undefined): SqlError | null => {
  if (answer === undefined) return { message: "the server gave no answer", sqlState: null, hint: null }
  if (Result.isSuccess(answer)) return null
  const { detail, serverDetail, serverHint, sqlState } = answer.failure
  return {
    message: scrub(serverDetail === undefined ? detail : `${detail}; ${serverDetail}`),
    sqlState: sqlState ?? null,
    hint: serverHint === undefined ? null : scrub(serverHint)
  }
}

const note = (
  ledger: Ledger,
  operation: Operation,
  sqlError: SqlError | null,
  attempts: number,
  millis: number,
  from: number,
  to: number
): void => {
  ledger.outcomes.set(operation.id, {
    operation,
    outcome: sqlError === null ? "done" : "failed",
    reason: sqlError?.message ?? null,
    sqlState: sqlError?.sqlState ?? null,
    hint: sqlError?.hint ?? null,
    attempts,
    millis,
    from,
    to
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// Drops the private template that an apply has left: after its answer, for DROP DATABASE waits for a checkpoint.
//
// Allowed to miss: what is left is found by the next start or apply, and a database that is in the way of nothing.
// ---------------------------------------------------------------------------------------------------------------------

const within = Duration.minutes(1)

/** Nothing where there is no template of ours. Never fails; says so in the log when it could not be dropped. */
export const discardTemplate: Effect.Effect<void, never, Admin> = Effect.scoped(
  Effect.gen(function* () {
    const session = yield* openSession(freshTally(), "migrations", null)
    const [found] = yield* session.send([findTemplate])
    if (found === undefined) return yield* Effect.die("one message has one answer")
    if (((yield* Effect.fromResult(found))[0]?.rows.length ?? 0) === 0) return
    const [dropped] = yield* session.send([dropTemplate])
    if (dropped !== undefined && Result.isFailure(dropped)) return yield* dropped.failure
  })
).pipe(
  Effect.timeout(within),
  Effect.catch((failure) =>
    Effect.logWarning(`the template that databases were copied from is still there: ${failure.message}`)
  ),
  Effect.withSpan("Applier.discardTemplate")
)

// ---------------------------------------------------------------------------------------------------------------------

/** One entry per operation of the plan. Never fails: what goes wrong is in the outcomes. */
export const execute: (
  plan: ApplyPlan,
  main: Session,
  tally: Tally,
  purpose: Purpose
) => Effect.Effect<ReadonlyArray<Outcome>, never, Admin> = Effect.fn("Applier.execute")(
  function* (plan, main, tally, purpose) {
    const ledger: Ledger = { outcomes: new Map() }
    for (const outcome of settledBeforehand(plan)) ledger.outcomes.set(outcome.operation.id, outcome)
    yield* Effect.scoped(
      Effect.gen(function* () {
        const sessions = yield* makeSessions(plan, main, tally, purpose)
        const slots = yield* Semaphore.make(plan.width)
        for (const group of plan.groups) yield* runGroup(plan, group, sessions, slots, ledger)
      })
    )
    return [...ledger.outcomes.values()]
  }
)

const runGroup = (plan: ApplyPlan, group: Group, sessions: Sessions, slots: Semaphore.Semaphore, ledger: Ledger) =>
  Effect.forEach(group.tracks, (track) => runTrack(plan, track, sessions, slots, ledger), {
    concurrency: group.width,
    discard: true
  })

const runTrack = (plan: ApplyPlan, track: Track, sessions: Sessions, slots: Semaphore.Semaphore, ledger: Ledger) =>
  Effect.forEach(track, (lane) => slots.withPermit(runLane(plan, lane, sessions, ledger)), { discard: true })

const runLane = Effect.fnUntraced(function* (plan: ApplyPlan, lane: Lane, sessions: Sessions, ledger: Ledger) {
  const now = yield* millisNow
  const ready = lane.operations.filter((operation) => !excuse(operation, ledger, now))
  if (ready.length === 0) return
  const work = Effect.fnUntraced(function* (session: Session) {
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
const giveUp = Effect.fnUntraced(function* (
  lane: Lane,
  ledger: Ledger,
  failure: { readonly message: string; readonly sqlState?: string }
) {
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
