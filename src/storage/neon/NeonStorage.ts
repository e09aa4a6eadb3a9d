/**
 * Neon's storage: safekeepers make WAL durable, the pageserver turns it into pages, and both outlive us.
 *
 * Nothing is locked here: safekeepers fence an older compute by term, and the control plane runs one at a time.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import { ComputeState } from "../../compute/ComputeState.ts"
import { type Failure, SpecInvalid } from "../../errors/Failure.ts"
import { Spawn } from "../../platform/Spawn.ts"
import { PostgresInstall } from "../../postgres/PostgresInstall.ts"
import { invalidLsn, type Lsn, printLsn } from "../../spec/identifiers.ts"
import type { NeonStorage as NeonSpec, ParsedSpec } from "../../spec/ParsedSpec.ts"
import { Storage, type Timeline } from "../Storage.ts"
import { NeonDeadlines } from "./deadlines.ts"
import { makeLeaseRenewal } from "./leases.ts"
import { checkSynced } from "./safekeepers.ts"
import { acquireLease, openBasebackup } from "./shards.ts"
import { type EnterCgroup, makeSyncSafekeepers, startRetries } from "./syncSafekeepers.ts"

export interface NeonOptions {
  /** What the postmaster is started with too; by default nothing is entered. */
  readonly enter?: EnterCgroup
}

/** What every timeline of one storage shares. */
interface Shared {
  readonly state: ComputeState["Service"]
  readonly deadlines: NeonDeadlines
  readonly sync: ReturnType<typeof makeSyncSafekeepers>
}

/** The timeline as its spec described it when it was claimed. */
interface Claimed {
  readonly spec: ParsedSpec
  readonly neon: NeonSpec
  readonly pgdata: string
}

/** Runs an effect and keeps its milliseconds under a metric's name, if it succeeds. */
const metered = Effect.fnUntraced(function* <A, E>(
  state: ComputeState["Service"],
  name: "sync_sk_check_ms" | "sync_safekeepers_ms",
  effect: Effect.Effect<A, E>
) {
  const before = yield* Clock.currentTimeMillis
  const value = yield* effect
  const millis = (yield* Clock.currentTimeMillis) - before
  yield* state.note((old) => ({ metrics: { ...old.metrics, [name]: millis } }))
  return value
})

const commitLsnAtStart = Effect.fn("NeonStorage.commitLsnAtStart")(function* (
  { deadlines, state, sync }: Shared,
  { neon, pgdata, spec }: Claimed
) {
  const { tenant, timeline } = spec
  const { safekeepers, token } = neon
  const check = checkSynced({ tenant, timeline, safekeepers, token })
  const status = yield* metered(state, "sync_sk_check_ms", Effect.provideService(check, NeonDeadlines, deadlines))
  if (status._tag === "Synced") {
    yield* Effect.logInfo(`already synced at LSN ${printLsn(status.lsn)}`)
    return status.lsn
  }
  yield* Effect.logInfo(`the safekeepers must be synced: ${status.reason}`)
  return yield* metered(
    state,
    "sync_safekeepers_ms",
    sync({ pgdata, token, retries: startRetries, within: deadlines.sync })
  )
})

/**
 * Asking would prove nothing at the end: what Postgres wrote last may be on its way to one of them. Goes by the spec of
 * that moment: a replica may have become a primary, and a token another one.
 */
const commitLsnAtEnd = Effect.fnUntraced(function* ({ deadlines, state, sync }: Shared, claimed: Claimed) {
  const spec = (yield* state.now).spec ?? claimed.spec
  if (spec.mode._tag !== "Primary") return null
  const { token } = spec.neon ?? claimed.neon
  return yield* sync({ pgdata: claimed.pgdata, token, retries: Schedule.recurs(0), within: deadlines.finalSync })
})

const claim = Effect.fnUntraced(function* (shared: Shared, claimed: Claimed) {
  const { deadlines, state } = shared
  const { neon, spec } = claimed
  const { mode } = spec
  const leases =
    mode._tag === "Static"
      ? yield* makeLeaseRenewal(state, { spec, neon, lsn: mode.lsn }, acquireLease(deadlines))
      : null
  const atStart = (): Effect.Effect<Lsn | null, Failure> => {
    switch (mode._tag) {
      case "Primary":
        return commitLsnAtStart(shared, claimed)
      case "Static":
        return Effect.as(leases?.begin ?? Effect.void, mode.lsn)
      case "Replica":
        return Effect.succeed(null)
    }
  }
  return {
    commitLsn: (moment) => (moment === "start" ? atStart() : commitLsnAtEnd(shared, claimed)),
    source: (lsn) => ({
      _tag: "Archive",
      lsn: lsn ?? invalidLsn,
      open: openBasebackup(spec, neon, lsn ?? invalidLsn, deadlines)
    }),
    secure: Effect.void,
    keep: leases?.keep ?? Effect.never,
    leave: () => Effect.void
  } satisfies Timeline
})

const noAddresses = new SpecInvalid({
  source: "storage",
  problems: [{ path: "pageserver_connection_info", message: "Neon's storage needs the addresses of its parts" }]
})

const layer = (options: NeonOptions = {}): Layer.Layer<Storage, never, ComputeState | PostgresInstall | Spawn> =>
  Layer.effect(
    Storage,
    Effect.gen(function* () {
      const shared: Shared = {
        state: yield* ComputeState,
        deadlines: yield* NeonDeadlines,
        sync: makeSyncSafekeepers(yield* Spawn, yield* PostgresInstall, options.enter)
      }
      return Storage.of({
        kind: "neon",
        claim: (spec, pgdata) =>
          spec.neon === null ? Effect.fail(noAddresses) : claim(shared, { spec, neon: spec.neon, pgdata })
      })
    })
  )

export const NeonStorage = { layer }
