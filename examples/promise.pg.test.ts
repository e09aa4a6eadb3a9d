/**
 * A real compute in a test without Effect, with a client of one's own: a URL for each role, a new cluster for each
 * test, nothing left behind.
 */
import { type RunningCompute, startCompute } from "compute-ctl/promise"
import postgres from "postgres"
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest"

let pg: RunningCompute

beforeAll(async () => {
  pg = await startCompute({
    spec: {
      format_version: 1,
      suspend_timeout_seconds: -1,
      cluster: { roles: [{ name: "web" }], databases: [{ name: "shop", owner: "web" }] }
    }
  })
})
afterAll(() => pg.stop())
beforeEach(() => pg.reset())

for (const time of ["first", "second"]) {
  test(`the shop is empty for the ${time} test`, async () => {
    const sql = postgres(pg.urlOf("shop", "web"), { max: 1 })
    await sql`CREATE TABLE orders (id int)`
    await sql`INSERT INTO orders VALUES (1)`
    expect(await sql`SELECT count(*)::int AS orders, current_user AS me FROM orders`).toMatchObject([
      { orders: 1, me: "web" }
    ])
    await sql.end()
  })
}
