// PGlite: Postgres in WebAssembly, in memory, one session; a clone for each test.
import { PGlite } from "@electric-sql/pglite"

export const start = async () => {
  const pg = await PGlite.create()
  let template
  const makeTemplate = async () => {
    const filled = await PGlite.create()
    await filled.exec("CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id")
    return filled
  }
  const isolate = async () => {
    const one = await (await (template ??= makeTemplate())).clone()
    return { query: async (text) => (await one.query(text)).rows, drop: () => one.close() }
  }
  const stop = async () => {
    await (await template)?.close()
    await pg.close()
  }
  return { query: async (text) => (await pg.query(text)).rows, isolate, stop }
}
