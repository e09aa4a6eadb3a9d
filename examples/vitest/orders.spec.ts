import { expect } from "vitest"
import { test } from "./database.ts"

for (const buyer of ["Ada", "Grace"]) {
  test.concurrent(`the first order is that of ${buyer}`, async ({ sql }) => {
    await sql`INSERT INTO orders VALUES (1, ${buyer})`
    expect([...(await sql`SELECT buyer, current_user AS me FROM orders`)]).toEqual([{ buyer, me: "web" }])
  })
}
