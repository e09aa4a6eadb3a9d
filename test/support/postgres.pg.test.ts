/**
 * The throw-away Postgres itself: every version starts, answers, and leaves nothing behind.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { installs, startPostgres, superuser } from "./postgres.ts"

describe("test/support/postgres", () => {
  for (const { major } of installs) {
    it.live(`starts Postgres ${major} and leaves nothing`, () =>
      Effect.gen(function* () {
        const seen = yield* Effect.scoped(
          Effect.gen(function* () {
            const postgres = yield* startPostgres({ major, settings: { work_mem: "'5MB'" } })
            const rows = yield* postgres.rows(
              "select current_user, current_setting('work_mem'), current_setting('server_version_num')"
            )
            assert.deepStrictEqual(rows[0]?.slice(0, 2), [superuser, "5MB"])
            assert.strictEqual(Math.trunc(Number(rows[0]?.[2]) / 10_000), major)
            return postgres
          })
        )
        assert.isFalse(fs.existsSync(seen.folder))
        assert.throws(() => process.kill(seen.pid, 0))
      })
    )
  }
})
