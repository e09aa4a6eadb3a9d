/**
 * The pageserver of one shard: what a start asks of it, and how it is asked over libpq.
 *
 * Only carries bytes: whether they are a whole archive is found out where they are unpacked. Each attempt has a
 * connection of its own, gone with the scope. Which protocol a shard is asked over is decided in `shards.ts`.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { type Failure, SpecInvalid, WireFailed } from "../../errors/Failure.ts"
import { printHostPort } from "../../pgwire/address.ts"
import { parseConnString } from "../../pgwire/ConnString.ts"
import { connect } from "../../pgwire/Wire.ts"
import type { Archive } from "../../postgres/Pgdata.ts"
import { invalidLsn, type Lsn, printLsn, printTenantShard } from "../../spec/identifiers.ts"
import { modeName, type ParsedSpec } from "../../spec/ParsedSpec.ts"
import type { NeonDeadlines } from "./deadlines.ts"

/** docs/reference/compute_ctl.md#basebackup. Ids and LSN are digits and `/` only, so nothing can be injected. */
const basebackupCommand = (spec: Pick<ParsedSpec, "tenant" | "timeline" | "mode">, lsn: Lsn): string =>
  [
    "basebackup",
    spec.tenant,
    spec.timeline,
    ...(lsn === invalidLsn ? [] : [printLsn(lsn)]),
    "--gzip",
    ...(spec.mode._tag === "Primary" ? [] : ["--replica"])
  ].join(" ")

/** One shard of a timeline, and how we authenticate. */
export interface ShardTarget {
  readonly spec: Pick<ParsedSpec, "tenant" | "timeline" | "mode">
  readonly number: number
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

export const connectionInfoInvalid = (message: string): SpecInvalid =>
  new SpecInvalid({ source: "storage", problems: [{ path: "pageserver_connection_info", message }] })

/** docs/reference/compute_ctl.md#lsn-lease; the space at the end is the reference's. */
const leaseCommand = ({ number, shardCount, spec }: ShardTarget, lsn: Lsn): string =>
  `lease lsn ${printTenantShard(spec.tenant, number, shardCount)} ${spec.timeline} ${printLsn(lsn)} `

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
export const libpqPageserver = (
  url: string,
  target: ShardTarget,
  deadlines: NeonDeadlines
): Result.Result<Pageserver, SpecInvalid> =>
  Result.map(Result.mapError(parseConnString(url), connectionInfoInvalid), (at) => {
    const peer = printHostPort(at)
    const password = target.token ?? at.password
    const mode = `-c neon.compute_mode=${modeName(target.spec.mode)}`
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
        return { bytes: wire.copyOut(basebackupCommand(target.spec, lsn)), connectMicros }
      }),
      lease: Effect.fnUntraced(function* (lsn) {
        const wire = yield* dial
        const rows = yield* wire.rows(leaseCommand(target, lsn))
        return yield* Effect.fromResult(readLease(peer, rows[0]?.[0]))
      }, Effect.scoped)
    }
  })
