/**
 * Does what a plan says: groups in order, the tracks of a group concurrently, and one outcome per operation.
 *
 * Decides nothing. A failed operation stops only those that rest on it. Connections are gone when it returns.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import * as Semaphore from "effect/Semaphore"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import type { Admin, Purpose } from "../pgwire/Admin.ts"
import { joinOperations } from "./joinedMessage.ts"
import type { ApplyPlan, Group, Lane, Operation, Track } from "./operations.ts"
import { type Outcome, outcomesWithoutServer, skippedOutcome } from "./outcome.ts"
import { makeSessionPool, type Session, type SessionPool, type SqlStatistics } from "./sessions.ts"
import { isTransient, retryTransient, type SqlError, sqlErrorOf, sqlErrorOfFailure } from "./sqlErrors.ts"

/** What the operations of one execution share. `outcomes` grows, by the ids of operations. */
interface Execution {
  readonly plan: ApplyPlan
  readonly sessions: SessionPool
  readonly connections: Semaphore.Semaphore
  readonly outcomes: Map<string, Outcome>
}

export const millisNow: Effect.Effect<number> = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)

/** One entry per operation of the plan. Never fails: what goes wrong is in the outcomes. */
export const execute: (
  plan: ApplyPlan,
  main: Session,
  statistics: SqlStatistics,
  purpose: Purpose
) => Effect.Effect<ReadonlyArray<Outcome>, never, Admin> = Effect.fn("Applier.execute")(
  function* (plan, main, statistics, purpose) {
    const outcomes = new Map(outcomesWithoutServer(plan).map((outcome) => [outcome.operation.id, outcome]))
    yield* Effect.scoped(
      Effect.gen(function* () {
        const sessions = yield* makeSessionPool(plan, main, statistics, purpose)
        const execution = { plan, sessions, connections: yield* Semaphore.make(plan.width), outcomes }
        for (const group of plan.groups) yield* runGroup(execution, group)
      })
    )
    return [...outcomes.values()]
  }
)

const runGroup = (execution: Execution, { tracks, width }: Group) =>
  Effect.forEach(tracks, (track) => runTrack(execution, track), { concurrency: width, discard: true })

const runTrack = (execution: Execution, track: Track) =>
  Effect.forEach(track, (lane) => execution.connections.withPermit(runLane(execution, lane)), { discard: true })

const runLane = Effect.fnUntraced(function* (execution: Execution, lane: Lane) {
  const { outcomes, plan, sessions } = execution
  const now = yield* millisNow
  const ready = lane.operations.filter((operation) => !skipIfBlocked(outcomes, operation, now))
  if (ready.length === 0) return
  const work = Effect.fnUntraced(function* (session: Session) {
    const left = lane.joined ? yield* runJoined(plan, ready, session, outcomes) : ready
    yield* runOneByOne(left, session, outcomes)
  })
  yield* sessions.with(lane.database, work).pipe(
    Effect.catch((failure) => failRest(outcomes, lane, failure)),
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

/** Records an operation as skipped, and returns true, when something it rests on did not happen. */
const skipIfBlocked = (outcomes: Map<string, Outcome>, operation: Operation, now: number): boolean => {
  const missing = operation.after
    .map((id) => outcomes.get(id))
    .find((one) => one !== undefined && one.outcome !== "done")
  if (missing === undefined) return false
  outcomes.set(operation.id, skippedOutcome(operation, missing, now))
  return true
}

/** The connection could not be had, or broke: what has no outcome yet did not happen, as far as we know. */
const failRest = Effect.fnUntraced(function* (
  outcomes: Map<string, Outcome>,
  lane: Lane,
  failure: WireFailed | TimedOut
) {
  const now = yield* millisNow
  const sqlError = sqlErrorOfFailure(failure)
  for (const operation of lane.operations) {
    if (outcomes.has(operation.id) || skipIfBlocked(outcomes, operation, now)) continue
    record(outcomes, operation, { attempts: 1, sqlError }, { from: now, to: now, millis: 0 })
  }
})

/** All in one message. What is left to be done one by one: nothing, or everything because the message failed. */
const runJoined = Effect.fnUntraced(function* (
  plan: ApplyPlan,
  operations: ReadonlyArray<Operation>,
  session: Session,
  outcomes: Map<string, Outcome>
) {
  const message = joinOperations(operations, plan.joining)
  if (message === null) return operations
  const from = yield* millisNow
  const attempted = yield* retryTransient(runStatement(session, message.sql, message.statements))
  const to = yield* millisNow
  if (attempted.sqlError !== null) {
    yield* Effect.logWarning(
      `${operations.length} operations failed together and are now done one by one: ${attempted.sqlError.message}`
    )
    return operations
  }
  const millis = (to - from) / operations.length
  for (const operation of operations) record(outcomes, operation, attempted, { from, to, millis })
  return []
})

/** More statements than this are not sent without reading an answer. */
const longestPipeline = 256

/** In order. Those that rest on nothing still unanswered, and are one message each, are sent as a pipeline. */
const runOneByOne = Effect.fnUntraced(function* (
  operations: ReadonlyArray<Operation>,
  session: Session,
  outcomes: Map<string, Outcome>
) {
  let pending: Array<Operation> = []
  const flush = Effect.suspend(() => {
    const sending = pending
    pending = []
    return sending.length === 0 ? Effect.void : runPipeline(sending, session, outcomes)
  })
  for (const operation of operations) {
    const waits = operation.after.some((id) => pending.some((one) => one.id === id))
    if (waits || operation.statements.length !== 1 || pending.length >= longestPipeline) yield* flush
    if (skipIfBlocked(outcomes, operation, yield* millisNow)) continue
    if (operation.statements.length === 1) pending.push(operation)
    else yield* runAlone(operation, session, outcomes, null)
  }
  yield* flush
})

const runPipeline = Effect.fnUntraced(function* (
  operations: ReadonlyArray<Operation>,
  session: Session,
  outcomes: Map<string, Outcome>
) {
  const from = yield* millisNow
  const answers = yield* session.send(operations.flatMap((one) => one.statements.map(textOf)))
  const to = yield* millisNow
  const millis = (to - from) / operations.length
  for (const [index, operation] of operations.entries()) {
    const sqlError = sqlErrorOf(answers[index])
    if (sqlError !== null && isTransient(sqlError)) yield* runAlone(operation, session, outcomes, sqlError)
    else record(outcomes, operation, { attempts: 1, sqlError }, { from, to, millis })
  }
})

/** Statement by statement. `first` is how a first attempt at the first of them failed. */
const runAlone = Effect.fnUntraced(function* (
  operation: Operation,
  session: Session,
  outcomes: Map<string, Outcome>,
  first: SqlError | null
) {
  const from = yield* millisNow
  let attempts = 1
  let sqlError: SqlError | null = null
  for (const [index, statement] of operation.statements.entries()) {
    const result = yield* retryTransient(runStatement(session, textOf(statement), 1), index === 0 ? first : null)
    attempts = Math.max(attempts, result.attempts)
    sqlError = result.sqlError
    if (sqlError !== null) break
  }
  const to = yield* millisNow
  record(outcomes, operation, { attempts, sqlError }, { from, to, millis: to - from })
})

const textOf = (statement: Operation["statements"][number]) => statement.secret ?? statement.shown

const runStatement = (
  session: Session,
  sql: string | Redacted.Redacted<string>,
  statements: number
): Effect.Effect<SqlError | null, WireFailed | TimedOut> =>
  Effect.map(session.send([sql], statements), ([answer]) => sqlErrorOf(answer))

const record = (
  outcomes: Map<string, Outcome>,
  operation: Operation,
  { attempts, sqlError }: { readonly attempts: number; readonly sqlError: SqlError | null },
  time: Pick<Outcome, "from" | "to" | "millis">
): void => {
  outcomes.set(operation.id, {
    operation,
    outcome: sqlError === null ? "done" : "failed",
    reason: sqlError?.message ?? null,
    sqlState: sqlError?.sqlState ?? null,
    hint: sqlError?.hint ?? null,
    attempts,
    ...time
  })
}
