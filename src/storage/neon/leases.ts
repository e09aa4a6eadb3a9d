/**
 * Keeps the pages of a static compute's LSN from being collected: a lease from every shard, renewed in time
 * (docs/reference/compute_ctl.md#lsn-lease).
 *
 * The pageservers' addresses and the token are read anew for each request, and a change of them is a reason to ask at
 * once. An LSN that is behind the cutoff is final for these addresses: it is logged once, shown as a condition, and
 * asked again only elsewhere. Nothing is given back at the end: a lease runs out.
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { ComputeState } from "../../compute/ComputeState.ts"
import { withCondition, withoutCondition } from "../../compute/snapshot.ts"
import type { Failure } from "../../errors/Failure.ts"
import { explain } from "../../errors/policy.ts"
import { type Lsn, printLsn } from "../../spec/identifiers.ts"
import type { NeonStorage, ParsedSpec } from "../../spec/ParsedSpec.ts"
import type { Lease } from "./pageserver.ts"
import type { AcquireLease } from "./shards.ts"

/** A minute before it ends; one that is shorter than two minutes, at half its time. An ended one at once. */
export const renewAfter = (validMillis: number): Duration.Duration =>
  Duration.millis(Math.max(validMillis - 60_000, validMillis / 2, 0))

/** A clock that is ahead of the pageserver's must not make us ask without a pause. */
const atLeast = Duration.millis(500)

const firstPause = Duration.millis(500)

/** After failures: half a second, then half as long again each time, up to a minute. */
const retries = Schedule.exponential(firstPause, 1.5).pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.minutes(1))))
)

/** Words that are searched for in logs. */
const task = "lsn_lease_bg_task"

/** One that was refused is asked again, too: a token may become good, a timeline may come. Until then it shows. */
const recordFailure = Effect.fnUntraced(function* (
  state: ComputeState["Service"],
  failure: Failure,
  pause: Duration.Duration
) {
  const message = explain(failure)
  yield* Effect.logWarning(
    `${task}: request failed, the next in ${Math.round(Duration.toMillis(pause))} ms: ${message}`
  )
  if (failure._tag !== "PageserverRefused") return
  yield* state.note(({ degraded }) => ({
    degraded: withCondition(degraded, { code: "lsn_lease_refused", message: `lease could not be obtained: ${message}` })
  }))
})

/** What a lease depends on, as text to compare; never shown. */
const addressesOf = ({ pageservers, token }: NeonStorage): string =>
  JSON.stringify([pageservers, token === null ? null : Redacted.value(token)])

/** `null`: never again, as long as these are the addresses. */
type Pause = Duration.Duration | null

/** Writes down what came of a request, and answers when the next one is due. */
const recordLease = Effect.fnUntraced(function* (
  state: ComputeState["Service"],
  lsn: Lsn,
  lease: Lease
): Effect.fn.Return<Pause> {
  if (lease._tag === "Refused") {
    const message =
      `lease could not be obtained, LSN ${printLsn(lsn)} is behind the GC cutoff: ` +
      "what this compute reads may be gone"
    yield* Effect.logError(`${task}: Permanent error: ${message} (${lease.because})`)
    yield* state.note(({ degraded }) => ({
      degraded: withCondition(degraded, { code: "lsn_lease_refused", message })
    }))
    return null
  }
  yield* state.note(({ degraded }) => ({ degraded: withoutCondition(degraded, "lsn_lease_refused") }))
  const until = DateTime.formatIso(DateTime.makeUnsafe(lease.until))
  yield* Effect.logInfo(`${task}: Request succeeded, the lease on ${printLsn(lsn)} is valid until ${until}`)
  return Duration.max(renewAfter(lease.until - (yield* Clock.currentTimeMillis)), atLeast)
})

export interface LeaseRenewal {
  /** One request, whatever comes of it; what `keep` goes on from. */
  readonly begin: Effect.Effect<void>
  readonly keep: Effect.Effect<never>
}

export const makeLeaseRenewal = Effect.fnUntraced(function* (
  state: ComputeState["Service"],
  given: { readonly spec: ParsedSpec; readonly neon: NeonStorage; readonly lsn: Lsn },
  acquire: AcquireLease
): Effect.fn.Return<LeaseRenewal> {
  const neonOf = (spec: ParsedSpec | null): NeonStorage => spec?.neon ?? given.neon
  const neonNow = Effect.map(state.now, ({ spec }) => neonOf(spec))
  const begun = yield* Ref.make<{ readonly addresses: string; readonly pause: Pause } | null>(null)

  const request = (neon: NeonStorage) =>
    Effect.flatMap(acquire(given.spec, neon, given.lsn), (lease) => recordLease(state, given.lsn, lease))

  const begin = Effect.gen(function* () {
    const neon = yield* neonNow
    const pause = yield* request(neon).pipe(
      Effect.catch((failure) => Effect.as(recordFailure(state, failure, firstPause), firstPause))
    )
    yield* Ref.set(begun, { addresses: addressesOf(neon), pause })
  })

  /** Asks these addresses for as long as there is something to ask for. */
  const renew = Effect.fnUntraced(function* (neon: NeonStorage, first: Pause) {
    let pause = first
    while (pause !== null) {
      yield* Effect.sleep(pause)
      pause = yield* Effect.retry(
        request(neon),
        Schedule.tap(retries, ({ duration, input }: Schedule.Metadata<Duration.Duration, Failure>) =>
          recordFailure(state, input, duration)
        )
      )
    }
    return yield* Effect.never
  }, Effect.orDie)

  const movedFrom = (addresses: string) =>
    state.changes.pipe(
      Stream.filter(({ spec }) => addressesOf(neonOf(spec)) !== addresses),
      Stream.runHead
    )

  const keep = Effect.gen(function* () {
    const before = yield* Ref.getAndSet(begun, null)
    const neon = yield* neonNow
    const addresses = addressesOf(neon)
    const pause = before?.addresses === addresses ? before.pause : Duration.zero
    yield* Effect.raceFirst(renew(neon, pause), movedFrom(addresses))
  }).pipe(Effect.forever)

  return { begin, keep }
})
