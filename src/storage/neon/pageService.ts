/**
 * The pageserver's gRPC service, as much of it as a start needs (docs/reference/compute_ctl.md#page-service): a
 * basebackup and leases.
 *
 * Loaded only when it is used (`shards.ts`), for it brings a whole HTTP/2 client along. Each call has a connection of
 * its own, without retries or name tricks of the library; the caller decides about those. Gone with the scope.
 */
import * as Grpc from "@grpc/grpc-js"
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import Protobuf, { type Reader, type Writer } from "protobufjs/minimal.js"
import { type Failure, WireFailed } from "../../errors/Failure.ts"
import { within } from "../../errors/within.ts"
import type { Archive } from "../../postgres/Pgdata.ts"
import { type Lsn, printShardIndex } from "../../spec/identifiers.ts"
import type { NeonDeadlines } from "./deadlines.ts"
import type { Lease, Pageserver, ShardTarget } from "./pageserver.ts"

// The messages of `page_api` in protobuf's bytes. Unknown fields are passed over, so a newer pageserver may send more.

interface BaseBackupRequest {
  /** `0/0`: the latest. */
  readonly lsn: Lsn
  readonly replica: boolean
}

/** Wire types of protobuf. */
const varint = 0
const field = (number: number, type: number): number => (number << 3) | type

/** The library's own pair of halves, which needs no number that is too big for JavaScript. */
const halves = (value: bigint) => ({ low: Number(value & 0xffff_ffffn), high: Number(value >> 32n), unsigned: true })

const writeLsn = (writer: Writer, lsn: Lsn): Writer =>
  lsn === 0n ? writer : writer.uint32(field(1, varint)).uint64(halves(lsn) as never)

const gzip = 2

export const encodeBaseBackupRequest = ({ lsn, replica }: BaseBackupRequest): Buffer => {
  const writer = writeLsn(new Protobuf.Writer(), lsn)
  if (replica) writer.uint32(field(2, varint)).bool(true)
  return Buffer.from(writer.uint32(field(4, varint)).int32(gzip).finish())
}

export const encodeLeaseRequest = (lsn: Lsn): Buffer => Buffer.from(writeLsn(new Protobuf.Writer(), lsn).finish())

/** Calls `take` at each field; what it does not read is passed over. */
const eachField = (reader: Reader, end: number, take: (number: number) => boolean): void => {
  while (reader.pos < end) {
    const tag = reader.uint32()
    if (!take(tag >>> 3)) reader.skipType(tag & 7)
  }
}

/** The bytes of the archive in one chunk. */
export const decodeChunk = (message: Buffer): Uint8Array => {
  const reader = Protobuf.Reader.create(message)
  let chunk: Uint8Array = new Uint8Array(0)
  eachField(reader, reader.len, (number) => {
    if (number !== 1) return false
    chunk = reader.bytes()
    return true
  })
  return chunk
}

/** When the lease ends, in milliseconds since the epoch; 0 when it does not say. */
export const decodeLease = (message: Buffer): number => {
  const reader = Protobuf.Reader.create(message)
  let millis = 0
  eachField(reader, reader.len, (outer) => {
    if (outer !== 1) return false
    const end = reader.uint32() + reader.pos
    eachField(reader, end, (inner) => {
      if (inner === 1) millis += Number(reader.int64().toString()) * 1000
      else if (inner === 2) millis += Math.floor(reader.int32() / 1_000_000)
      else return false
      return true
    })
    return true
  })
  return millis
}

const getBaseBackup = "/page_api.PageService/GetBaseBackup"
const leaseLsn = "/page_api.PageService/LeaseLsn"

const options: Grpc.ChannelOptions = {
  "grpc.max_receive_message_length": 64 * 1024 * 1024,
  "grpc.enable_retries": 0,
  "grpc.enable_http_proxy": 0,
  "grpc.service_config_disable_resolution": 1,
  "grpc.use_local_subchannel_pool": 1
}

const metadataOf = ({ number, shardCount, spec, token }: ShardTarget): Grpc.Metadata => {
  const metadata = new Grpc.Metadata()
  metadata.set("neon-tenant-id", spec.tenant)
  metadata.set("neon-timeline-id", spec.timeline)
  metadata.set("neon-shard-id", printShardIndex(number, shardCount))
  if (token !== null) metadata.set("authorization", `Bearer ${Redacted.value(token)}`)
  return metadata
}

const isServiceError = (cause: unknown): cause is Grpc.ServiceError =>
  cause instanceof Error && "code" in cause && typeof cause.code === "number" && "details" in cause

const failureOf =
  (operation: string, peer: string) =>
  (cause: unknown): WireFailed =>
    isServiceError(cause)
      ? new WireFailed({
          operation,
          peer,
          detail: cause.details,
          grpcStatus: Grpc.status[cause.code] ?? String(cause.code)
        })
      : new WireFailed({ operation, peer, detail: cause instanceof Error ? cause.message : String(cause), cause })

const open = (peer: string) =>
  Effect.acquireRelease(
    Effect.sync(() => new Grpc.Client(peer, Grpc.credentials.createInsecure(), options)),
    (client) => Effect.sync(() => client.close())
  )

/** Until it is connected, or cannot be: then the call will say why. */
const connected = (client: Grpc.Client): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const channel = client.getChannel()
    const look = (): void => {
      const state = channel.getConnectivityState(true)
      const { connectivityState: known } = Grpc
      if (state === known.READY || state === known.TRANSIENT_FAILURE || state === known.SHUTDOWN)
        return resume(Effect.void)
      channel.watchConnectivityState(state, Infinity, look)
    }
    look()
  })

const dial = Effect.fnUntraced(function* (peer: string, deadline: Duration.Duration) {
  const client = yield* open(peer)
  const before = yield* Clock.currentTimeNanos
  yield* connected(client).pipe(within(`connecting to ${peer}`, deadline))
  const after = yield* Clock.currentTimeNanos
  return { client, connectMicros: Math.round(Number(after - before) / 1000) }
})

const basebackup = (peer: string, target: ShardTarget, deadlines: NeonDeadlines) =>
  Effect.fnUntraced(function* (lsn: Lsn): Effect.fn.Return<Archive, Failure, Scope.Scope> {
    const { client, connectMicros } = yield* dial(peer, deadlines.connect)
    const request: BaseBackupRequest = { lsn, replica: target.spec.mode._tag !== "Primary" }
    const call = yield* Effect.acquireRelease(
      Effect.sync(() =>
        client.makeServerStreamRequest(getBaseBackup, encodeBaseBackupRequest, decodeChunk, request, metadataOf(target))
      ),
      // Its end is an `error` event, and one that nobody listens to would be thrown.
      (call) => Effect.sync(() => void call.on("error", () => {}).cancel())
    )
    return {
      bytes: Stream.fromAsyncIterable<Uint8Array, WireFailed>(call, failureOf("basebackup", peer)),
      connectMicros
    }
  })

const lease = (peer: string, target: ShardTarget, deadlines: NeonDeadlines) =>
  Effect.fnUntraced(function* (lsn: Lsn): Effect.fn.Return<Lease, Failure, Scope.Scope> {
    const { client } = yield* dial(peer, deadlines.connect)
    return yield* Effect.callback<Lease, Failure>((resume) => {
      const call = client.makeUnaryRequest(
        leaseLsn,
        encodeLeaseRequest,
        decodeLease,
        lsn,
        metadataOf(target),
        (error, until) => {
          if (error === null) return resume(Effect.succeed({ _tag: "Granted", until: until ?? 0 }))
          resume(
            error.code === Grpc.status.FAILED_PRECONDITION
              ? Effect.succeed({ _tag: "Refused", because: error.details })
              : Effect.fail(failureOf("lease lsn", peer)(error))
          )
        }
      )
      return Effect.sync(() => call.cancel())
    })
  }, Effect.scoped)

/** `peer` is `host:port`. */
export const grpcPageserver = (peer: string, target: ShardTarget, deadlines: NeonDeadlines): Pageserver => ({
  peer,
  basebackup: basebackup(peer, target, deadlines),
  lease: lease(peer, target, deadlines)
})
