// compute-ctl: a cluster for each test.
import { makeAncestor, startCompute } from "compute-ctl/promise"
import postgres from "postgres"

const migrate = async ({ url }) => {
  const sql = postgres(url, { max: 1 })
  await sql`CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id`
  await sql.end()
}

const branch = async (branchOf) => {
  const pg = await startCompute({ branchOf })
  const sql = postgres(pg.url, { max: 1 })
  return { query: (text) => sql.unsafe(text), drop: () => sql.end().then(pg.stop) }
}

export const start = async () => {
  const made = await makeAncestor({}, migrate)
  const { drop, query } = await branch(made.ancestor)
  return { query, isolate: () => branch(made.ancestor), stop: () => drop().then(made.remove) }
}
