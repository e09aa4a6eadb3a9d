/**
 * Sends the operations of one lane on one session: together as one transaction if that works, else one by one.
 *
 * Passing failures are tried again, a bounded number of times and before anything later in the lane.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import type { Answer } from "../pgwire/Wire.ts"
import { joinOperations } from "./joining.ts"
import type { ApplyPlan, Operation } from "./operations.ts"
import { type Complaint, isPassing, mostAttempts, pauseBefore, scrub } from "./outcome.ts"
import { excuse, type Ledger, millisNow } from "./ledger.ts"
import type { Session } from "./sessions.ts"

/** What is left to be done alone: nothing, or everything because the message failed as a whole. */
export const runJoined: (
  plan: ApplyPlan,
  operations: ReadonlyArray<Operation>,
  session: Session,
  ledger: Ledger
) => Effect.Effect<ReadonlyArray<Operation>, WireFailed | TimedOut> = Effect.fnUntraced(function*(plan, operations, session, ledger) {
  const message = joinOperations(operations, plan.joining)
  if (message === null) return operations
  const from = yield* millisNow
  const { attempts, complaint } = yield* persist(() => complain(session, message.sql, message.statements))
  const to = yield* millisNow
  if (complaint !== null) {
    yield* Effect.logWarning(`${operations.length} operations failed together and are now done one by one: ${complaint.message}`)
    return operations
  }
  const millis = (to - from) / operations.length
  for (const operation of operations) {
    ledger.outcomes.set(operation.id, { operation, outcome: "done", reason: null, sqlState: null, hint: null, attempts, millis, from, to })
  }
  return []
})

/** In order. Those that rest on nothing still unanswered, and are one message each, travel together. */
export const runAlone: (
  operations: ReadonlyArray<Operation>,
  session: Session,
  ledger: Ledger
) => Effect.Effect<void, WireFailed | TimedOut> = Effect.fnUntraced(function*(operations, session, ledger) {
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

const runPipelined = Effect.fnUntraced(function*(operations: ReadonlyArray<Operation>, session: Session, ledger: Ledger) {
  const from = yield* millisNow
  const answers = yield* session.send(operations.flatMap((one) => one.statements.map(sent)))
  const to = yield* millisNow
  const millis = (to - from) / operations.length
  for (const [index, operation] of operations.entries()) {
    const complaint = complaintOf(answers[index])
    if (complaint !== null && isPassing(complaint)) yield* runOne(operation, session, ledger, 1, complaint)
    else note(ledger, operation, complaint, 1, millis, from, to)
  }
})

/** Statement by statement; one that failed in passing is tried again from where it stopped. */
const runOne = Effect.fnUntraced(
  function*(operation: Operation, session: Session, ledger: Ledger, tried: number, before: Complaint | null) {
    const from = yield* millisNow
    let attempts = Math.max(1, tried)
    let complaint: Complaint | null = before
    for (const statement of operation.statements) {
      const result = yield* persist(
        () => complain(session, sent(statement), 1),
        complaint === null ? 0 : tried
      )
      attempts = Math.max(attempts, result.attempts)
      complaint = result.complaint
      if (complaint !== null) break
    }
    const to = yield* millisNow
    note(ledger, operation, complaint, attempts, to - from, from, to)
  }
)

const sent = (statement: Operation["statements"][number]) => statement.secret ?? statement.shown

/** Runs until it succeeds, fails for good, or has been tried often enough. `tried` times were before this. */
const persist = Effect.fnUntraced(
  function*(run: () => Effect.Effect<Complaint | null, WireFailed | TimedOut>, tried = 0) {
    for (let attempts = tried + 1;; attempts++) {
      if (attempts > 1) yield* Effect.sleep(Duration.millis(pauseBefore(attempts)))
      const complaint = yield* run()
      if (complaint === null || !isPassing(complaint) || attempts >= mostAttempts) return { attempts, complaint }
    }
  }
)

const complain = (session: Session, sql: string | Redacted.Redacted<string>, statements: number) =>
  Effect.map(session.send([sql], statements), ([answer]) => complaintOf(answer))

const complaintOf = (answer: Answer | undefined): Complaint | null => {
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
  complaint: Complaint | null,
  attempts: number,
  millis: number,
  from: number,
  to: number
): void => {
  ledger.outcomes.set(operation.id, {
    operation,
    outcome: complaint === null ? "done" : "failed",
    reason: complaint?.message ?? null,
    sqlState: complaint?.sqlState ?? null,
    hint: complaint?.hint ?? null,
    attempts,
    millis,
    from,
    to
  })
}
