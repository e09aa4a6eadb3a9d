// compute-ctl: a database for each test.
import { startCompute } from "compute-ctl/promise"
import postgres from "postgres"

const migrate = async (url) => {
  const sql = postgres(url, { max: 1 })
  await sql`CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id`
  await sql.end()
}

export const start = async () => {
  const pg = await startCompute()
  const isolate = async () => {
    const database = await pg.database({ migrate })
    const sql = postgres(database.url, { max: 1 })
    const drop = () => sql.end().then(database.drop)
    return { query: (text) => sql.unsafe(text), drop }
  }
  const sql = postgres(pg.url, { max: 1 })
  return { query: (text) => sql.unsafe(text), isolate, stop: () => sql.end().then(pg.stop) }
}
