/**
 * What a branch costs, beside the two other ways to a copy: `cp -a` of the same files, and a database made from another
 * one as its template.
 *
 * `npm run bench:branch [-- MEGABYTES…]` (default 100 1000). For each size a database is filled, and branched while its
 * compute runs and somebody updates rows all over it. Time is the median of five; own is what a new branch takes of the
 * disk that nobody shares with it. The first query of a branch is answered by a compute that was started for it, with
 * everything it does (it lays the base out, a copy), the one of the database by the server that runs. Read ratios.
 */
import * as Effect from "effect/Effect"
import { execFileSync, spawn, type ChildProcess } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { Spawn } from "../../src/platform/Spawn.ts"
import type { TenantId, TimelineId } from "../../src/spec/identifiers.ts"
import { branchTimeline } from "../../src/storage/local/branch.ts"
import { listTimelines } from "../../src/storage/local/timelines.ts"
import { fill, type Place, restsOnItsBase, sql, until, update } from "./localBases.ts"
import { endAll, freePort, user } from "./startRuns.ts"

const root = path.resolve(import.meta.dirname, "../..")
const sizes = process.argv.slice(2).map(Number)
const home = fs.mkdtempSync(path.join(process.env["BENCH_FOLDER"] ?? os.tmpdir(), "compute-ctl-branch-"))
fs.chmodSync(home, 0o755)

const tenant = "a".repeat(32) as TenantId
const id = (n: number) => n.toString(16).padStart(32, "0") as TimelineId
const main = id(1)
const rounds = 5

const command = path.join(root, "bin/compute_ctl")

/** On a timeline of the storage in `folder`; until a query is answered. */
const run = async (folder: string, timeline: TimelineId): Promise<Place & { readonly child: ChildProcess }> => {
  const place = {
    timeline: path.join(folder, "storage", tenant, timeline),
    pgdata: path.join(folder, `pgdata-${timeline}`),
    port: await freePort()
  }
  const spec = `${folder}/spec-${timeline}.json`
  const cluster = { cluster_id: "bench", name: "bench", roles: [], databases: [], settings: [] }
  fs.writeFileSync(spec, JSON.stringify({ format_version: 1, tenant_id: tenant, timeline_id: timeline, cluster }))
  const child = spawn(
    command,
    [
      `--storage=local:${folder}/storage`,
      `--pgdata=${place.pgdata}`,
      `--spec-path=${spec}`,
      `--connstr=postgresql://cloud_admin@127.0.0.1:${place.port}/postgres`,
      `--http-port=${await freePort()}`,
      ...(user === null ? [] : ["--run-as", user.name])
    ],
    { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, POSTGRES_PATH: "" } }
  )
  let text = ""
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => (text = (text + chunk).slice(-20_000)))
  await until("it runs", () => {
    if (child.exitCode !== null) throw new Error(text)
    return / to running: /.test(text)
  })
  return { ...place, child }
}

const end = async (child: ChildProcess): Promise<void> => {
  const exit = once(child, "exit")
  child.kill("SIGTERM")
  await exit
}

const timed = async (work: () => Promise<unknown>): Promise<number> => {
  const from = performance.now()
  await work()
  return performance.now() - from
}

const median = (values: ReadonlyArray<number>): number => [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN

const bytesOf = (folder: string): number => Number(execFileSync("du", ["-sk", folder]).toString().split("\t")[0]) * 1024

const branchMillis = async (directory: string, place: Place, rows: number): Promise<number> => {
  const times: Array<number> = []
  for (let n = 0; n < rounds; n++) {
    const updating = update(place, rows)
    const request = { storage: directory, tenantId: tenant, from: main, to: id(10 + n) }
    times.push(await timed(() => Effect.runPromise(Effect.provide(branchTimeline(request), Spawn.layer))))
    await updating
  }
  return median(times)
}

const row = (cells: ReadonlyArray<string>): string =>
  cells.map((cell, column) => (column === 0 ? cell.padEnd(34) : cell.padStart(14))).join("")
const megabytesOf = (bytes: number): string => (bytes / 2 ** 20).toFixed(1)

const measure = async (megabytes: number): Promise<void> => {
  const folder = path.join(home, String(megabytes))
  fs.mkdirSync(folder)
  if (user !== null) fs.chownSync(folder, user.uid, user.gid)
  const directory = path.join(folder, "storage")
  const compute = await run(folder, main)
  await sql(compute, "create database seeded")
  const seeded = { ...compute, database: "seeded" }
  const rows = await fill(seeded, megabytes)
  const [[size = "0"] = []] = await sql(compute, "select sum(pg_database_size(oid)) from pg_database")
  await until("it rests on a base of all of it", () => restsOnItsBase(compute, Number(size)))
  const branch = await branchMillis(directory, seeded, rows)
  const viaCommand = await timed(async () =>
    execFileSync(command, ["branch", main, id(30), `--storage=local:${directory}`])
  )
  const own = (await Effect.runPromise(listTimelines(directory))).find(({ timeline }) => timeline === id(30))?.ownBytes
  const started = performance.now()
  const child = await run(folder, id(30))
  await sql({ ...child, database: "seeded" }, "select count(*) from t where id < 10")
  const first = performance.now() - started
  await end(child.child)
  const copies = path.join(folder, "copy")
  const { folder: base } = JSON.parse(fs.readFileSync(`${compute.timeline}/current.json`, "utf8")) as {
    readonly folder: string
  }
  const copy = await timed(async () => execFileSync("cp", ["-a", `${compute.timeline}/${base}`, copies]))
  const templated = await timed(() => sql(compute, "create database copied template seeded"))
  const [[oid = ""] = []] = await sql(compute, "select oid from pg_database where datname = 'copied'")
  const templateBytes = bytesOf(`${compute.pgdata}/base/${oid}`)
  const connected = await timed(() => sql({ ...compute, database: "copied" }, "select count(*) from t where id < 10"))
  const times = (millis: number) => `${(millis / branch).toFixed(1)} x`
  console.log(`\n${(Number(size) / 2 ** 20).toFixed(0)} MB of data, load ${os.loadavg()[0]?.toFixed(1)}`)
  console.log(row(["", "ms", "ratio", "own MB", "first query"]))
  console.log(row(["branch", branch.toFixed(0), "1", megabytesOf(own ?? 0), `${(branch + first).toFixed(0)} ms`]))
  console.log(row(["branch, the command", viaCommand.toFixed(0), times(viaCommand), "", ""]))
  console.log(row(["cp -a of the base", copy.toFixed(0), times(copy), megabytesOf(bytesOf(copies)), ""]))
  console.log(
    row([
      "CREATE DATABASE … TEMPLATE",
      templated.toFixed(0),
      times(templated),
      megabytesOf(templateBytes),
      `${(templated + connected).toFixed(0)} ms`
    ])
  )
  await end(compute.child)
  fs.rmSync(folder, { recursive: true, force: true })
}

try {
  for (const megabytes of sizes.length === 0 ? [100, 1000] : sizes) await measure(megabytes)
} finally {
  await endAll(home)
  fs.rmSync(home, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })
}
