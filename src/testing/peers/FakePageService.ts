/**
 * An imitation pageserver that speaks gRPC: `page_api.PageService` with basebackups and leases, over a real socket,
 * well or badly. The messages are read and written by protobuf's own reflection, apart from the client's code.
 *
 * It serves one archive. Gone, with its port, when the scope ends.
 */
import * as Grpc from "@grpc/grpc-js"
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import type * as Scope from "effect/Scope"
import Protobuf from "protobufjs/light.js"
import { ListenFailed } from "../../errors/Failure.ts"
import { type FaultQueue, SeenList } from "./faults.ts"
import {
  attemptsOf,
  type PageserverAttempt,
  type PageserverOptions,
  refusedBasebackup,
  spoiled
} from "./FakePageserver.ts"
import { inUrl, type ListenAt } from "./serverWire.ts"

/**
 * Those of `PageserverFault` that a gRPC service can have. `stall`: at `at` it stops sending. `reset`: at `at` all
 * connections break. `cut`: at `at` the call ends as if whole.
 */
export type PageServiceFault =
  | "hang"
  | "wrong token"
  | "another tenant's token"
  | "unknown timeline"
  | "collected"
  | "ahead of the tip"
  | "cut"
  | "stall"
  | "reset"
  | "error mid-way"
  | "error after the end"
  | "corrupt gzip"
  | "truncated tar"

export interface PageServiceOptions extends Omit<PageserverOptions, "fault" | "failFirst" | "attempts" | "record"> {
  readonly fault?: PageServiceFault
  readonly failFirst?: number
  /** `NNCC`. Default: unsharded. */
  readonly shard?: string
  readonly attempts?: FaultQueue<PageserverAttempt<PageServiceFault>>
  readonly record?: SeenList<PageServiceSeen>
}

/** One call, as the client made it. */
export interface PageServiceSeen {
  readonly method: "GetBaseBackup" | "LeaseLsn"
  /** The lower-case names of the metadata that came, with their values. */
  readonly metadata: Readonly<Record<string, string>>
  readonly request: Readonly<Record<string, unknown>>
}

export interface FakePageService {
  /** For a spec's `grpc_url`. */
  readonly url: string
  readonly port: number
  readonly seen: Effect.Effect<ReadonlyArray<PageServiceSeen>>
  /** Calls that are being answered right now. */
  readonly calls: Effect.Effect<number>
}

const root = Protobuf.Root.fromJSON({
  nested: {
    page_api: {
      nested: {
        Compression: { values: { UNKNOWN: 0, NONE: 1, GZIP: 2 } },
        GetBaseBackupRequest: {
          fields: {
            lsn: { type: "uint64", id: 1 },
            replica: { type: "bool", id: 2 },
            full: { type: "bool", id: 3 },
            compression: { type: "Compression", id: 4 }
          }
        },
        GetBaseBackupResponseChunk: { fields: { chunk: { type: "bytes", id: 1 } } },
        LeaseLsnRequest: { fields: { lsn: { type: "uint64", id: 1 } } },
        Timestamp: { fields: { seconds: { type: "int64", id: 1 }, nanos: { type: "int32", id: 2 } } },
        LeaseLsnResponse: { fields: { expires: { type: "Timestamp", id: 1 } } }
      }
    }
  }
})

const codec = (name: string) => {
  const type = root.lookupType(`page_api.${name}`)
  return {
    encode: (value: Readonly<Record<string, unknown>>) => Buffer.from(type.encode(type.create(value)).finish()),
    decode: (bytes: Buffer): Readonly<Record<string, unknown>> =>
      type.toObject(type.decode(bytes), { longs: String, enums: String })
  }
}

const method = (path: string, request: string, response: string, responseStream: boolean) => ({
  path: `/page_api.PageService/${path}`,
  requestStream: false,
  responseStream,
  requestSerialize: codec(request).encode,
  requestDeserialize: codec(request).decode,
  responseSerialize: codec(response).encode,
  responseDeserialize: codec(response).decode
})

const service = {
  GetBaseBackup: method("GetBaseBackup", "GetBaseBackupRequest", "GetBaseBackupResponseChunk", true),
  LeaseLsn: method("LeaseLsn", "LeaseLsnRequest", "LeaseLsnResponse", false)
}

const refusedLease = "tried to request an lsn lease for an lsn below the latest gc cutoff"

type Call = Pick<Grpc.ServerUnaryCall<Readonly<Record<string, unknown>>, unknown>, "metadata" | "request">

const listen = (server: Grpc.Server, { host = "127.0.0.1", port: wanted = 0 }: ListenAt = {}) =>
  Effect.callback<number, ListenFailed>((resume) =>
    server.bindAsync(`${inUrl(host)}:${wanted}`, Grpc.ServerCredentials.createInsecure(), (cause, port) =>
      resume(
        cause === null
          ? Effect.succeed(port)
          : Effect.fail(new ListenFailed({ what: "the imitation page service", port: wanted, cause }))
      )
    )
  )

type ArchiveCall = Grpc.ServerWritableStream<Readonly<Record<string, unknown>>, unknown>

const metadataOf = ({ metadata }: Call, key: string): string => String(metadata.get(key)[0] ?? "")

const seenOf = (method: PageServiceSeen["method"], call: Call): PageServiceSeen => {
  const keys = ["neon-tenant-id", "neon-timeline-id", "neon-shard-id", "authorization"].filter(
    (key) => call.metadata.get(key).length > 0
  )
  return {
    method,
    metadata: Object.fromEntries(keys.map((key) => [key, metadataOf(call, key)])),
    request: call.request
  }
}

const { FAILED_PRECONDITION, INTERNAL, INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED } = Grpc.status

/** Why a call is refused, with the status and the words of a real one; `null`: it is not. */
const refusalOf = (options: PageServiceOptions, call: Call, now: PageServiceFault | undefined) => {
  const asked = metadataOf(call, "authorization")
  const isGood = options.token === undefined || asked === `Bearer ${options.token}`
  if (now === "wrong token" || !isGood)
    return asked === ""
      ? { code: UNAUTHENTICATED, details: "no authorization header" }
      : { code: INVALID_ARGUMENT, details: "invalid JWT token: JWT authentication error" }
  if (now === "another tenant's token")
    return { code: PERMISSION_DENIED, details: "Tenant id mismatch. Permission denied" }
  const tenant = metadataOf(call, "neon-tenant-id")
  const timeline = metadataOf(call, "neon-timeline-id")
  const known =
    tenant === options.tenant &&
    timeline === options.timeline &&
    metadataOf(call, "neon-shard-id") === (options.shard ?? "0000")
  return now === "unknown timeline" || !known
    ? { code: NOT_FOUND, details: `Timeline ${tenant}/${timeline} was not found` }
    : null
}

const send = async (call: ArchiveCall, bytes: Uint8Array, to: number, pieceBytes: number) => {
  const cancelled = new Promise<void>((resolve) => call.once("cancelled", () => resolve()))
  for (let from = 0; from < to && !call.cancelled; from += pieceBytes) {
    const writable = call.write({ chunk: bytes.subarray(from, Math.min(from + pieceBytes, to)) })
    if (!writable && !call.cancelled)
      await Promise.race([new Promise<void>((resolve) => call.once("drain", resolve)), cancelled])
  }
}
/** The answer to GetBaseBackup, with what goes wrong in it. */
const serveArchive = async (
  server: Grpc.Server,
  { archive, at = 0.5, pieceBytes = 64 * 1024 }: PageServiceOptions,
  call: ArchiveCall,
  now: PageServiceFault | undefined
) => {
  const bytes = spoiled(archive, now, at)
  const breaks = now === "cut" || now === "stall" || now === "reset" || now === "error mid-way"
  await send(call, bytes, breaks ? Math.floor(bytes.length * at) : bytes.length, pieceBytes)
  if (now === "stall") return
  if (now === "reset") return server.forceShutdown()
  if (now === "error mid-way") return call.emit("error", { code: INTERNAL, details: "a layer file could not be read" })
  if (now === "error after the end") {
    return call.emit("error", { code: INTERNAL, details: "the timeline was shut down while it was read" })
  }
  call.end()
}

/** Answers GetBaseBackup: a refusal, or the archive. */
const basebackup = (
  server: Grpc.Server,
  options: PageServiceOptions,
  call: ArchiveCall,
  now: PageServiceFault | undefined
): void => {
  const refused = refusalOf(options, call, now)
  if (refused !== null) return void call.emit("error", refused)
  const below = refusedBasebackup(now, true, String(call.request["lsn"]))
  if (below !== null)
    return void call.emit("error", { code: INVALID_ARGUMENT, details: `invalid basebackup LSN: ${below}` })
  const arrived = now === "ahead of the tip" ? Effect.runPromise(options.arrival ?? Effect.never) : Promise.resolve()
  arrived
    .then(() => serveArchive(server, options, call, now))
    .catch((cause: unknown) => call.emit("error", { code: INTERNAL, details: String(cause) }))
}

/**
 * A pageserver that sends one archive and grants leases, by gRPC.
 *
 * @example
 * ```ts
 * const ids = { tenant: "a".repeat(32), timeline: "b".repeat(32) }
 * const { url } = yield* makeFakePageService({ ...ids, archive: new Uint8Array() })
 * ```
 */
export const makeFakePageService: (
  options: PageServiceOptions
) => Effect.Effect<FakePageService, ListenFailed, Scope.Scope> = Effect.fnUntraced(function* (options) {
  const clock = yield* Clock.Clock
  const { attempts = attemptsOf(options), record = new SeenList<PageServiceSeen>() } = options
  const server = new Grpc.Server()
  let calls = 0
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  /** After the delay of the attempt, if it has one. */
  const later = (delay: Duration.Duration | undefined, then: () => void) =>
    delay === undefined ? then() : void run(Effect.andThen(Effect.sleep(delay), Effect.sync(then)))

  server.addService(service, {
    GetBaseBackup: (call: ArchiveCall) => {
      const { at, delay, fault: now } = attempts.next() ?? {}
      calls += 1
      call.once("close", () => void (calls -= 1))
      record.add(seenOf("GetBaseBackup", call))
      if (now === "hang") return
      later(delay, () => basebackup(server, at === undefined ? options : { ...options, at }, call, now))
    },
    LeaseLsn: (
      call: Grpc.ServerUnaryCall<Readonly<Record<string, unknown>>, unknown>,
      answer: Grpc.sendUnaryData<unknown>
    ) => {
      const { delay, fault: now } = attempts.next() ?? {}
      record.add(seenOf("LeaseLsn", call))
      if (now === "hang") return
      later(delay, () => {
        const refused = refusalOf(options, call, now)
        if (refused !== null) return answer(refused)
        const { lease = 3_600_000 } = options
        if (lease === "refused") return answer({ code: FAILED_PRECONDITION, details: refusedLease })
        const until = clock.currentTimeMillisUnsafe() + lease
        answer(null, { expires: { seconds: Math.floor(until / 1000), nanos: Math.floor(until % 1000) * 1_000_000 } })
      })
    }
  })
  const port = yield* listen(server, options.listen)
  yield* Effect.addFinalizer(() => Effect.sync(() => server.forceShutdown()))
  const url = `grpc://${inUrl(options.listen?.host ?? "127.0.0.1")}:${port}`
  return { url, port, seen: Effect.sync(() => record.all), calls: Effect.sync(() => calls) }
})
