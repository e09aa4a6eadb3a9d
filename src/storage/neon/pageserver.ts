/**
 * The pageserver of one shard, over whichever protocol its address and the spec's preference say: a basebackup, and
 * leases on an LSN.
 *
 * Only carries bytes: whether they are a whole archive is for `pgdata` to find out. A pageserver that stops
 * sending is a failure, not a wait. Each attempt has a connection of its own, gone with the scope.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type Failure, SpecInvalid, TimedOut, WireFailed } from "../../errors/Failure.ts"
import { printHostPort } from "../../pgwire/address.ts"
import { parseConnString } from "../../pgwire/ConnString.ts"
import { connect } from "../../pgwire/Wire.ts"
import type { Archive } from "../../postgres/Pgdata.ts"
import { invalidLsn, type Lsn, printLsn, printShardIndex, printTenantShard } from "../../spec/identifiers.ts"
import { modeName, type NeonStorage, type PageserverShard, type ParsedSpec } from "../../spec/ParsedSpec.ts"
import type { NeonDeadlines } from "./NeonStorage.ts"

/** Reference section 4.7 step 4. Ids and LSN are digits and `/` only, so nothing can be smuggled in. */
export const basebackupCommand = (spec: Pick<ParsedSpec, "tenant" | "timeline" | "mode">, lsn: Lsn): string =>
  [
    "basebackup",
    spec.tenant,
    spec.timeline,
    ...(lsn === invalidLsn ? [] : [printLsn(lsn)]),
    "--gzip",
    ...(spec.mode._tag === "Primary" ? [] : ["--replica"])
  ].join(" ")

/** Whose pages, and from whom. */
export interface Question {
  readonly spec: Pick<ParsedSpec, "tenant" | "timeline" | "mode">
  readonly shard: PageserverShard
  /** 0: unsharded. */
  readonly shardCount: number
  readonly token: Redacted.Redacted<string> | null
}

export type Lease =
  /** Milliseconds since the epoch. */
  | { readonly _tag: "Granted"; readonly until: number }
  /** For good: what was there at this LSN may be gone already. */
  | { readonly _tag: "Refused"; readonly because: string }

export interface Pageserver {
  /** `host:port`, for messages. */
  readonly peer: string
  readonly basebackup: (lsn: Lsn) => Effect.Effect<Archive, Failure, Scope.Scope>
  readonly lease: (lsn: Lsn) => Effect.Effect<Lease, Failure>
}

const invalid = (message: string): SpecInvalid =>
  new SpecInvalid({ source: "storage", problems: [{ path: "pageserver_connection_info", message }] })

/** Reference section 11.5; the space at the end is the reference's. */
export const leaseCommand = ({ shard, shardCount, spec }: Question, lsn: Lsn): string =>
  `lease lsn ${printTenantShard(spec.tenant, shard.number, shardCount)} ${spec.timeline} ${printLsn(lsn)} `

/** One column, the milliseconds since the epoch until which it is valid; NULL: refused. */
const readLease = (peer: string, value: string | null | undefined): Result.Result<Lease, WireFailed> =>
  value === null
    ? Result.succeed({ _tag: "Refused", because: "LSN is behind the GC cutoff" })
    : /^[0-9]{1,15}$/.test(value ?? "")
      ? Result.succeed({ _tag: "Granted", until: Number(value) })
      : Result.fail(
          new WireFailed({ operation: "lease lsn", peer, detail: "it answered something that is not a time" })
        )

/** The storage token wins over a password in the address. */
const libpqPageserver = (
  url: string,
  question: Question,
  deadlines: NeonDeadlines
): Result.Result<Pageserver, SpecInvalid> =>
  Result.map(Result.mapError(parseConnString(url), invalid), (at) => {
    const peer = printHostPort(at)
    const password = question.token ?? at.password
    const mode = `-c neon.compute_mode=${modeName(question.spec.mode)}`
    const dial = connect({
      host: at.host,
      port: at.port,
      user: at.user ?? "no_user",
      applicationName: "compute_ctl",
      options: at.options === null ? mode : `${at.options} ${mode}`,
      connectWithin: deadlines.connect,
      ...(at.database === null ? {} : { database: at.database }),
      ...(password === null ? {} : { password })
    })
    return {
      peer,
      basebackup: Effect.fnUntraced(function* (lsn) {
        const before = yield* Clock.currentTimeNanos
        const wire = yield* dial
        const after = yield* Clock.currentTimeNanos
        const connectMicros = Math.round(Number(after - before) / 1000)
        return { bytes: wire.copyOut(basebackupCommand(question.spec, lsn)), connectMicros }
      }),
      lease: Effect.fnUntraced(function* (lsn) {
        const wire = yield* dial
        const rows = yield* wire.rows(leaseCommand(question, lsn))
        return yield* Effect.fromResult(readLease(peer, rows[0]?.[0]))
      }, Effect.scoped)
    }
  })

const grpcAddress = /^(?:grpc|http):\/\/(\[[0-9A-Fa-f:.%]+\]|[^:/?#@[\]]+)(?::([0-9]{1,5}))?\/?$/
const grpcPort = 51051

/** The library is loaded here, at the first use, and nowhere else. */
const grpcPageserver = Effect.fnUntraced(function* (url: string, question: Question, deadlines: NeonDeadlines) {
  const [, host, port = grpcPort] = grpcAddress.exec(url) ?? []
  if (host === undefined) return yield* invalid("expected a grpc_url such as grpc://pageserver:51051")
  const client = yield* Effect.promise(() => import("./pageService.ts"))
  return client.grpcPageserver(`${host}:${port}`, question, deadlines)
})

/** As preferred, or over the other protocol when only that has an address. */
export const pageserverOf = (
  question: Question,
  prefer: "libpq" | "grpc",
  deadlines: NeonDeadlines
): Effect.Effect<Pageserver, Failure> => {
  const { grpcUrl, libpqUrl, number } = question.shard
  if (grpcUrl !== null && (prefer === "grpc" || libpqUrl === null)) return grpcPageserver(grpcUrl, question, deadlines)
  if (libpqUrl !== null) return Effect.fromResult(libpqPageserver(libpqUrl, question, deadlines))
  return Effect.fail(invalid(`no address for shard ${printShardIndex(number, question.shardCount)}`))
}

/** What is asked of each shard, in shard order. */
export const questionsOf = (spec: ParsedSpec, neon: NeonStorage): ReadonlyArray<Question> =>
  neon.pageservers.shards.map((shard) => ({ spec, shard, shardCount: neon.pageservers.shardCount, token: neon.token }))

/** Fails a stream whose first piece, or any next piece, keeps us waiting. */
const watched = (
  bytes: Stream.Stream<Uint8Array, Failure>,
  peer: string,
  deadlines: Pick<NeonDeadlines, "firstByte" | "progress">
): Stream.Stream<Uint8Array, Failure> =>
  Stream.transformPull(bytes, (pull) =>
    Effect.sync(() => {
      let pieces = 0
      return Effect.suspend(() => {
        const within = pieces === 0 ? deadlines.firstByte : deadlines.progress
        const what =
          pieces === 0
            ? `the first byte of the basebackup from ${peer}`
            : `the next byte of the basebackup from ${peer}`
        pieces += 1
        return Effect.timeoutOrElse(pull, {
          duration: within,
          orElse: () => Effect.fail(new TimedOut({ what, millis: Duration.toMillis(within) }))
        })
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
    const [question] = questionsOf(spec, neon)
    if (question === undefined) return yield* invalid("there is no shard 0")
    const pageserver = yield* pageserverOf(question, neon.pageservers.preferProtocol, deadlines)
    const { bytes, connectMicros } = yield* pageserver.basebackup(lsn)
    return { bytes: watched(bytes, pageserver.peer, deadlines), connectMicros }
  }
)
