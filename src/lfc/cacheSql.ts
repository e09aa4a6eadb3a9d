/**
 * The SQL of the local file cache: read its map, load one, and how many pages were loaded.
 *
 * The functions are those of the extension `neon`. A load that is interrupted has ended in Postgres too when the
 * interruption is over: the backend is cancelled, then ended, and waited for.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { type Admin, applicationName } from "../pgwire/Admin.ts"

type Sessions = Admin["Service"]

/** A large cache on a slow pageserver takes minutes. */
const loadWithin = Duration.minutes(30)
const askWithin = Duration.minutes(2)
/** For a cancelled backend to leave, before it is ended, and after. */
const leaveWithin = Duration.seconds(5)

/** The map is in the statement's text, which must reach no log, however it ends. */
const unlogged = `SET log_statement = 'none'; SET log_min_duration_statement = -1; SET log_min_duration_sample = -1;
SET log_transaction_sample_rate = 0; SET log_min_error_statement = 'panic'`

export interface Pages {
  readonly total: number
  readonly prewarmed: number
  readonly skipped: number
}

/** `null`: there is no cache, or nothing in it. */
export const askMap = (admin: Sessions): Effect.Effect<Buffer<ArrayBuffer> | null, WireFailed | TimedOut> =>
  Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* admin.connect("lfc_offload")
      const rows = yield* wire.rows("SELECT pg_catalog.encode(neon.get_local_cache_state(), 'hex')", askWithin)
      const hex = rows[0]?.[0] ?? null
      return hex === null ? null : Buffer.from(hex, "hex")
    })
  )

export const loadMap = (admin: Sessions, map: Uint8Array): Effect.Effect<Pages, WireFailed | TimedOut> =>
  Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* admin.connect("lfc_prewarm")
      yield* wire.simple(unlogged, askWithin)
      const literal = `'\\x${Buffer.from(map).toString("hex")}'::pg_catalog.bytea`
      yield* wire
        .simple(`SELECT neon.prewarm_local_cache(${literal})`, loadWithin)
        .pipe(Effect.onInterrupt(() => stopBackend(admin, wire.backendPid)))
      const rows = yield* wire.rows("SELECT * FROM neon.get_prewarm_info()", askWithin)
      const [total, prewarmed, skipped] = (rows[0] ?? []).map(Number)
      return { total: total ?? 0, prewarmed: prewarmed ?? 0, skipped: skipped ?? 0 }
    })
  )

/** Returns when this backend is gone, or when nothing makes it go. */
const stopBackend = (admin: Sessions, pid: number): Effect.Effect<void> =>
  Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* admin.connect("lfc_prewarm")
      const backend =
        `FROM pg_catalog.pg_stat_activity WHERE pid = ${pid} ` +
        `AND application_name = '${applicationName("lfc_prewarm")}'`
      const gone = Effect.repeat(wire.rows(`SELECT 1 ${backend}`, "5 seconds"), {
        schedule: Schedule.spaced("20 millis"),
        until: (rows) => rows.length === 0
      })
      for (const how of ["pg_cancel_backend", "pg_terminate_backend"]) {
        yield* wire.rows(`SELECT pg_catalog.${how}(pid) ${backend}`, "5 seconds")
        const left = yield* Effect.timeoutOption(gone, leaveWithin)
        if (left._tag === "Some") return
      }
      yield* Effect.logWarning(`the prewarm's backend ${pid} does not leave`)
    })
  ).pipe(
    Effect.timeoutOption(Duration.seconds(30)),
    Effect.catch((failure) =>
      Effect.logWarning(`the prewarm's backend ${pid} could not be stopped: ${explain(failure)}`)
    ),
    Effect.asVoid
  )
