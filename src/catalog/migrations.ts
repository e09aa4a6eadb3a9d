/**
 * What is done once Postgres is up and users may connect: migrations that are due, and the newest version of the
 * extension `neon` where no apply has seen to it.
 *
 * Each migration is a transaction of its own. The first that fails ends it; the next start tries again from there.
 */
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Result from "effect/Result"
import { migrationFailure } from "../compute/counters.ts"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import { Admin } from "../pgwire/Admin.ts"
import { doBlock, quoteIdentifier } from "../pgwire/quote.ts"
import type { Answer } from "../pgwire/Wire.ts"
import { migrations } from "./planMigrations.ts"
import { newSqlStatistics, openSession, type Session } from "./sessions.ts"

const bookkeeping: ReadonlyArray<string> = [
  "CREATE SCHEMA IF NOT EXISTS neon_migration",
  "CREATE TABLE IF NOT EXISTS neon_migration.migration_id " +
    "(key pg_catalog.int4 NOT NULL PRIMARY KEY, id pg_catalog.int8 NOT NULL DEFAULT 0)"
]

/** Fails unless schema and table are a superuser's: what a tenant plants there would run as one. */
const checkBookkeepingOwner = doBlock(`
BEGIN
  IF NOT EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_roles o ON o.oid = c.relowner JOIN pg_catalog.pg_roles s ON s.oid = n.nspowner
    WHERE n.nspname = 'neon_migration' AND c.relname = 'migration_id' AND c.relkind = 'r' AND o.rolsuper AND s.rolsuper
  ) THEN
    RAISE EXCEPTION 'neon_migration.migration_id does not belong to a superuser';
  END IF;
END`)

const openBookkeeping = (superuser: string): ReadonlyArray<string> => [
  "INSERT INTO neon_migration.migration_id VALUES (0, 0) ON CONFLICT DO NOTHING",
  `ALTER SCHEMA neon_migration OWNER TO ${quoteIdentifier(superuser)}`,
  "REVOKE ALL ON SCHEMA neon_migration FROM PUBLIC"
]

const readLast = "SELECT id FROM neon_migration.migration_id WHERE key = 0"

const writeLast = (id: number): string => `UPDATE neon_migration.migration_id SET id = ${id} WHERE key = 0`

/** Fails with the first message that failed. Later ones were sent all the same. */
const firstFailure = (answers: ReadonlyArray<Answer>): Effect.Effect<void, WireFailed> => {
  const failed = answers.find(Result.isFailure)
  return failed === undefined ? Effect.void : Effect.fail(failed.failure)
}

const sendJoined = (session: Session, sqls: ReadonlyArray<string>) =>
  Effect.flatMap(session.send([sqls.filter((sql) => sql !== "").join(";\n")], sqls.length), firstFailure)

const countFailure = (id: number) => Metric.update(migrationFailure(id), 1)

/** The number of the last migration that is done. */
export const migrate: (privilegedRole: string) => Effect.Effect<number, WireFailed | TimedOut, Admin> = Effect.fn(
  "Applier.migrate"
)(function* (privilegedRole) {
  const admin = yield* Admin
  let current = 0
  return yield* Effect.scoped(
    Effect.gen(function* () {
      const session = yield* openSession(newSqlStatistics(), "migrations", null)
      yield* sendJoined(session, bookkeeping)
      yield* sendJoined(session, [checkBookkeepingOwner, ...openBookkeeping(admin.superuser)])
      const [answer] = yield* session.send([`${readLast}; SHOW server_version_num`], 2)
      if (answer === undefined) return yield* Effect.die("one message has one answer")
      const [read, version] = yield* Effect.fromResult(answer)
      let last = Number(read?.rows[0]?.[0] ?? 0)
      const major = Math.trunc(Number(version?.rows[0]?.[0]) / 10_000)
      for (const { id, sql } of migrations(privilegedRole, major)) {
        if (id <= last) continue
        current = id
        if (sql === null) {
          yield* Effect.logInfo(`Skipping migration id=${id}`)
          yield* sendJoined(session, [writeLast(id)])
        } else {
          yield* Effect.logInfo(`Running migration id=${id}`)
          yield* sendJoined(session, ["BEGIN", sql, writeLast(id), "COMMIT"])
          yield* Effect.logInfo(`Finished migration id=${id}`)
        }
        last = id
      }
      return last
    })
  ).pipe(Effect.tapError(() => countFailure(current)))
})

/** Postgres does nothing where it is as new as the files on disk. Nothing is sent where it is not installed. */
export const updateNeonExtension: Effect.Effect<void, WireFailed | TimedOut, Admin> = Effect.scoped(
  Effect.gen(function* () {
    const session = yield* openSession(newSqlStatistics(), "post_apply_config", null)
    const [answer] = yield* session.send(["SELECT 1 FROM pg_catalog.pg_extension WHERE extname = 'neon'"])
    if (answer === undefined) return yield* Effect.die("one message has one answer")
    const [known] = yield* Effect.fromResult(answer)
    if ((known?.rows.length ?? 0) > 0)
      yield* Effect.flatMap(session.send(["ALTER EXTENSION neon UPDATE"]), firstFailure)
  })
)
