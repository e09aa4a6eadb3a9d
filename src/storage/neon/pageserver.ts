/**
 * A basebackup from the pageserver of shard 0, over its Postgres-protocol port.
 *
 * Only carries bytes: whether they are a whole archive is for `pgdata` to find out. A pageserver that stops
 * sending is a failure, not a wait. The connection is gone with the scope.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { type ConnString, parseConnString, printPeer } from "../../domain/ConnString.ts"
import { type Failure, NotSupported, SpecInvalid, TimedOut } from "../../domain/Failure.ts"
import { invalidLsn, type Lsn, printLsn } from "../../domain/Lsn.ts"
import { modeName, type NeonStorage, type ParsedSpec } from "../../domain/ParsedSpec.ts"
import type { Archive } from "../../PgdataSource.ts"
import { connect } from "../../pg/Wire.ts"
import type { NeonDeadlines } from "./deadlines.ts"

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

/** `prefer_protocol: grpc` is a wish: a libpq address beside it is used. */
const addressOf = (neon: NeonStorage): Result.Result<ConnString, NotSupported | SpecInvalid> => {
  const url = neon.pageservers.shards[0]?.libpqUrl ?? null
  if (url === null) {
    return Result.fail(
      new NotSupported({
        what: "a pageserver without a libpq_url",
        because: "a basebackup is fetched over the Postgres protocol only, not over gRPC"
      })
    )
  }
  return Result.mapError(parseConnString(url), (message) =>
    new SpecInvalid({ source: "storage", problems: [{ path: "pageserver_connection_info", message }] }))
}

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
        const what = pieces === 0 ? `the first byte of the basebackup from ${peer}` : `the next byte of the basebackup from ${peer}`
        pieces += 1
        return Effect.timeoutOrElse(pull, {
          duration: within,
          orElse: () => Effect.fail(new TimedOut({ what, millis: Duration.toMillis(within) }))
        })
      })
    }))

/** One attempt; a connection of its own. The storage token wins over a password in the address. */
export const openBasebackup: (
  spec: ParsedSpec,
  neon: NeonStorage,
  lsn: Lsn,
  deadlines: NeonDeadlines
) => Effect.Effect<Archive, Failure, Scope.Scope> = Effect.fn("NeonStorage.openBasebackup")(
  function*(spec, neon, lsn, deadlines) {
    const at = yield* Effect.fromResult(addressOf(neon))
    const password = neon.token ?? at.password
    const mode = `-c neon.compute_mode=${modeName(spec.mode)}`
    const before = yield* Clock.currentTimeNanos
    const wire = yield* connect({
      host: at.host,
      port: at.port,
      user: at.user ?? "no_user",
      applicationName: "compute_ctl",
      options: at.options === null ? mode : `${at.options} ${mode}`,
      connectWithin: deadlines.connect,
      ...(at.database === null ? {} : { database: at.database }),
      ...(password === null ? {} : { password })
    })
    const after = yield* Clock.currentTimeNanos
    return {
      bytes: watched(wire.copyOut(basebackupCommand(spec, lsn)), printPeer(at), deadlines),
      connectMicros: Math.round(Number(after - before) / 1000)
    }
  }
)
