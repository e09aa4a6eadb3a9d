/**
 * Many computes on one machine: how long a storm of starts takes, and what each costs then and at rest.
 *
 * `npm run bench:fleet [-- COMPUTES]` (default 20). Each has local storage of its own. All make their first start, all
 * are stopped, all start again at once; then they rest. Processor time is compute_ctl's own and its children's that
 * ended, without Postgres; memory is what no other process shares, Postgres's not counted. The program is run as users
 * run it, by its launcher in an installation of its own; with `BENCH_BUNDLE=1` there is no snapshot in it.
 *
 * At the end one of them is asked for /status and /metrics as often as somebody asks each second for three hours, and
 * its memory is compared hour by hour.
 */
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import { endAll, freePort, start, type Started, user } from "./startRuns.ts"

const count = Number(process.argv[2] ?? 20)
const restSeconds = 10
const root = path.resolve(import.meta.dirname, "../..")
/** `/status` and `/metrics`, each second. */
const hourOfPolling = 3600
const hours = 3
const home = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-fleet-")))
fs.chmodSync(home, 0o755)

/** In a checkout the launcher would take sources that are newer; the Node of the snapshot is its Node all the same. */
const install = (): string => {
  const at = path.join(home, "installation")
  for (const folder of ["bin", "dist"])
    fs.cpSync(path.join(root, folder), path.join(at, folder), { recursive: true, preserveTimestamps: true })
  if (process.env["BENCH_BUNDLE"]) fs.rmSync(path.join(at, "dist/compute_ctl.snapshot"))
  fs.symlinkSync(path.join(root, "node_modules"), path.join(at, "node_modules"))
  return path.join(at, "bin/compute_ctl")
}
const launcher = install()

interface Place {
  readonly folder: string
  readonly port: number
  readonly httpPort: number
}

const launch = ({ folder, httpPort, port }: Place): Started =>
  start(
    launcher,
    [
      `--storage=local:${folder}/storage`,
      `--pgdata=${folder}/pgdata`,
      `--spec-path=${path.join(root, "examples/spec.json")}`,
      `--connstr=postgresql://cloud_admin@127.0.0.1:${port}/postgres`,
      `--http-port=${httpPort}`,
      ...(user === null ? [] : ["--run-as", user.name])
    ],
    { PATH: process.env["PATH"], POSTGRES_PATH: "" }
  )

/** Milliseconds of all threads, and of children that were waited for. */
const processorMillis = ({ pid }: Started): number => {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? []
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks) * 10, 0)
}

const privateMegabytes = ({ pid }: Started): number => {
  const text = fs.readFileSync(`/proc/${pid}/smaps_rollup`, "utf8")
  const kilobytes = ["Private_Clean", "Private_Dirty"].map((name) =>
    Number(new RegExp(`^${name}: +(\\d+)`, "m").exec(text)?.[1])
  )
  return kilobytes.reduce((a, b) => a + b, 0) / 1024
}

const median = (values: ReadonlyArray<number>): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN

/** All at once. */
const storm = async (what: string, places: ReadonlyArray<Place>): Promise<ReadonlyArray<Started>> => {
  const from = performance.now()
  const all = places.map(launch)
  await Promise.all(all.map((one) => one.says(/ to running: /)))
  const seconds = (performance.now() - from) / 1000
  const processor = median(all.map(processorMillis)) / 1000
  console.log(`${what}: ${seconds.toFixed(1)} s until all ran, ${processor.toFixed(2)} s of processor each`)
  return all
}

const rest = async (what: string, all: ReadonlyArray<Started>): Promise<void> => {
  await pause(restSeconds * 1000)
  const before = all.map(processorMillis)
  await pause(restSeconds * 1000)
  const idle = median(all.map((one, index) => processorMillis(one) - (before[index] ?? 0))) / restSeconds
  const memory = median(all.map(privateMegabytes))
  console.log(`${what}, at rest: ${memory.toFixed(0)} MB private each, ${idle.toFixed(1)} ms of processor a second`)
}

/** With connections that are kept, as a prober has them. */
const poll = async ({ httpPort }: Place, one: Started): Promise<void> => {
  const seen = [privateMegabytes(one)]
  for (let hour = 0; hour < hours; hour++) {
    for (let second = 0; second < hourOfPolling; second++)
      for (const route of ["status", "metrics"]) {
        const answer = await fetch(`http://127.0.0.1:${httpPort}/${route}`)
        if (!answer.ok) throw new Error(`/${route} answered ${answer.status}`)
        await answer.text()
      }
    await pause(1000)
    seen.push(privateMegabytes(one))
  }
  const figures = seen.map((megabytes) => megabytes.toFixed(1)).join(", ")
  console.log(`polled as often as in ${hours} hours: MB private before and after each: ${figures}`)
}

const stop = (all: ReadonlyArray<Started>) => Promise.all(all.map((one) => one.end("SIGTERM")))

try {
  console.log(`${count} computes, load ${os.loadavg()[0]?.toFixed(1)}, ${os.cpus().length} CPUs`)
  const places: Array<Place> = []
  for (let n = 0; n < count; n++) {
    const folder = path.join(home, String(n))
    fs.mkdirSync(folder)
    if (user !== null) fs.chownSync(folder, user.uid, user.gid)
    places.push({ folder, port: await freePort(), httpPort: await freePort() })
  }
  // The seed cluster is made once and copied, as an image has one; its initdb is nobody's start.
  const [first] = places
  if (first === undefined) throw new Error("how many computes?")
  const seed = launch(first)
  await seed.says(/ to running: /)
  await seed.end("SIGTERM")
  for (const { folder } of places.slice(1))
    fs.cpSync(path.join(first.folder, "storage/templates"), path.join(folder, "storage/templates"), { recursive: true })
  for (const { folder } of places.slice(1)) {
    const all = [folder, ...fs.readdirSync(folder, { recursive: true, encoding: "utf8" }).map((n) => `${folder}/${n}`)]
    if (user !== null) for (const one of all) fs.lchownSync(one, user.uid, user.gid)
  }
  const cold = await storm("first starts", places.slice(1))
  await rest("after first starts", cold)
  await stop(cold)
  const warm = await storm("restarts after a clean stop", places.slice(1))
  await rest("after restarts", warm)
  const [, place] = places
  const [polled] = warm
  if (place !== undefined && polled !== undefined) await poll(place, polled)
  await stop(warm)
} finally {
  await endAll(home)
  fs.rmSync(home, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })
}
