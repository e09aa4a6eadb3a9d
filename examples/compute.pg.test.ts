/**
 * A real compute in a test: real Postgres, ports and folders of its own, nothing left behind.
 */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { SqlClient } from "effect/sql/SqlClient"
import { Compute } from "compute-ctl"

const spec = {
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: { roles: [{ name: "web" }], databases: [{ name: "shop", owner: "web" }] }
}

layer(Compute.layer({ spec }), { timeout: "2 minutes" })("a shop", (it) => {
  it.effect("has its database", () =>
    Effect.gen(function* () {
      const compute = yield* Compute
      const session = yield* compute.connect("shop")
      assert.deepStrictEqual(yield* session.rows("select current_database()"), [["shop"]])
      assert.strictEqual((yield* compute.now).status, "running")
    })
  )

  it.effect("is written to by its owner, through a client of @effect/sql-pg", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* sql`CREATE TABLE orders AS SELECT 7 AS number`
      assert.deepStrictEqual(yield* sql`SELECT number, current_user AS owner FROM orders`, [
        { number: 7, owner: "web" }
      ])
    }).pipe(Effect.provide(Compute.sql("shop", "web")))
  )

  it.effect("has a database for each test", () =>
    Effect.gen(function* () {
      const compute = yield* Compute
      const { name } = yield* compute.database({ template: "shop" })
      const session = yield* compute.connect(name)
      assert.deepStrictEqual(yield* session.rows("select number from orders"), [["7"]])
    })
  )
})
