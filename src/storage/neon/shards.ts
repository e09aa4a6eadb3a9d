/**
 * The shards of a timeline: each over whichever protocol its address and the spec's preference name, a basebackup from
 * shard 0, and a lease on an LSN from all of them.
 *
 * One attempt each, with deadlines: a pageserver that stops sending is a failure, not a wait. Who calls retries.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Failure } from "../../errors/Failure.ts"
import { within } from "../../errors/within.ts"
import { parseHostPort, printHostPort } from "../../pgwire/address.ts"
import type { Archive } from "../../postgres/Pgdata.ts"
import { type Lsn, printShardIndex } from "../../spec/identifiers.ts"
import type { NeonStorage, ParsedSpec } from "../../spec/ParsedSpec.ts"
import type { NeonDeadlines } from "./deadlines.ts"
import { connectionInfoInvalid, type Lease, libpqPageserver, type Pageserver, type ShardTarget } from "./pageserver.ts"

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
const pageserverOf = (
  target: ShardTarget,
  prefer: "libpq" | "grpc",
  deadlines: NeonDeadlines
): Effect.Effect<Pageserver, Failure> => {
  const { grpcUrl, libpqUrl, number } = target.shard
  if (grpcUrl !== null && (prefer === "grpc" || libpqUrl === null)) return grpcPageserver(grpcUrl, target, deadlines)
  if (libpqUrl !== null) return Effect.fromResult(libpqPageserver(libpqUrl, target, deadlines))
  return Effect.fail(connectionInfoInvalid(`no address for shard ${printShardIndex(number, target.shardCount)}`))
}

/** What is asked of each shard, in shard order. */
const shardsOf = (spec: ParsedSpec, neon: NeonStorage): ReadonlyArray<ShardTarget> =>
  neon.pageservers.shards.map((shard) => ({ spec, shard, shardCount: neon.pageservers.shardCount, token: neon.token }))

/** Fails a stream whose first piece, or any next piece, keeps us waiting. */
const withDeadlines = (
  bytes: Stream.Stream<Uint8Array, Failure>,
  peer: string,
  deadlines: Pick<NeonDeadlines, "firstByte" | "progress">
): Stream.Stream<Uint8Array, Failure> =>
  Stream.transformPull(bytes, (pull) =>
    Effect.sync(() => {
      let pieces = 0
      return Effect.suspend(() => {
        const deadline = pieces === 0 ? deadlines.firstByte : deadlines.progress
        const what =
          pieces === 0
            ? `the first byte of the basebackup from ${peer}`
            : `the next byte of the basebackup from ${peer}`
        pieces += 1
        return within(what, deadline)(pull)
      })
    })
  )

/** One attempt, at shard 0. */
export const openBasebackup: (
  spec: ParsedSpec,
  neon: NeonStorage,
  lsn: Lsn,
  deadlines: NeonDeadlines
) => Effect.Effect<Archive, Failure, Scope.Scope> = Effect.fn("NeonStorage.openBasebackup")(
  function* (spec, neon, lsn, deadlines) {
    const [target] = shardsOf(spec, neon)
    if (target === undefined) return yield* connectionInfoInvalid("there is no shard 0")
    const pageserver = yield* pageserverOf(target, neon.pageservers.preferProtocol, deadlines)
    const { bytes, connectMicros } = yield* pageserver.basebackup(lsn)
    return { bytes: withDeadlines(bytes, pageserver.peer, deadlines), connectMicros }
  }
)

/** Of all shards together: the earliest end counts, and one refusal refuses all. */
export type AcquireLease = (spec: ParsedSpec, neon: NeonStorage, lsn: Lsn) => Effect.Effect<Lease, Failure>

export const acquireLease =
  (deadlines: NeonDeadlines): AcquireLease =>
  (spec, neon, lsn) =>
    Effect.forEach(
      shardsOf(spec, neon),
      (target) =>
        Effect.gen(function* () {
          const pageserver = yield* pageserverOf(target, neon.pageservers.preferProtocol, deadlines)
          return yield* pageserver.lease(lsn).pipe(within(`a lease from ${pageserver.peer}`, deadlines.lease))
        }),
      { concurrency: "unbounded" }
    ).pipe(
      Effect.map((leases) =>
        leases.reduce((all, one) =>
          all._tag === "Refused" ? all : one._tag === "Refused" ? one : one.until < all.until ? one : all
        )
      )
    )
