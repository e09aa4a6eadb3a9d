/**
 * The same with `node:test` and `await using`: `node --test examples/nodeTest.ts`.
 */
import assert from "node:assert/strict"
import { test } from "node:test"
import { startCompute } from "compute-ctl/promise"
import postgres from "postgres"

test("a compute lasts as long as its block", async () => {
  await using pg = await startCompute()
  const sql = postgres(pg.url)
  assert.deepEqual([...(await sql`SELECT 1 AS one`)], [{ one: 1 }])
  await sql.end()
})
