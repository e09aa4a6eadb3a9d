/**
 * What outsiders ask of the compute: a new spec, a fresh look for one, the end, the end sooner. The corridor takes
 * them one at a time.
 *
 * The status moves when an order is accepted, so two callers can not both be accepted; at most one patient caller's
 * spec waits behind it, and a later spec takes its place. A caller that goes away cancels nothing.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import { Abandoned, type Failure, Superseded } from "../errors/Failure.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { ComputeState, type Snapshot } from "./ComputeState.ts"
import { type IdempotencyKey, type KeyReused, type Operation, type Operations, operations } from "./Requests.ts"
import { IllegalTransition, isTerminating } from "./transitions.ts"

/** A spec that was accepted. */
export interface Configure {
  readonly _tag: "Configure"
  readonly spec: ParsedSpec
  /** Tells whoever waits how it went; the first answer counts. */
  readonly answer: (outcome: Result.Result<Snapshot, Failure>) => Effect.Effect<void>
}

/** The spec is to be looked for again where it came from; nobody waits. `null`: there is none for us any more. */
export interface Refresh {
  readonly _tag: "Refresh"
  readonly fetch: Effect.Effect<ParsedSpec | null, Failure>
}

export interface Submission {
  readonly spec: ParsedSpec
  /** Wait in line when another spec is being applied, instead of being refused. */
  readonly patient: boolean
  readonly key: IdempotencyKey | null
}

/** `fast` lingers so that the end can be read; `immediate` does not. Neither chooses how Postgres is stopped. */
export type TerminateMode = "fast" | "immediate"

interface Waiting extends Configure {
  readonly id: string
}

interface Slots {
  /** Its status has moved. */
  readonly accepted: Waiting | null
  readonly refresh: Refresh | null
  /** Waits until the corridor is free. */
  readonly queued: Waiting | null
  /** The last that the corridor took. */
  readonly taken: Waiting | null
}

const nobody: Slots = { accepted: null, refresh: null, queued: null, taken: null }

export class Commands extends Context.Service<
  Commands,
  {
    /** Answers when the spec is applied, or why it was not. Refused unless the compute is empty, running or healable. */
    readonly configure: (spec: ParsedSpec) => Effect.Effect<Snapshot, Failure | IllegalTransition>
    /** The same, answered as soon as it is accepted or queued. */
    readonly submit: (submission: Submission) => Effect.Effect<Operation, IllegalTransition | KeyReused>
    /** What became of the specs that were submitted: the latest of them, and never less than those still under way. */
    readonly operations: Pick<Operations, "all" | "find" | "settled">
    /** Refused unless the compute runs or can be healed; asked again while it is pending, or during a start, it is content. */
    readonly refresh: (fetch: Refresh["fetch"]) => Effect.Effect<void, IllegalTransition>
    /** Accepted in every status; asked again in a hurry, it hurries. Does not wait for the end. */
    readonly terminate: (mode: TerminateMode) => Effect.Effect<void>
    /** The next stage of the stop stages now, and no lingering. */
    readonly escalate: Effect.Effect<void>

    // -- the corridor's side -------------------------------------------------------------------------------------
    readonly next: Effect.Effect<Configure | Refresh>
    /** The spec that waits in line, whatever the status is: fresher than any that is fetched. `null`: none waits. */
    readonly overtake: Effect.Effect<Configure | null>
    /** Returns once a spec waits in line. */
    readonly lineForms: Effect.Effect<void>
    /** Nobody will take commands any more: whoever still waits hears `Abandoned`. */
    readonly close: Effect.Effect<void>
    /** One element for every time somebody was in a hurry, also before it was listened to. */
    readonly hurries: Stream.Stream<number>
    /** Returns once somebody has been in a hurry. */
    readonly hurried: Effect.Effect<void>
  }
>()("compute/Orders") {
  static readonly layer = Layer.effect(
    Commands,
    Effect.gen(function* () {
      const state = yield* ComputeState
      const book = yield* operations
      const slots = yield* SubscriptionRef.make(nobody)
      const lock = yield* Semaphore.make(1)
      const hurry = yield* SubscriptionRef.make(0)
      const hurries = SubscriptionRef.changes(hurry).pipe(Stream.filter((times) => times > 0))

      /** One at a time, and never half done. */
      const alone = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.uninterruptible(lock.withPermit(effect))
      const put = (change: Partial<Slots>) => SubscriptionRef.update(slots, (old) => ({ ...old, ...change }))
      const until = (ready: (now: Slots) => boolean) =>
        Effect.asVoid(SubscriptionRef.changes(slots).pipe(Stream.filter(ready), Stream.runHead))

      const refuseTheDead = (on: "SpecArrived" | "RefreshAsked") =>
        Effect.flatMap(state.now, ({ postgresAlive, status }) =>
          status === "failed" && !postgresAlive
            ? Effect.fail(new IllegalTransition({ from: "failed", on }))
            : Effect.void
        )

      const submitAlone = Effect.fnUntraced(function* ({ key, patient, spec }: Submission) {
        const known = key === null ? null : yield* book.findKey(key)
        if (known !== null) return { operation: known, reply: null }
        yield* refuseTheDead("SpecArrived")
        const sent = yield* Effect.result(state.send("SpecArrived"))
        const waits = Result.isFailure(sent)
        if (waits && (!patient || isTerminating(sent.failure.from))) return yield* Effect.fail(sent.failure)
        const { answer, operation, reply } = yield* book.open(spec, key)
        const order: Waiting = { _tag: "Configure", id: operation.id, spec, answer }
        const { queued } = yield* SubscriptionRef.get(slots)
        yield* put(waits ? { queued: order } : { accepted: order, queued: null })
        if (queued !== null)
          yield* queued.answer(Result.fail(new Superseded({ operation: queued.id, by: operation.id })))
        return { operation, reply }
      })

      const begin = (order: Waiting, left: Partial<Slots>): Effect.Effect<Configure> =>
        put({ ...left, taken: order }).pipe(Effect.andThen(book.begin(order.id)), Effect.as(order))

      /** `null`: whoever waited cannot be served any more. */
      const take = Effect.gen(function* () {
        const { accepted, queued, refresh } = yield* SubscriptionRef.get(slots)
        if (accepted !== null) return yield* begin(accepted, { accepted: null })
        if (refresh !== null) return yield* Effect.as(put({ refresh: null }), refresh)
        if (queued === null) return null
        const sent = yield* Effect.result(state.send("SpecArrived"))
        const order = yield* begin(queued, { queued: null })
        if (Result.isSuccess(sent)) return order
        yield* order.answer(Result.fail(new Abandoned({ what: "the queued spec" })))
        return null
      })

      const next = Effect.gen(function* () {
        while (true) {
          yield* until(({ accepted, queued, refresh }) => accepted !== null || queued !== null || refresh !== null)
          const order = yield* alone(take)
          if (order !== null) return order
        }
      })

      const submit = Effect.fn("Orders.submit")((submission: Submission) =>
        Effect.map(alone(submitAlone(submission)), ({ operation }) => operation)
      )

      const configure = Effect.fn("Orders.configure")(function* (spec: ParsedSpec) {
        const { reply } = yield* alone(submitAlone({ spec, patient: false, key: null })).pipe(
          // Without a key nothing can be reused, and everything has a reply of its own.
          Effect.catchTag("KeyReused", Effect.die)
        )
        return yield* reply === null ? Effect.die("a new operation without a reply") : Deferred.await(reply)
      })

      const refresh = Effect.fn("Orders.refresh")((fetch: Refresh["fetch"]) =>
        alone(
          Effect.gen(function* () {
            const { status } = yield* state.now
            if (status === "init" || status === "refresh_configuration_pending") return
            yield* refuseTheDead("RefreshAsked")
            yield* state.send("RefreshAsked")
            yield* put({ refresh: { _tag: "Refresh", fetch } })
          })
        )
      )

      const terminate = Effect.fn("Orders.terminate")(function* (mode: TerminateMode) {
        const trigger = mode === "fast" ? "TerminateFastAsked" : "TerminateImmediateAsked"
        yield* state.send(trigger).pipe(
          Effect.catchTag("IllegalTransition", (refused) =>
            // Already ending: nothing to change, and not the caller's fault.
            isTerminating(refused.from) ? Effect.void : Effect.die(refused)
          )
        )
      })

      const close = alone(
        Effect.gen(function* () {
          const { accepted, queued, taken } = yield* SubscriptionRef.get(slots)
          yield* SubscriptionRef.set(slots, nobody)
          const abandoned = Result.fail(new Abandoned({ what: "the new spec" }))
          for (const order of [taken, accepted, queued]) yield* order?.answer(abandoned) ?? Effect.void
        })
      )

      return Commands.of({
        configure,
        submit,
        operations: book,
        refresh,
        terminate,
        escalate: SubscriptionRef.update(hurry, (times) => times + 1),
        next,
        overtake: alone(
          Effect.flatMap(SubscriptionRef.get(slots), ({ queued }) =>
            queued === null ? Effect.succeed(null) : begin(queued, { queued: null })
          )
        ),
        lineForms: until(({ queued }) => queued !== null),
        close,
        hurries,
        hurried: Effect.asVoid(Stream.runHead(hurries))
      })
    })
  )
}
