/**
 * A database for each test, a copy of one that is migrated once per run, whichever file comes first.
 */
import { databaseAt } from "compute-ctl/promise"
import postgres from "postgres"
import { inject, test as base } from "vitest"

/** Or the migrations of Prisma, Drizzle, Flyway: all that they need is the URL. */
const migrate = async (url: string) => {
  const sql = postgres(url, { max: 1 })
  await sql`CREATE TABLE orders (id int PRIMARY KEY, buyer text NOT NULL)`
  await sql.end()
}

export const test = base.extend<{ sql: postgres.Sql }>({
  // oxlint-disable-next-line no-empty-pattern -- vitest reads what a fixture needs off the pattern
  sql: async ({}, use) => {
    await using database = await databaseAt(inject("postgres"), { migrate, owner: "web" })
    const sql = postgres(database.url)
    await use(sql)
    await sql.end()
  }
})
