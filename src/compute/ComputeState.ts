/**
 * The shared state of a compute: the status, and whatever the actors have learned.
 *
 * Actors never see the reference. They `send` a trigger, `note` a fact, `raise` and `clear` conditions, and read
 * snapshots. Only `send` changes the status, and only along a row of `transitions.ts`.
 */
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import {
  type Condition,
  type Fact,
  firstSnapshot,
  isRaised,
  maxHistory,
  type Snapshot,
  withCondition,
  withoutCondition
} from "./snapshot.ts"
import { displayStatus, type IllegalTransition, type Status, step, type Trigger } from "./transitions.ts"

/**
 * Where the compute is in its life, and what is out of order: `/status`, `/conditions` and the rest are made of it.
 *
 * @example
 * ```ts
 * const state = yield* ComputeState
 * const { status } = yield* state.now
 * ```
 */
export class ComputeState extends Context.Service<
  ComputeState,
  {
    readonly now: Effect.Effect<Snapshot>
    /** The same for a caller that answers thousands of times a second, without a fiber for each. */
    readonly nowUnsafe: () => Snapshot
    /** The current snapshot, then every later one. */
    readonly changes: Stream.Stream<Snapshot>
    readonly send: (on: Trigger, fact?: Fact) => Effect.Effect<Snapshot, IllegalTransition>
    readonly note: (fact: Fact | ((old: Snapshot) => Fact)) => Effect.Effect<void>
    /** Something is not as it should be: a warning when it begins, and shown until it is cleared. */
    readonly raise: (condition: Condition) => Effect.Effect<void>
    /** It is over: one line, when it was raised. */
    readonly clear: (code: Condition["code"], about?: string) => Effect.Effect<void>
    /** Keeps the later of the known and the given moment; either one counts as now when it is in the future. */
    readonly active: (at: DateTime.Utc) => Effect.Effect<void>
    readonly until: (...wanted: ReadonlyArray<Status>) => Effect.Effect<Snapshot>
    /** Runs an effect as a named step of the start: its time is kept, logged and shown in `/timeline`. */
    readonly timed: <A, E, R>(name: string, effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  }
>()("compute/ComputeState") {
  static readonly layer = Layer.effect(
    ComputeState,
    Effect.gen(function* () {
      const ref = yield* SubscriptionRef.make<Snapshot>(firstSnapshot(yield* DateTime.now))
      const note = (fact: Fact | ((old: Snapshot) => Fact)): Effect.Effect<void> =>
        SubscriptionRef.update(ref, (old) => ({ ...old, ...(typeof fact === "function" ? fact(old) : fact) }))
      const changes = SubscriptionRef.changes(ref)
      return ComputeState.of({
        now: SubscriptionRef.get(ref),
        nowUnsafe: () => SubscriptionRef.getUnsafe(ref),
        changes,
        send: sendTo(ref),
        note,
        ...conditionsOf(ref),
        active: (at) =>
          Effect.flatMap(DateTime.now, (now) =>
            SubscriptionRef.update(ref, (old) => {
              const known = old.lastActive === null ? at : DateTime.max(old.lastActive, at)
              return { ...old, lastActive: DateTime.min(known, now) }
            })
          ),
        until: (...wanted) =>
          changes.pipe(
            Stream.filter((snapshot) => wanted.includes(snapshot.status)),
            Stream.runHead,
            Effect.flatMap(Effect.fromOption),
            Effect.orDie
          ),
        timed: (name, effect) => timed(name, effect, note)
      })
    })
  )
}

type Shared = SubscriptionRef.SubscriptionRef<Snapshot>

const sendTo = (ref: Shared) =>
  Effect.fn("ComputeState.send")(function* (on: Trigger, fact: Fact = {}) {
    const since = yield* DateTime.now
    return yield* SubscriptionRef.updateAndGetEffect(ref, (old) =>
      Effect.fromResult(step(old.status, on)).pipe(
        Effect.tap((row) =>
          Effect.logInfo(
            `Changing compute status from ${displayStatus(row.from)} to ${displayStatus(row.to)}: ${row.because}`
          )
        ),
        Effect.map((row) => ({
          ...old,
          ...(row.to === "running" ? { error: null } : {}),
          ...(row.from === "empty" ? { waitingFor: null } : {}),
          ...fact,
          status: row.to,
          since,
          history: [
            ...old.history.slice(1 - maxHistory),
            { from: row.from, to: row.to, at: since, because: row.because, error: fact.error ?? null }
          ]
        }))
      )
    )
  })

const conditionsOf = (ref: Shared) => ({
  raise: Effect.fnUntraced(function* (condition: Condition) {
    const before = yield* SubscriptionRef.getAndUpdate(ref, (old) => ({
      ...old,
      degraded: withCondition(old.degraded, condition)
    }))
    if (!isRaised(before.degraded, condition.code, condition.about)) yield* Effect.logWarning(condition.message)
  }),
  clear: Effect.fnUntraced(function* (code: Condition["code"], about?: string) {
    const before = yield* SubscriptionRef.get(ref)
    const raised = before.degraded.find((one) => one.code === code && one.about === about)
    if (raised === undefined) return
    yield* SubscriptionRef.update(ref, (old) => ({ ...old, degraded: withoutCondition(old.degraded, code, about) }))
    yield* Effect.logInfo(`no longer true: ${raised.message}`)
  })
})

const timed = <A, E, R>(
  name: string,
  effect: Effect.Effect<A, E, R>,
  note: (fact: (old: Snapshot) => Fact) => Effect.Effect<void>
): Effect.Effect<A, E, R> =>
  Effect.gen(function* () {
    const from = yield* DateTime.now
    const value = yield* effect
    const to = yield* DateTime.now
    const millis = to.epochMilliseconds - from.epochMilliseconds
    yield* note((old) => ({
      steps: [...old.steps, { name, startedAt: from.epochMilliseconds - old.startTime.epochMilliseconds, millis }]
    }))
    yield* Effect.logInfo(`${name}: ${millis} ms`)
    return value
  }).pipe(Effect.withSpan(name))
