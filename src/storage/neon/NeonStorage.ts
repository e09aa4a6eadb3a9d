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
import { type Failure, SpecInvalid, SyncSafekeepersFailed } from "../../errors/Failure.ts"
import { Spawn } from "../../platform/Spawn.ts"
import { PostgresInstall } from "../../postgres/PostgresInstall.ts"
import { invalidLsn, type Lsn, printLsn } from "../../spec/identifiers.ts"
import type { NeonStorage as NeonSpec, ParsedSpec } from "../../spec/ParsedSpec.ts"
import { storageWarnings } from "../../spec/parseStorage.ts"
import { Storage, type Timeline } from "../Storage.ts"
import { NeonDeadlines } from "./deadlines.ts"
import { makeLeaseRenewal } from "./leases.ts"
import { checkSynced, surveySafekeepers, type TimelineQuery } from "./safekeepers.ts"
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
  const { token } = neon
  const query = queryOf(spec, neon)
  const check = checkSynced(query)
  const status = yield* metered(state, "sync_sk_check_ms", Effect.provideService(check, NeonDeadlines, deadlines))
  // "starting safekeepers syncing", "safekeepers synced at LSN" and "getting basebackup@" are searched for in logs.
  if (status._tag === "Synced") {
    yield* Effect.logInfo(`safekeepers synced at LSN ${printLsn(status.lsn)}: already synced`)
    return status.lsn
  }
  if (status._tag === "Refused")
    return yield* new SyncSafekeepersFailed({ attempts: 0, answers: [status.reason], hint: needsToken })
  yield* Effect.logInfo(`starting safekeepers syncing: ${status.reason}`)
  const lsn = yield* metered(
    state,
    "sync_safekeepers_ms",
    sync({ pgdata, token, retries: startRetries, within: deadlines.sync }).pipe(withAnswers(query, deadlines))
  )
  yield* Effect.logInfo(`safekeepers synced at LSN ${printLsn(lsn)}`)
  return lsn
})

const needsToken = "give a storage_auth_token that the safekeepers' key signed, for this tenant"

const queryOf = ({ tenant, timeline }: ParsedSpec, { safekeepers, token }: NeonSpec): TimelineQuery => ({
  tenant,
  timeline,
  safekeepers,
  token
})

/** A sync that failed tells which safekeepers are to blame: each is asked, and its answer goes into the failure. */
const withAnswers = (query: TimelineQuery, deadlines: NeonDeadlines) =>
  Effect.catch(
    Effect.fnUntraced(function* (failure: Failure): Effect.fn.Return<never, Failure> {
      if (failure._tag !== "SyncSafekeepersFailed") return yield* failure
      const answers = yield* Effect.provideService(surveySafekeepers(query), NeonDeadlines, deadlines)
      const { attempts, cause, hint } = failure
      return yield* new SyncSafekeepersFailed({ attempts, answers, cause, ...(hint === undefined ? {} : { hint }) })
    })
  )

/**
 * Asking would prove nothing at the end: what Postgres wrote last may be on its way to one of them. Goes by the spec of
 * that moment: a replica may have become a primary, and a token another one.
 */
const commitLsnAtEnd = Effect.fnUntraced(function* ({ deadlines, state, sync }: Shared, claimed: Claimed) {
  const spec = (yield* state.now).spec ?? claimed.spec
  if (spec.mode._tag !== "Primary") return null
  const neon = spec.neon ?? claimed.neon
  const request = {
    pgdata: claimed.pgdata,
    token: neon.token,
    retries: Schedule.recurs(0),
    within: deadlines.finalSync
  }
  return yield* sync(request).pipe(withAnswers(queryOf(spec, neon), deadlines))
})

const claim = Effect.fnUntraced(function* (shared: Shared, claimed: Claimed) {
  const { deadlines, state } = shared
  const { neon, spec } = claimed
  const { mode } = spec
  for (const warning of storageWarnings(neon)) yield* Effect.logWarning(warning)
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
