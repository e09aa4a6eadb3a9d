/**
 * What is done once Postgres is up and users may come: numbered migrations, each in a transaction of its own, and
 * the newest version of the extension `neon`.
 *
 * The first migration that fails ends it; the next start tries again from there.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import { Admin } from "../pgwire/Admin.ts"
import type { Answer } from "../pgwire/Wire.ts"
import { bookkeeping, migrations, openBookkeeping, ownBookkeeping, readLast, writeLast } from "./migrations.ts"
import { freshTally, openSession, type Session } from "./sessions.ts"

/** Every message succeeds, or the first failure is the answer. Later ones were sent all the same. */
const all = (answers: ReadonlyArray<Answer>): Effect.Effect<void, WireFailed> => {
  const failed = answers.find(Result.isFailure)
  return failed === undefined ? Effect.void : Effect.fail(failed.failure)
}

const one = (session: Session, sqls: ReadonlyArray<string>) =>
  Effect.flatMap(session.send([sqls.filter((sql) => sql !== "").join(";\n")], sqls.length), all)

/** The number of the last migration that is done. */
export const migrate: (privilegedRole: string) => Effect.Effect<number, WireFailed | TimedOut, Admin> = Effect.fn("Applier.migrate")(
  function*(privilegedRole) {
    const admin = yield* Admin
    return yield* Effect.scoped(Effect.gen(function*() {
      const session = yield* openSession(freshTally(), "migrations", null)
      yield* one(session, bookkeeping)
      yield* one(session, [ownBookkeeping, ...openBookkeeping(admin.superuser)])
      const [answer] = yield* session.send([`${readLast}; SHOW server_version_num`], 2)
      if (answer === undefined) return yield* Effect.die("one message has one answer")
      const [read, version] = yield* Effect.fromResult(answer)
      let last = Number(read?.rows[0]?.[0] ?? 0)
      const major = Math.trunc(Number(version?.rows[0]?.[0]) / 10_000)
      for (const { id, sql } of migrations(privilegedRole, major)) {
        if (id <= last) continue
        if (sql === null) {
          yield* Effect.logInfo(`Skipping migration id=${id}`)
          yield* one(session, [writeLast(id)])
        } else {
          yield* Effect.logInfo(`Running migration id=${id}`)
          yield* one(session, ["BEGIN", sql, writeLast(id), "COMMIT"])
          yield* Effect.logInfo(`Finished migration id=${id}`)
        }
        last = id
      }
      return last
    }))
  }
)

/** Nothing where the extension is not installed, or is as new as the files on disk. */
export const updateNeonExtension: Effect.Effect<void, WireFailed | TimedOut, Admin> = Effect.scoped(Effect.gen(function*() {
  const session = yield* openSession(freshTally(), "post_apply_config", null)
  const [answer] = yield* session.send([
    "SELECT a.default_version <> e.extversion FROM pg_catalog.pg_available_extensions a " +
    "JOIN pg_catalog.pg_extension e ON e.extname = a.name WHERE a.name = 'neon'"
  ])
  if (answer === undefined) return yield* Effect.die("one message has one answer")
  const [known] = yield* Effect.fromResult(answer)
  if (known?.rows[0]?.[0] === "t") yield* Effect.flatMap(session.send(["ALTER EXTENSION neon UPDATE"]), all)
}))
