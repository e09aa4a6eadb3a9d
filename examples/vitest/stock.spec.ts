import { expect } from "vitest"
import { test } from "./database.ts"

test("another file, and perhaps another process, has the same schema and none of its rows", async ({ sql }) => {
  expect([...(await sql`SELECT * FROM orders`)]).toEqual([])
})
