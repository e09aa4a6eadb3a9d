/**
 * Keeps the pages of a static compute's LSN from being collected: a lease from every shard, renewed in time.
 *
 * The pageservers' addresses and the token are read anew for each request, and a change of them is a reason to ask at
 * once. A refusal is final for these addresses: it is told once, shown as a condition, and asked again only elsewhere.
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Ref from "effect/Ref"
import * as Stream from "effect/Stream"
import type { ComputeState } from "../../compute/ComputeState.ts"
import { withCondition, withoutCondition } from "../../compute/snapshot.ts"
import { type Failure, TimedOut } from "../../errors/Failure.ts"
import { explain } from "../../errors/policy.ts"
import { type Lsn, printLsn } from "../../spec/identifiers.ts"
import type { NeonStorage, ParsedSpec } from "../../spec/ParsedSpec.ts"
import type { NeonDeadlines } from "./NeonStorage.ts"
import { type Lease, pageserverOf, questionsOf } from "./pageserver.ts"

// ---------------------------------------------------------------------------------------------------------------------
// When a lease on an LSN is asked for again (reference section 11.5).
// ---------------------------------------------------------------------------------------------------------------------

/** A minute before it ends; one that is shorter than two minutes, at half its time. An ended one at once. */
export const renewAfter = (validMillis: number): Duration.Duration =>
  Duration.millis(Math.max(validMillis - 60_000, validMillis / 2, 0))

/** After the so-many-th failure in a row (1, 2, …): half a second, then half as long again, up to a minute. */
export const leasePause = (failures: number): Duration.Duration =>
  Duration.millis(Math.min(500 * 1.5 ** (Math.max(failures, 1) - 1), 60_000))

// ---------------------------------------------------------------------------------------------------------------------

/** Of all shards together: the earliest end counts, and one refusal is everybody's. */
export type Acquire = (spec: ParsedSpec, neon: NeonStorage, lsn: Lsn) => Effect.Effect<Lease, Failure>

export const acquireFromAll =
  (deadlines: NeonDeadlines): Acquire =>
  (spec, neon, lsn) =>
    Effect.forEach(
      questionsOf(spec, neon),
      (question) =>
        Effect.gen(function* () {
          const pageserver = yield* pageserverOf(question, neon.pageservers.preferProtocol, deadlines)
          return yield* pageserver.lease(lsn).pipe(
            Effect.timeoutOrElse({
              duration: deadlines.lease,
              orElse: () =>
                Effect.fail(
                  new TimedOut({ what: `a lease from ${pageserver.peer}`, millis: Duration.toMillis(deadlines.lease) })
                )
            })
          )
        }),
      { concurrency: "unbounded" }
    ).pipe(
      Effect.map((leases) =>
        leases.reduce((all, one) =>
          all._tag === "Refused" ? all : one._tag === "Refused" ? one : one.until < all.until ? one : all
        )
      )
    )

/** Words that are searched for in logs. */
const task = "lsn_lease_bg_task"

/** `null`: until the addresses change. */
interface Plan {
  readonly pause: Duration.Duration | null
  readonly failures: number
  /** What the last request went to. */
  readonly asked: string
}

/** What a lease depends on, as text to compare; never shown. */
const addressesOf = ({ pageservers, token }: NeonStorage): string =>
  JSON.stringify([pageservers, token === null ? null : Redacted.value(token)])

export interface LeaseKeeper {
  /** One request, whatever comes of it; what `keep` goes on from. */
  readonly begin: Effect.Effect<void>
  readonly keep: Effect.Effect<never>
}

export const makeLeaseKeeper = Effect.fnUntraced(function* (
  state: ComputeState["Service"],
  given: { readonly spec: ParsedSpec; readonly neon: NeonStorage; readonly lsn: Lsn },
  acquire: Acquire
): Effect.fn.Return<LeaseKeeper> {
  const { lsn } = given
  const neonOf = (spec: ParsedSpec | null): NeonStorage => spec?.neon ?? given.neon
  const plan = yield* Ref.make<Plan>({ pause: Duration.zero, failures: 0, asked: "" })

  const judge = Effect.fnUntraced(function* (lease: Lease) {
    if (lease._tag === "Refused") {
      const message = `lease could not be obtained, LSN ${printLsn(lsn)} is behind the GC cutoff: what this compute reads may be gone`
      yield* Effect.logError(`${task}: Permanent error: ${message} (${lease.because})`)
      yield* state.note(({ degraded }) => ({
        degraded: withCondition(degraded, { code: "lsn_lease_refused", message })
      }))
      return null
    }
    yield* state.note(({ degraded }) => ({ degraded: withoutCondition(degraded, "lsn_lease_refused") }))
    const until = DateTime.formatIso(DateTime.makeUnsafe(lease.until))
    yield* Effect.logInfo(`${task}: Request succeeded, the lease on ${printLsn(lsn)} is valid until ${until}`)
    return renewAfter(lease.until - (yield* Clock.currentTimeMillis))
  })

  const ask = Effect.gen(function* () {
    const neon = neonOf((yield* state.now).spec)
    const asked = addressesOf(neon)
    const { failures } = yield* Ref.get(plan)
    const result = yield* Effect.result(acquire(given.spec, neon, lsn))
    if (result._tag === "Success")
      return yield* Ref.set(plan, { pause: yield* judge(result.success), failures: 0, asked })
    const pause = leasePause(failures + 1)
    yield* Effect.logWarning(
      `${task}: request failed, the next in ${Math.round(Duration.toMillis(pause))} ms: ${explain(result.failure)}`
    )
    yield* Ref.set(plan, { pause, failures: failures + 1, asked })
  })

  const moved = (asked: string) =>
    state.changes.pipe(
      Stream.filter(({ spec }) => addressesOf(neonOf(spec)) !== asked),
      Stream.runHead
    )

  const wait = Effect.gen(function* () {
    const { asked, pause } = yield* Ref.get(plan)
    const due = pause === null ? Effect.never : Effect.sleep(Duration.max(pause, atLeast))
    if (asked !== "") yield* Effect.raceFirst(due, moved(asked))
  })

  return { begin: ask, keep: Effect.forever(Effect.andThen(wait, ask)) }
})

/** A clock that is ahead of the pageserver's must not make us ask without a pause. */
const atLeast = Duration.millis(500)
