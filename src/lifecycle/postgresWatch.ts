/**
 * Watches whether the running Postgres takes new sessions: by the last line of postmaster.pid, for as long as it lives,
 * and by a new session now and then. Readiness and a condition say what it finds; it changes nothing.
 *
 * A Postgres that somebody else told to stop (a smart shutdown refuses everybody and waits for the last session, maybe
 * our own) is known by that line; the lifecycle then ends in order.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { codeOf } from "../errors/errno.ts"
import type { Failure, WireFailed } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { within } from "../errors/within.ts"
import { Admin } from "../pgwire/Admin.ts"
import type { Running } from "../postgres/Postmaster.ts"

const lookEvery = Duration.millis(500)
const tryEvery = Duration.seconds(5)
const sessionWithin = Duration.seconds(3)

/** Opens a session and closes it. Finds nothing wrong unless there is a Postgres to ask: see `newSession`. */
export const NewSession = Context.Reference<Effect.Effect<void, Failure>>("compute/lifecycle/NewSession", {
  defaultValue: () => Effect.void
})

export const newSession: Layer.Layer<never, never, Admin> = Layer.effect(
  NewSession,
  Effect.map(Admin, (admin) =>
    Effect.scoped(admin.connect("compute_monitor", undefined, "as users")).pipe(
      Effect.asVoid,
      Effect.catch((refused) => unlessOfDatabase(admin, refused))
    )
  )
)

/** Libraries that cannot be loaded may be the system database's own: its owner chose them, and others do without. */
const unlessOfDatabase = Effect.fnUntraced(function* (admin: Admin["Service"], refused: WireFailed) {
  const wire = yield* Effect.mapError(admin.connect("compute_monitor"), () => refused)
  const own = yield* wire.rows(
    "SELECT 1 FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c WHERE s.setdatabase <> 0 " +
      "AND (c LIKE 'local_preload_libraries=%' OR c LIKE 'session_preload_libraries=%') AND s.setdatabase = " +
      "(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
  )
  if (own.length === 0) return yield* refused
}, Effect.scoped)

/** Keeps `notAccepting` and the condition true to what a new session meets. */
export const postgresWatch = (postgres: Running): Actor<ComputeState> => ({
  name: "Postgres watch",
  kind: "auxiliary",
  run: Effect.forever(Effect.andThen(Effect.sleep(tryEvery), look(postgres)))
})

/** We have no descriptor or memory left to try with: that says nothing of Postgres. */
const isOurOwnShortage = (failure: Failure): boolean =>
  ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"].includes(codeOf("cause" in failure ? failure.cause : null) ?? "")

const look = Effect.fnUntraced(function* (postgres: Running) {
  const state = yield* ComputeState
  const found = yield* Effect.result(within("a new session of Postgres", sessionWithin)(yield* NewSession))
  if (Result.isFailure(found) && isOurOwnShortage(found.failure)) return
  const status = yield* postgres.status
  const refusal =
    status === "stopping"
      ? "Postgres is being stopped"
      : Result.isFailure(found)
        ? causesOf(found.failure).join(": ")
        : null
  yield* state.note((old) => (old.notAccepting === refusal ? {} : { notAccepting: refusal }))
  yield* refusal === null
    ? state.clear("postgres_not_accepting")
    : state.raise({ code: "postgres_not_accepting", message: `Postgres runs but takes no new session: ${refusal}` })
})

/** Returns once Postgres says that it is being stopped. Whether we asked for it is the caller's to know. */
export const stoppedFromOutside = (postgres: Running): Effect.Effect<void> =>
  Effect.suspend(() =>
    Effect.flatMap(postgres.status, (status) =>
      status === "stopping" ? Effect.void : Effect.andThen(Effect.sleep(lookEvery), stoppedFromOutside(postgres))
    )
  )
