/**
 * Neon's storage: safekeepers make WAL durable, the pageserver turns it into pages, and both outlive us.
 *
 * Nothing is locked here: safekeepers fence an older compute by term, and the control plane runs one at a time.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ComputeState } from "../../compute/ComputeState.ts"
import { SpecInvalid } from "../../errors/Failure.ts"
import { Spawn } from "../../platform/Spawn.ts"
import { settlePauses } from "../../postgres/Pgdata.ts"
import { PostgresInstall } from "../../postgres/PostgresInstall.ts"
import { invalidLsn, printLsn } from "../../spec/identifiers.ts"
import type { NeonStorage as NeonSpec, ParsedSpec } from "../../spec/ParsedSpec.ts"
import { Storage, type Timeline } from "../Storage.ts"
import { acquireFromAll, type LeaseKeeper, makeLeaseKeeper } from "./leases.ts"
import { openBasebackup } from "./pageserver.ts"
import { askSafekeepers, makeSyncSafekeepers } from "./safekeepers.ts"

// ---------------------------------------------------------------------------------------------------------------------
// How long Neon's storage may keep us waiting, per kind of wait. Waits for nothing itself.
// ---------------------------------------------------------------------------------------------------------------------

export interface NeonDeadlines {
  /**
   * One safekeeper's `TIMELINE_STATUS`, dialling included. Only a lost quorum waits this long, and then the full sync
   * is there to fall back to; the reference's 100 ms made a loaded host take the long way with healthy safekeepers.
   */
  readonly ping: Duration.Duration
  /** One run of `postgres --sync-safekeepers` at the start; it waits for a quorum by itself. */
  readonly sync: Duration.Duration
  /** The only run at the end. Shorter: the data is acknowledged already, and somebody waits for us to leave. */
  readonly finalSync: Duration.Duration
  /** Dialling the pageserver and logging in. */
  readonly connect: Duration.Duration
  /** From the request to the first byte of the basebackup. */
  readonly firstByte: Duration.Duration
  /** Between two pieces of the basebackup. */
  readonly progress: Duration.Duration
  /** A lease on an LSN from one shard, dialling included. */
  readonly lease: Duration.Duration
}

export const NeonDeadlines = Context.Reference<NeonDeadlines>("compute/storage/neon/NeonDeadlines", {
  defaultValue: () => ({
    ping: Duration.millis(500),
    sync: Duration.minutes(5),
    finalSync: Duration.minutes(1),
    connect: Duration.seconds(10),
    firstByte: Duration.seconds(60),
    progress: Duration.seconds(60),
    lease: Duration.seconds(10)
  })
})

// ---------------------------------------------------------------------------------------------------------------------

export interface NeonOptions {
  /** Words before `postgres --sync-safekeepers`, such as `cgexec -g memory:neon-postgres`. */
  readonly prefix?: ReadonlyArray<string>
}

export const layerNeon = (
  options: NeonOptions = {}
): Layer.Layer<Storage, never, ComputeState | PostgresInstall | Spawn> =>
  Layer.effect(
    Storage,
    Effect.gen(function* () {
      const state = yield* ComputeState
      const deadlines = yield* NeonDeadlines
      const sync = makeSyncSafekeepers(yield* Spawn, yield* PostgresInstall, options.prefix ?? [])

      /** Runs an effect and keeps its milliseconds under a metric's name, if it succeeds. */
      const metered = <A, E>(name: "sync_sk_check_ms" | "sync_safekeepers_ms", effect: Effect.Effect<A, E>) =>
        Effect.gen(function* () {
          const before = yield* Clock.currentTimeMillis
          const value = yield* effect
          const millis = (yield* Clock.currentTimeMillis) - before
          yield* state.note((old) => ({ metrics: { ...old.metrics, [name]: millis } }))
          return value
        })

      const settleStart = Effect.fn("NeonStorage.settleStart")(function* (
        spec: ParsedSpec,
        neon: NeonSpec,
        pgdata: string
      ) {
        const question = {
          tenant: spec.tenant,
          timeline: spec.timeline,
          safekeepers: neon.safekeepers,
          token: neon.token
        }
        const judgement = yield* metered(
          "sync_sk_check_ms",
          Effect.provideService(askSafekeepers(question), NeonDeadlines, deadlines)
        )
        if (judgement._tag === "Synced") {
          yield* Effect.logInfo(`already synced at LSN ${printLsn(judgement.lsn)}`)
          return judgement.lsn
        }
        yield* Effect.logInfo(`the safekeepers must be synced: ${judgement.reason}`)
        return yield* metered(
          "sync_safekeepers_ms",
          sync({ pgdata, token: neon.token, pauses: settlePauses, within: deadlines.sync })
        )
      })

      /** Asking would prove nothing at the end: what Postgres wrote last may be on its way to one of them. */
      const settleEnd = (neon: NeonSpec, pgdata: string) =>
        sync({ pgdata, token: neon.token, pauses: [], within: deadlines.finalSync })

      /** As the spec is now: a replica may have become a primary, and a token another one. */
      const settleEndOf = Effect.fnUntraced(function* (claimed: ParsedSpec, neon: NeonSpec, pgdata: string) {
        const spec = (yield* state.now).spec ?? claimed
        return spec.mode._tag === "Primary" ? yield* settleEnd(spec.neon ?? neon, pgdata) : null
      })

      const timelineOf = (spec: ParsedSpec, neon: NeonSpec, pgdata: string, leases: LeaseKeeper | null): Timeline => ({
        commitLsn: (moment) => {
          if (moment === "end") return settleEndOf(spec, neon, pgdata)
          switch (spec.mode._tag) {
            case "Primary":
              return settleStart(spec, neon, pgdata)
            case "Static":
              return Effect.as(leases?.begin ?? Effect.void, spec.mode.lsn)
            case "Replica":
              return Effect.succeed(null)
          }
        },
        source: (lsn) => ({
          _tag: "Archive",
          lsn: lsn ?? invalidLsn,
          open: openBasebackup(spec, neon, lsn ?? invalidLsn, deadlines)
        }),
        secure: Effect.void,
        keep: leases?.keep ?? Effect.never,
        leave: () => Effect.void
      })

      const claim = Effect.fnUntraced(function* (spec: ParsedSpec, neon: NeonSpec, pgdata: string) {
        const leases =
          spec.mode._tag === "Static"
            ? yield* makeLeaseKeeper(state, { spec, neon, lsn: spec.mode.lsn }, acquireFromAll(deadlines))
            : null
        return timelineOf(spec, neon, pgdata, leases)
      })

      return Storage.of({
        kind: "neon",
        claim: (spec, pgdata) =>
          spec.neon === null
            ? Effect.fail(
                new SpecInvalid({
                  source: "storage",
                  problems: [
                    { path: "pageserver_connection_info", message: "Neon's storage needs the addresses of its parts" }
                  ]
                })
              )
            : claim(spec, spec.neon, pgdata)
      })
    })
  )

export const NeonStorage = { layer: layerNeon() }
