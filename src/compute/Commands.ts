/**
 * The command queue: what others ask of the compute. A new spec, a fresh look for one, the end, the end sooner.
 *
 * The lifecycle takes commands one at a time. The status moves when a command is accepted, so two callers cannot both
 * be accepted; at most one spec waits behind the one that is applied, and a later one takes its place. A caller that
 * goes away cancels nothing. After `close` nobody waits any more: whoever did has been answered `Abandoned`.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import type * as Tracer from "effect/Tracer"
import { Abandoned, type Failure, type SpecConflict, Superseded } from "../errors/Failure.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { ComputeState } from "./ComputeState.ts"
import { type ConfigureRequest, type IdempotencyKey, type KeyReused, makeRequests, type Requests } from "./Requests.ts"
import type { Snapshot } from "./snapshot.ts"
import { configureConflict, identityConflict } from "./specConflict.ts"
import { IllegalTransition, isTerminating } from "./transitions.ts"

/** What somebody asked for belongs to that caller's trace, wherever it is done. */
export interface Asked {
  /** `null`: the caller has none. */
  readonly caller: Tracer.AnySpan | null
}

export const callersSpan: Effect.Effect<Tracer.AnySpan | null> = Effect.orElseSucceed(
  Effect.currentParentSpan,
  () => null
)

/** A spec that was accepted. */
export interface Configure extends Asked {
  readonly _tag: "Configure"
  readonly spec: ParsedSpec
  /** Answers whoever waits; the first answer counts. */
  readonly answer: (outcome: Result.Result<Snapshot, Failure>) => Effect.Effect<void>
}

/** The spec is to be fetched again; nobody waits. `null`: there is none for this compute any more. */
export interface Refresh extends Asked {
  readonly _tag: "Refresh"
  readonly fetch: Effect.Effect<ParsedSpec | null, Failure>
}

export interface Submission {
  readonly spec: ParsedSpec
  /** Queue behind a spec that is being applied, instead of being refused. */
  readonly mayQueue: boolean
  readonly key: IdempotencyKey | null
}

/** `fast`: with an exit delay, to read the end; `immediate`: without. Neither is a shutdown mode of Postgres. */
export type TerminateMode = "fast" | "immediate"

interface QueuedConfigure extends Configure {
  readonly id: string
}

interface Slots {
  /** Its status has moved; the lifecycle takes it next. */
  readonly accepted: QueuedConfigure | null
  readonly refresh: Refresh | null
  /** Waits until the lifecycle is free. */
  readonly queued: QueuedConfigure | null
  /** The last that the lifecycle took. */
  readonly taken: QueuedConfigure | null
  /** The end has begun. */
  readonly closed: boolean
}

const empty: Slots = { accepted: null, refresh: null, queued: null, taken: null, closed: false }

/**
 * What others ask of the compute: a new spec, a fresh look for one, the end.
 *
 * @example
 * ```ts
 * const commands = yield* Commands
 * yield* commands.terminate("immediate")
 * ```
 */
export class Commands extends Context.Service<
  Commands,
  {
    /**
     * Answers with how the apply went. Refused unless the compute is empty, running or healable, and when the spec
     * would make another compute of it.
     */
    readonly configure: (spec: ParsedSpec) => Effect.Effect<Snapshot, Failure | IllegalTransition>
    /** The same, answered as soon as it is accepted or queued. */
    readonly submit: (
      submission: Submission
    ) => Effect.Effect<ConfigureRequest, IllegalTransition | KeyReused | SpecConflict>
    /** What became of the specs that were submitted: the latest of them, and never less than those still under way. */
    readonly requests: Pick<Requests, "all" | "find" | "settled">
    /** Refused unless the compute runs or can be healed. While it is pending, or during a start, nothing is added. */
    readonly refresh: (fetch: Refresh["fetch"]) => Effect.Effect<void, IllegalTransition>
    /** Accepted in every status. Does not wait for the end. */
    readonly terminate: (mode: TerminateMode) => Effect.Effect<void>
    /** The next shutdown stage now, and no exit delay. */
    readonly escalate: Effect.Effect<void>

    // -- for the lifecycle ---------------------------------------------------------------------------------------
    readonly next: Effect.Effect<Configure | Refresh>
    /** Takes the queued spec, whatever the status is: fresher than any that is fetched. `null`: none is queued. */
    readonly takeQueued: Effect.Effect<Configure | null>
    /** Returns once a spec is queued. */
    readonly whenQueued: Effect.Effect<void>
    /** No command is taken any more: whoever waits is answered `Abandoned`. */
    readonly close: Effect.Effect<void>
    /** One element for each `escalate`, also for those before anybody listened. */
    readonly escalations: Stream.Stream<number>
    /** Returns once there was an `escalate`. */
    readonly escalated: Effect.Effect<void>
  }
>()("compute/Commands") {
  static readonly layer = Layer.effect(
    Commands,
    Effect.gen(function* () {
      const queue = yield* makeQueue
      const times = yield* SubscriptionRef.make(0)
      const escalations = SubscriptionRef.changes(times).pipe(Stream.filter((n) => n > 0))
      return Commands.of({
        ...entry(queue),
        ...forLifecycle(queue),
        requests: queue.requests,
        escalate: SubscriptionRef.update(times, (n) => n + 1),
        escalations,
        escalated: Effect.asVoid(Stream.runHead(escalations))
      })
    })
  )
}

/** The slots, and the rules under which they change. */
const makeQueue = Effect.gen(function* () {
  const slots = yield* SubscriptionRef.make(empty)
  const lock = yield* Semaphore.make(1)
  const requests = yield* makeRequests
  const put = (change: Partial<Slots>) => SubscriptionRef.update(slots, (old) => ({ ...old, ...change }))
  return {
    state: yield* ComputeState,
    requests,
    slots: SubscriptionRef.get(slots),
    put,
    /** One change at a time, and never half of one. */
    exclusively: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.uninterruptible(lock.withPermit(effect)),
    until: (ready: (now: Slots) => boolean) =>
      Effect.asVoid(SubscriptionRef.changes(slots).pipe(Stream.filter(ready), Stream.runHead)),
    begin: (command: QueuedConfigure, left: Partial<Slots>): Effect.Effect<Configure> =>
      put({ ...left, taken: command }).pipe(Effect.andThen(requests.begin(command.id)), Effect.as(command))
  }
})

type Queue = Effect.Success<typeof makeQueue>

/** What callers use. */
const entry = ({ exclusively, put, requests, slots, state }: Queue) => {
  /** A failed compute can be healed while its Postgres lives, and not once its end has begun. */
  const refuseTooLate = Effect.fnUntraced(function* (on: "SpecArrived" | "RefreshAsked") {
    const { postgresAlive, status } = yield* state.now
    const { closed } = yield* slots
    if (closed || (status === "failed" && !postgresAlive)) return yield* new IllegalTransition({ from: status, on })
  })

  const accept = Effect.fnUntraced(function* ({ key, mayQueue, spec }: Submission) {
    const known = key === null ? null : yield* requests.findKey(key)
    if (known !== null) return { request: known, reply: null }
    yield* refuseTooLate("SpecArrived")
    const { promotion, spec: running } = yield* state.now
    // Which mode is the right one after a promotion that is under way shows when it is this spec's turn.
    const conflict = (promotion._tag === "Promoting" ? identityConflict : configureConflict)(running, spec)
    if (conflict !== null) return yield* conflict
    const sent = yield* Effect.result(state.send("SpecArrived"))
    const busy = Result.isFailure(sent)
    if (busy && (!mayQueue || isTerminating(sent.failure.from))) return yield* Effect.fail(sent.failure)
    const { answer, reply, request } = yield* requests.open(spec, key)
    const command: QueuedConfigure = { _tag: "Configure", id: request.id, spec, answer, caller: yield* callersSpan }
    const { queued } = yield* slots
    yield* put(busy ? { queued: command } : { accepted: command, queued: null })
    if (queued !== null) yield* queued.answer(Result.fail(new Superseded({ operation: queued.id, by: request.id })))
    return { request, reply }
  })

  return {
    submit: Effect.fn("Commands.submit")((submission: Submission) =>
      Effect.map(exclusively(accept(submission)), ({ request }) => request)
    ),
    configure: Effect.fn("Commands.configure")(function* (spec: ParsedSpec) {
      const { reply } = yield* exclusively(accept({ spec, mayQueue: false, key: null })).pipe(
        // Without a key nothing can be reused, and every request has a reply of its own.
        Effect.catchTag("KeyReused", Effect.die)
      )
      return yield* reply === null ? Effect.die("a new request without a reply") : Deferred.await(reply)
    }),
    refresh: Effect.fn("Commands.refresh")((fetch: Refresh["fetch"]) =>
      exclusively(
        Effect.gen(function* () {
          const { status } = yield* state.now
          if (status === "init" || status === "refresh_configuration_pending") return
          yield* refuseTooLate("RefreshAsked")
          yield* state.send("RefreshAsked")
          yield* put({ refresh: { _tag: "Refresh", fetch, caller: yield* callersSpan } })
        })
      )
    ),
    terminate: Effect.fn("Commands.terminate")((mode: TerminateMode) =>
      state.send(mode === "fast" ? "TerminateFastAsked" : "TerminateImmediateAsked").pipe(
        Effect.asVoid,
        Effect.catchTag("IllegalTransition", (refused) =>
          // Already ending: nothing to change, and not the caller's fault.
          isTerminating(refused.from) ? Effect.void : Effect.die(refused)
        )
      )
    )
  }
}

/** What the lifecycle uses. */
const forLifecycle = ({ begin, exclusively, put, slots, state, until }: Queue) => {
  /** `null`: whoever waited cannot be served any more. */
  const take = Effect.gen(function* () {
    const { accepted, queued, refresh } = yield* slots
    if (accepted !== null) return yield* begin(accepted, { accepted: null })
    if (refresh !== null) return yield* Effect.as(put({ refresh: null }), refresh)
    if (queued === null) return null
    const sent = yield* Effect.result(state.send("SpecArrived"))
    const command = yield* begin(queued, { queued: null })
    if (Result.isSuccess(sent)) return command
    yield* command.answer(Result.fail(new Abandoned({ what: "the queued spec" })))
    return null
  })

  return {
    next: Effect.gen(function* () {
      while (true) {
        yield* until(({ accepted, queued, refresh }) => accepted !== null || queued !== null || refresh !== null)
        const command = yield* exclusively(take)
        if (command !== null) return command
      }
    }),
    takeQueued: exclusively(
      Effect.flatMap(slots, ({ queued }) => (queued === null ? Effect.succeed(null) : begin(queued, { queued: null })))
    ),
    whenQueued: until(({ queued }) => queued !== null),
    close: exclusively(
      Effect.gen(function* () {
        const { accepted, queued, taken } = yield* slots
        yield* put({ ...empty, closed: true })
        const abandoned = Result.fail(new Abandoned({ what: "the new spec" }))
        for (const command of [taken, accepted, queued]) yield* command?.answer(abandoned) ?? Effect.void
      })
    )
  }
}
