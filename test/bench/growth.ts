/**
 * What local storage costs as the database grows: start, stop, room, and bytes written for each byte of WAL.
 *
 * `node test/bench/growth.ts [MEGABYTES…]` (default 100 1000). For each size a table is filled, then rows all over it
 * are updated until two more bases were made. Written bytes are what compute_ctl alone hands to write(2), between two
 * bases that were followed by their spare; WAL is what lies between the starts of these bases. Room is what the
 * timeline's folder takes at rest, when no base is due, against PGDATA without its WAL, peak is the most that it took
 * while bases were made; disk is what all of it takes of the file system, PGDATA too, which is less than the sum where
 * files share blocks (and wrong when others write meanwhile). One machine, one round: read ratios. Last comes the
 * power law that fits the sizes.
 */
import { execFileSync, spawn, type ChildProcess } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { baseOf, fill, type Place, restsOnItsBase, spareIsReady, until, update } from "./localBases.ts"
import { endAll, freePort, user } from "./startRuns.ts"

const root = path.resolve(import.meta.dirname, "../..")
const sizes = process.argv.slice(2).map(Number)
const home = fs.mkdtempSync(path.join(process.env["BENCH_FOLDER"] ?? os.tmpdir(), "compute-ctl-growth-"))
fs.chmodSync(home, 0o755)

interface Compute {
  readonly child: ChildProcess
  /** Milliseconds from exec until it logged that it runs. */
  readonly millis: number
}

interface Here extends Place {
  readonly folder: string
  readonly httpPort: number
  readonly spec: string
}

const run = async (place: Here): Promise<Compute> => {
  const from = performance.now()
  const child = spawn(
    path.join(root, "bin/compute_ctl"),
    [
      `--storage=local:${place.folder}/storage`,
      `--pgdata=${place.pgdata}`,
      `--spec-path=${place.spec}`,
      `--connstr=postgresql://cloud_admin@127.0.0.1:${place.port}/postgres`,
      `--http-port=${place.httpPort}`,
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
  if (process.env["MEASURE"] !== undefined) console.log(text)
  return { child, millis: performance.now() - from }
}

const end = async ({ child }: Compute, signal: NodeJS.Signals): Promise<number> => {
  const from = performance.now()
  const exit = once(child, "exit")
  child.kill(signal)
  await exit
  return performance.now() - from
}

/** Bytes on the disk; a file with two names counts once, as `du` does it. */
const roomOf = (...folders: ReadonlyArray<string>): number =>
  folders
    .filter((folder) => fs.existsSync(folder))
    .map((folder) => {
      try {
        return Number(
          execFileSync("du", ["-sk", folder], { stdio: ["ignore", "pipe", "ignore"] })
            .toString()
            .split("\t")[0]
        )
      } catch (cause) {
        // Files that vanish while it looks make it fail, and its sum is printed all the same.
        return Number(String((cause as { readonly stdout?: Buffer }).stdout ?? "0").split("\t")[0])
      }
    })
    .reduce((a, b) => a + b, 0) * 1024

/** What is taken of the whole file system: where files share blocks, only this tells it. */
const usedBytes = (): number => {
  const { bfree, blocks, bsize } = fs.statfsSync(home)
  return (blocks - bfree) * bsize
}

const dataBytes = (place: Here): number =>
  fs
    .readdirSync(place.pgdata)
    .filter((name) => name !== "pg_wal")
    .map((name) => roomOf(path.join(place.pgdata, name)))
    .reduce((a, b) => a + b, 0)

const written = ({ child }: Compute): number =>
  Number(/^wchar: (\d+)$/m.exec(fs.readFileSync(`/proc/${child.pid}/io`, "utf8"))?.[1])

/** Postgres is killed with the program: its group is another one. */
const crash = async (place: Here, compute: Compute): Promise<void> => {
  await end(compute, "SIGKILL")
  await endAll(place.folder)
}

/** The size of the data, and what was written for each byte of WAL. */
type Measured = readonly [bytes: number, written: number]

/** The least squares of a power law: each doubling of the data multiplies what is written by the same. */
const printLaw = (measured: ReadonlyArray<Measured>): void => {
  if (measured.length < 2) return
  const points = measured.map(([bytes, written]) => [Math.log(bytes / 2 ** 30), Math.log(written)] as const)
  const mean = (at: 0 | 1) => points.reduce((sum, point) => sum + point[at], 0) / points.length
  const [x, y] = [mean(0), mean(1)]
  const slope =
    points.reduce((sum, [a, b]) => sum + (a - x) * (b - y), 0) / points.reduce((sum, [a]) => sum + (a - x) ** 2, 0)
  const at = (gigabytes: number) => Math.exp(y + slope * (Math.log(gigabytes) - x)).toFixed(2)
  console.log(
    `written/WAL = ${at(1)} x (data / GB) ^ ${slope.toFixed(3)}; by that ${at(20)} at 20 GB, ${at(100)} at 100 GB`
  )
}

const measure = async (megabytes: number): Promise<Measured> => {
  const folder = path.join(home, String(megabytes))
  const spec = JSON.parse(fs.readFileSync(path.join(root, "examples/spec.json"), "utf8")) as {
    readonly tenant_id: string
    readonly timeline_id: string
  }
  const usedBefore = usedBytes()
  fs.mkdirSync(folder)
  if (user !== null) fs.chownSync(folder, user.uid, user.gid)
  const place: Here = {
    folder,
    timeline: path.join(folder, "storage", spec.tenant_id, spec.timeline_id),
    pgdata: path.join(folder, "pgdata"),
    port: await freePort(),
    httpPort: await freePort(),
    spec: path.join(root, "examples/spec.json")
  }
  const first = await run(place)
  const rows = await fill(place, megabytes)
  const begun = baseOf(place).n
  // The base after the filling is the first whose cost is that of the updates.
  await until("there is a base of all of it", async () => {
    await update(place, rows)
    return baseOf(place).n > begun && spareIsReady(place)
  })
  const [from, writtenFrom] = [baseOf(place), written(first)]
  let peak = 0
  await until("two more bases were made", async () => {
    await update(place, rows)
    peak = Math.max(peak, roomOf(place.timeline))
    return baseOf(place).n >= from.n + 2
  })
  await until("the spare is ready", () => spareIsReady(place))
  const [to, writtenTo] = [baseOf(place), written(first)]
  const data = dataBytes(place)
  // What was written while the last base was made may call for another one.
  await until("no base is due", () => restsOnItsBase(place, data))
  const room = roomOf(place.timeline)
  const used = usedBytes() - usedBefore
  const stopMillis = await end(first, "SIGTERM")
  const second = await run(place)
  await until("the spare is ready", () => spareIsReady(place))
  await crash(place, second)
  const third = await run(place)
  await end(third, "SIGTERM")
  await endAll(folder)
  const wal = Number(to.lsn - from.lsn)
  const times = (bytes: number) => (bytes / data).toFixed(2).padStart(8)
  console.log(
    [
      (data / 2 ** 20).toFixed(0).padStart(8),
      second.millis.toFixed(0).padStart(12),
      third.millis.toFixed(0).padStart(12),
      stopMillis.toFixed(0).padStart(8),
      times(room),
      times(peak),
      times(used),
      ((writtenTo - writtenFrom) / wal).toFixed(2).padStart(12),
      `${to.n - from.n} in ${(wal / 2 ** 20).toFixed(0)} MB`.padStart(16)
    ].join("")
  )
  fs.rmSync(folder, { recursive: true, force: true })
  return [data, (writtenTo - writtenFrom) / wal]
}

try {
  console.log(`load ${os.loadavg()[0]?.toFixed(1)}, ${os.cpus().length} CPUs; room as a multiple of the data`)
  console.log(" data MB  start ms/stop  start ms/-9 stop ms    room    peak    disk written/WAL           bases")
  const measured: Array<Measured> = []
  for (const megabytes of sizes.length === 0 ? [100, 1000] : sizes) measured.push(await measure(megabytes))
  printLaw(measured)
} finally {
  await endAll(home)
  fs.rmSync(home, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })
}
