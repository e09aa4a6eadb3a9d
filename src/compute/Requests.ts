/**
 * The configure requests that were accepted: what became of each, for whoever asks later.
 *
 * Bounded: the oldest that has ended is forgotten first. An idempotency key is remembered as long as its request.
 */
import * as DateTime from "effect/DateTime"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { randomUUID } from "node:crypto"
import type { Failure } from "../errors/Failure.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import type { Snapshot } from "./snapshot.ts"

/** The same key means the same request; the fingerprint says whether it is. */
export interface IdempotencyKey {
  readonly key: string
  readonly fingerprint: string
}

export class KeyReused extends Schema.TaggedError<KeyReused>()("KeyReused", {}) {
  override get message(): string {
    return "this idempotency key was used for another request"
  }
}

export interface ConfigureRequest {
  readonly id: string
  /** `operation_uuid` of the spec. */
  readonly operationId: string | null
  readonly acceptedAt: DateTime.Utc
  readonly startedAt: DateTime.Utc | null
  readonly endedAt: DateTime.Utc | null
  /** `null`: not yet. */
  readonly outcome: Result.Result<void, Failure> | null
}

interface Entry {
  readonly request: ConfigureRequest
  readonly key: IdempotencyKey | null
  /** `null` once it is answered: snapshots, each with its spec, would add up. */
  readonly reply: Deferred.Deferred<Snapshot, Failure> | null
}

const applies = Metric.histogram("compute_ctl_apply_seconds", {
  description: "How long specs took to be applied, without the time they waited in line",
  boundaries: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
})

/** Two of them can be under way: one that is applied, and one in line. */
export const maxRequests = 64

export interface Requests {
  /** The latest first. */
  readonly all: Effect.Effect<ReadonlyArray<ConfigureRequest>>
  /** `null`: never heard of it, or forgotten. */
  readonly find: (id: string) => Effect.Effect<ConfigureRequest | null>
  /** The same, once it has ended. */
  readonly settled: (id: string) => Effect.Effect<ConfigureRequest | null>
}

const ended = ({ request }: Entry): boolean => request.outcome !== null

const prune = (entries: ReadonlyArray<Entry>): ReadonlyArray<Entry> => {
  const oldest = entries.length > maxRequests ? entries.findIndex(ended) : -1
  return oldest === -1 ? entries : entries.toSpliced(oldest, 1)
}

const appliesWith = (outcome: "done" | "failed") => Metric.withAttributes(applies, { outcome })

export const makeRequests = Effect.gen(function* () {
  for (const outcome of ["done", "failed"] as const) yield* Metric.value(appliesWith(outcome))
  const kept = yield* Ref.make<ReadonlyArray<Entry>>([])

  const entryOf = (id: string) =>
    Effect.map(Ref.get(kept), (entries) => entries.find(({ request }) => request.id === id) ?? null)
  const find = (id: string) => Effect.map(entryOf(id), (entry) => entry?.request ?? null)
  const amend = (id: string, change: (old: Entry) => Entry) =>
    Ref.update(kept, (entries) => entries.map((entry) => (entry.request.id === id ? change(entry) : entry)))

  const answer = Effect.fnUntraced(function* (id: string, outcome: Result.Result<Snapshot, Failure>) {
    const entry = yield* entryOf(id)
    if (entry === null || entry.reply === null) return
    const endedAt = yield* DateTime.now
    const { startedAt } = entry.request
    if (startedAt !== null) {
      const seconds = (endedAt.epochMilliseconds - startedAt.epochMilliseconds) / 1000
      yield* Metric.update(appliesWith(Result.isSuccess(outcome) ? "done" : "failed"), seconds)
    }
    const written = Result.map(outcome, () => undefined)
    // First recorded, then answered: who is woken finds it.
    yield* amend(id, (old) => ({ ...old, reply: null, request: { ...old.request, endedAt, outcome: written } }))
    yield* Deferred.complete(entry.reply, Effect.fromResult(outcome))
  }, Effect.uninterruptible)

  return {
    all: Effect.map(Ref.get(kept), (entries) => entries.map(({ request }) => request).toReversed()),
    find,
    settled: Effect.fnUntraced(function* (id: string) {
      const entry = yield* entryOf(id)
      if (entry === null) return null
      if (entry.reply !== null) yield* Effect.exit(Deferred.await(entry.reply))
      return yield* find(id)
    }),
    findKey: Effect.fnUntraced(function* ({ fingerprint, key }: IdempotencyKey) {
      const entry = (yield* Ref.get(kept)).find((one) => one.key?.key === key)
      if (entry === undefined) return null
      return entry.key?.fingerprint === fingerprint ? entry.request : yield* new KeyReused()
    }),
    open: Effect.fnUntraced(function* (spec: ParsedSpec, key: IdempotencyKey | null) {
      const reply = yield* Deferred.make<Snapshot, Failure>()
      const request: ConfigureRequest = {
        id: randomUUID(),
        operationId: spec.operationId,
        acceptedAt: yield* DateTime.now,
        startedAt: null,
        endedAt: null,
        outcome: null
      }
      yield* Ref.update(kept, (entries) => prune([...entries, { request, key, reply }]))
      return { request, reply, answer: (outcome: Result.Result<Snapshot, Failure>) => answer(request.id, outcome) }
    }),
    begin: (id: string) =>
      Effect.flatMap(DateTime.now, (startedAt) =>
        amend(id, (old) => ({ ...old, request: { ...old.request, startedAt } }))
      )
  } satisfies Requests & Record<string, unknown>
})
