/**
 * Watches whether a replica follows its primary, every second over one session. Readiness, a condition, `/conditions`
 * and metrics say what it finds; it changes nothing. Done once the replica is a primary.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Ref from "effect/Ref"
import type * as Scope from "effect/Scope"
import { monotonicMillis } from "../activity/ActivityMonitor.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { type Following, follow, notHeard, type ReplicaSample, type ReplicaState } from "../compute/replication.ts"
import type { Actor } from "../compute/Supervisor.ts"
import type { Failure } from "../errors/Failure.ts"
import { within } from "../errors/within.ts"
import { Admin } from "../pgwire/Admin.ts"
import { type Lsn, parseLsn } from "../spec/identifiers.ts"

const lookEvery = Duration.seconds(1)
const lookWithin = Duration.seconds(5)

const setting = (name: string) =>
  `(SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) '${name}')`

/** `latest_end_lsn` is where the primary's WAL ended when it last said so. */
const sampleSql = `
SELECT
  pg_catalog.pg_is_in_recovery(),
  r.status,
  (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - r.last_msg_receipt_time) * 1000)::pg_catalog.int8,
  pg_catalog.pg_last_wal_receive_lsn(),
  r.latest_end_lsn,
  pg_catalog.pg_last_wal_replay_lsn(),
  ${setting("wal_receiver_timeout")},
  ${setting("recovery_min_apply_delay")},
  ${setting("primary_conninfo")},
  ${setting("restore_command")}
FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_stat_wal_receiver r ON true`

const lsn = (text: string | null | undefined): Lsn => Option.getOrElse(parseLsn(text ?? ""), () => 0n as Lsn)
const millis = (text: string | null | undefined): number => Math.max(0, Number(text ?? 0))

/** `null`: it is no standby. */
export const readReplica = (row: ReadonlyArray<string | null> | undefined): ReplicaSample | null => {
  const [recovering, receiver, silentFor, received, end, replayed, timeout, delay, conninfo, restore] = row ?? []
  if (recovering !== "t") return null
  return {
    receiver: receiver ?? null,
    silentFor: millis(silentFor),
    end: lsn(received) > lsn(end) ? lsn(received) : lsn(end),
    replayed: lsn(replayed),
    receiverTimeout: millis(timeout),
    applyDelay: millis(delay),
    source: (conninfo ?? "") !== "" ? "primary" : (restore ?? "") !== "" ? "archive" : null
  }
}

type Look = Effect.Effect<ReplicaSample | null, Failure>

/** Opens a session, and answers how to look by it. There is nothing to look at unless there is a Postgres to ask. */
export const ReplicaLook = Context.Reference<Effect.Effect<Look, Failure, Scope.Scope>>(
  "compute/lifecycle/ReplicaLook",
  { defaultValue: () => Effect.succeed(Effect.succeed(null)) }
)

export const replicaLook: Layer.Layer<never, never, Admin> = Layer.effect(
  ReplicaLook,
  Effect.map(Admin, (admin) =>
    Effect.map(admin.connect("compute_monitor"), (wire) =>
      Effect.map(wire.rows(sampleSql, lookWithin), ([row]) => readReplica(row))
    )
  )
)

const isSame = (one: ReplicaState | null, other: ReplicaState): boolean =>
  one !== null && (Object.keys(other) as ReadonlyArray<keyof ReplicaState>).every((key) => one[key] === other[key])

const record = Effect.fnUntraced(function* (replica: ReplicaState) {
  const state = yield* ComputeState
  // A look without news wakes none of those who watch the state.
  if (!isSame((yield* state.now).replica, replica)) yield* state.note({ replica })
  yield* replica.notFollowing === null
    ? state.clear("replica_not_following")
    : state.raise({
        code: "replica_not_following",
        message: `this replica is not ready, because ${replica.notFollowing}`
      })
})

/** By one session, until it is no standby any more. Fails when Postgres does not answer. */
const followBy = Effect.fnUntraced(function* (memory: Ref.Ref<Following>, maxLag: Duration.Input) {
  const look = yield* within("a session with the replica", lookWithin)(yield* ReplicaLook)
  while (true) {
    const sample = yield* look
    if (sample === null) return
    const [now, wall] = [yield* monotonicMillis, yield* Clock.currentTimeMillis]
    const { following, state } = follow(yield* Ref.get(memory), sample, {
      maxLag: Duration.toMillis(maxLag),
      now,
      wall
    })
    yield* Ref.set(memory, following)
    yield* record(state)
    yield* Effect.sleep(lookEvery)
  }
}, Effect.scoped)

/** For a compute that begins as a replica. A Postgres that does not answer is the Postgres watch's to tell. */
export const replicaWatch = (maxLag: Duration.Input): Actor<ComputeState> => ({
  name: "replica watch",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    const state = yield* ComputeState
    const memory = yield* Ref.make(notHeard(yield* monotonicMillis))
    yield* followBy(memory, maxLag).pipe(
      Effect.tapError(() => Effect.sleep(lookEvery)),
      Effect.retry({ while: () => true })
    )
    yield* state.note({ replica: null })
    yield* state.clear("replica_not_following")
  })
})
