// One run of one library in a process of its own: `node measure.mjs FILE TESTS`; prints what it saw as JSON.
import { readdirSync, readFileSync } from "node:fs"
import { execFileSync } from "node:child_process"
import { tmpdir } from "node:os"

const [file, tests] = process.argv.slice(2)
const began = performance.now()
const { start } = await import(file)
const imported = performance.now()
const pg = await start()
await pg.query("SELECT 1")
const first = performance.now()

const isolated = []
await (await pg.isolate()).drop()
for (let test = 0; test < Number(tests); test++) {
  const from = performance.now()
  const one = await pg.isolate()
  const [{ orders }] = await one.query("SELECT count(*)::int AS orders FROM orders")
  isolated.push(performance.now() - from)
  if (orders !== 1000) throw new Error(`${orders} orders`)
  await one.query("INSERT INTO orders VALUES (0)")
  await one.drop()
}

/** What a file of /proc says, of a process that may have left. */
const numberIn = (file, pattern) => {
  try {
    return Number(pattern.exec(readFileSync(`/proc/${file}`, "utf8"))?.[1] ?? 0)
  } catch {
    return 0
  }
}

/** Of this process and all that it started, shared memory counted once. */
const memory = () => {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name))
  const parents = new Map(pids.map((pid) => [Number(pid), numberIn(`${pid}/status`, /^PPid:\s+(\d+)/m)]))
  const isOurs = (pid) => pid === process.pid || (parents.has(pid) && isOurs(parents.get(pid)))
  const ours = [...parents.keys()].filter(isOurs)
  return ours.reduce((sum, pid) => sum + numberIn(`${pid}/smaps_rollup`, /^Pss:\s+(\d+)/m), 0) / 1024
}

/** What is there while it runs, but for what later runs find again. */
const disk = () => {
  const own = readdirSync(tmpdir()).filter((name) => !name.startsWith("compute-ctl-cache-"))
  const sizes = own.map((name) => execFileSync("du", ["-sk", name], { cwd: tmpdir(), encoding: "utf8" }))
  return sizes.reduce((sum, line) => sum + Number.parseInt(line, 10), 0) / 1024
}

const seen = { import: imported - began, first: first - began, isolated, memory: memory(), disk: disk() }
await pg.stop()
process.stdout.write(JSON.stringify(seen))
process.exit(0)
