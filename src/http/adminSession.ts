/**
 * How routes ask Postgres: one superuser session per request, with a deadline, and only where the status allows it.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { ComputeState } from "../compute/ComputeState.ts"
import type { Admin, Purpose } from "../pgwire/Admin.ts"
import { type Asked, type Dialect, wrongStatus } from "./httpAnswer.ts"

/** For one query. */
export const queryWithin = Duration.seconds(60)

/** One query by a session of its own. */
export const ask = (admin: Admin["Service"], purpose: Purpose, sql: string, database?: string) =>
  Effect.scoped(Effect.flatMap(admin.connect(purpose, database), (wire) => wire.rows(sql, queryWithin)))

export const mustRun = (state: ComputeState["Service"], dialect: Dialect, asked: Asked) =>
  Effect.flatMap(state.now, ({ status }) => status === "running" ? Effect.void : Effect.fail(wrongStatus(dialect, asked, status)))
