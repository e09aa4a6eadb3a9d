/**
 * The shards of a timeline: each over whichever protocol its address and the spec's preference name, a basebackup from
 * shard 0, and a lease on an LSN from all of them.
 *
 * One attempt each, with deadlines: a pageserver that stops sending is a failure, not a wait. Who calls retries.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Failure } from "../../errors/Failure.ts"
import { within } from "../../errors/within.ts"
import { parseHostPort, printHostPort } from "../../pgwire/address.ts"
import type { Archive } from "../../postgres/Pgdata.ts"
import { type Lsn, printLsn, printShardIndex } from "../../spec/identifiers.ts"
import type { NeonStorage, PageserverAddress, ParsedSpec } from "../../spec/ParsedSpec.ts"
import type { NeonDeadlines } from "./deadlines.ts"
import { connectionInfoInvalid, type Lease, libpqPageserver, type Pageserver, type ShardTarget } from "./pageserver.ts"
import { refusalOf } from "./refusals.ts"

const grpcPort = 51051

/** `host:port` of `grpc://host[:port]`. */
const grpcPeer = (url: string): Result.Result<string, string> => {
  const [, address = ""] = /^(?:grpc|http):\/\/([^/]+)\/?$/.exec(url) ?? []
  return Result.map(parseHostPort(/:[0-9]+$/.test(address) ? address : `${address}:${grpcPort}`), printHostPort)
}

/** The library is loaded here, at the first use, and nowhere else. */
const grpcPageserver = Effect.fnUntraced(function* (url: string, target: ShardTarget, deadlines: NeonDeadlines) {
  const peer = grpcPeer(url)
  if (Result.isFailure(peer)) {
    return yield* connectionInfoInvalid("expected a grpc_url such as grpc://pageserver:51051")
  }
  const client = yield* Effect.promise(() => import("./pageService.ts"))
  return client.grpcPageserver(peer.success, target, deadlines)
})

/** As preferred, or over the other protocol when only that has an address. */
const pageserverAt = (
  { grpcUrl, libpqUrl }: PageserverAddress,
  target: ShardTarget,
  prefer: "libpq" | "grpc",
  deadlines: NeonDeadlines
): Effect.Effect<Pageserver, Failure> => {
  if (grpcUrl !== null && (prefer === "grpc" || libpqUrl === null)) return grpcPageserver(grpcUrl, target, deadlines)
  if (libpqUrl !== null) return Effect.fromResult(libpqPageserver(libpqUrl, target, deadlines))
  return Effect.fail(connectionInfoInvalid(`no address for shard ${printShardIndex(target.number, target.shardCount)}`))
}

interface Shard {
  readonly target: ShardTarget
  readonly pageservers: ReadonlyArray<PageserverAddress>
}

/** What is asked of each shard, in shard order. */
const shardsOf = (
  spec: ParsedSpec,
  { pageservers: { shardCount, shards }, token }: NeonStorage
): ReadonlyArray<Shard> =>
  shards.map(({ number, pageservers }) => ({ target: { spec, number, shardCount, token }, pageservers }))

/** For as long as nothing comes; the second line says no more than the first. */
const sayWaiting = (what: string, deadline: Duration.Duration) =>
  Effect.logInfo(
    `still waiting for ${what}: it sends when it has the WAL up to that LSN. ` +
      `Given up after ${Duration.toSeconds(deadline)} s`
  ).pipe(Effect.delay("750 millis"), Effect.andThen(Effect.never))

/** Fails a stream whose first piece, or any next piece, keeps us waiting. */
const withDeadlines = (
  bytes: Stream.Stream<Uint8Array, Failure>,
  { lsn, peer }: { readonly peer: string; readonly lsn: Lsn },
  { firstByte, progress }: Pick<NeonDeadlines, "firstByte" | "progress">
): Stream.Stream<Uint8Array, Failure> =>
  Stream.transformPull(bytes, (pull) =>
    Effect.sync(() => {
      const first = `the first byte of the basebackup from ${peer}`
      const later = pull.pipe(within(`the next byte of the basebackup from ${peer}`, progress))
      let begun = false
      return Effect.suspend(() => {
        if (begun) return later
        begun = true
        return pull.pipe(
          within(first, firstByte),
          Effect.raceFirst(sayWaiting(`${first} at ${printLsn(lsn)}`, firstByte))
        )
      })
    })
  )

/** One attempt, at the first pageserver of shard 0. */
export const openBasebackup: (
  spec: ParsedSpec,
  neon: NeonStorage,
  lsn: Lsn,
  deadlines: NeonDeadlines
) => Effect.Effect<Archive, Failure, Scope.Scope> = Effect.fn("NeonStorage.openBasebackup")(
  function* (spec, neon, lsn, deadlines) {
    const [shard] = shardsOf(spec, neon)
    const address = shard?.pageservers[0]
    if (shard === undefined || address === undefined) return yield* connectionInfoInvalid("there is no shard 0")
    const pageserver = yield* pageserverAt(address, shard.target, neon.pageservers.preferProtocol, deadlines)
    yield* Effect.logInfo(`getting basebackup@${printLsn(lsn)} from pageserver ${pageserver.peer}`)
    const { bytes, connectMicros } = yield* Effect.mapError(pageserver.basebackup(lsn), refusalOf)
    const whole = withDeadlines(Stream.mapError(bytes, refusalOf), { peer: pageserver.peer, lsn }, deadlines)
    return { bytes: whole, connectMicros }
  }
)

/** Of all shards together: the earliest end counts, and one refusal refuses all. */
export type AcquireLease = (spec: ParsedSpec, neon: NeonStorage, lsn: Lsn) => Effect.Effect<Lease, Failure>

/** Each pageserver of a shard in turn, until one grants; if none does, a refusal counts more than a failure. */
const leaseOfShard = Effect.fnUntraced(function* (
  { pageservers, target }: Shard,
  prefer: "libpq" | "grpc",
  lsn: Lsn,
  deadlines: NeonDeadlines
): Effect.fn.Return<Lease, Failure> {
  const answers: Array<Result.Result<Lease, Failure>> = []
  for (const address of pageservers) {
    const answer = yield* pageserverAt(address, target, prefer, deadlines).pipe(
      Effect.flatMap(({ lease, peer }) => lease(lsn).pipe(within(`a lease from ${peer}`, deadlines.lease))),
      Effect.mapError(refusalOf),
      Effect.result
    )
    if (Result.isSuccess(answer) && answer.success._tag === "Granted") return answer.success
    answers.push(answer)
  }
  const refused = answers.find(Result.isSuccess)
  const [first] = answers
  if (first === undefined) return yield* connectionInfoInvalid("a shard has no pageserver")
  return yield* Effect.fromResult(refused ?? first)
})

export const acquireLease =
  (deadlines: NeonDeadlines): AcquireLease =>
  (spec, neon, lsn) =>
    Effect.forEach(
      shardsOf(spec, neon),
      (shard) => leaseOfShard(shard, neon.pageservers.preferProtocol, lsn, deadlines),
      { concurrency: "unbounded" }
    ).pipe(
      Effect.map((leases) =>
        leases.reduce((all, one) =>
          all._tag === "Refused" ? all : one._tag === "Refused" ? one : one.until < all.until ? one : all
        )
      )
    )
