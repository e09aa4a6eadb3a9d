/**
 * A real compute in a test, in ten lines: real Postgres, ports and folders of its own, nothing left behind.
 */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
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
})
