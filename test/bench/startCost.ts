/**
 * The processor time of a start against that of a bare Node which listens for HTTP, and whether it has grown.
 *
 * `npm run bench:cost [-- --write]` starts the built program from its launcher, in turns with the bare server, and
 * compares the ratios with those in `startCost.json`, which `--write` replaces. The exit code is 1 when one of them is
 * three tenths higher, three times in a row. Processor time, and the least of several rounds: other work on the machine
 * counts little. Where no snapshot was built there is nothing to compare. Linux only.
 */
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { processorMillis } from "./startPhases.ts"
import { endAll, freePort, start, user } from "./startRuns.ts"

const rounds = 7
/** Other kernels and processors weigh files and processes against V8 otherwise. */
const slack = 1.3
/** What else a machine does (flushing what was written before, its neighbours) makes a start dearer, and passes. */
const tries = 3

const root = path.resolve(import.meta.dirname, "../..")
const node = path.join(root, "node_modules/node/bin/node")
const launcher = path.join(root, "bin/compute_ctl")
const figures = path.join(import.meta.dirname, "startCost.json")

const home = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-cost-")))
fs.chmodSync(home, 0o777)
const env = { PATH: process.env["PATH"], XDG_CACHE_HOME: path.join(home, "cache") }

/** Until the port answers. */
const bare = async (): Promise<number> => {
  const port = await freePort()
  const text = `require("node:http").createServer((_, answer) => answer.end("ok")).listen(${port})`
  const run = start(node, ["-e", text], env)
  await run.accepts(port)
  const { all } = processorMillis(run.pid)
  await run.end("SIGKILL")
  return all
}

interface Cost {
  readonly http: number
  readonly running: number
}

/** Until HTTP answers, and until it runs. */
const ours = async (): Promise<Cost> => {
  const [port, httpPort] = [await freePort(), await freePort()]
  const args = [
    `--storage=local:${home}/storage`,
    `--pgdata=${home}/pgdata`,
    `--spec-path=${root}/examples/spec.json`,
    `--connstr=postgresql://cloud_admin@127.0.0.1:${port}/postgres`,
    `--http-port=${httpPort}`,
    ...(user === null ? [] : ["--run-as", user.name])
  ]
  const run = start(launcher, args, env)
  await run.accepts(httpPort)
  const http = processorMillis(run.pid).all
  await run.says(/ to running: /)
  const running = processorMillis(run.pid).all
  await run.end("SIGTERM")
  return { http, running }
}

const measured = async (): Promise<Cost> => {
  await ours()
  const [bares, all]: [Array<number>, Array<Cost>] = [[], []]
  for (let round = 0; round < rounds; round++) {
    bares.push(await bare())
    all.push(await ours())
  }
  const least = Math.min(...bares)
  const ratio = (pick: (cost: Cost) => number) => Number((Math.min(...all.map(pick)) / least).toFixed(2))
  console.log(`bare node:http: ${least.toFixed(1)} ms of processor time, the least of ${rounds}`)
  return { http: ratio(({ http }) => http), running: ratio(({ running }) => running) }
}

try {
  if (!fs.existsSync(path.join(root, "dist/compute_ctl.snapshot"))) throw new Error("build first: npm run build")
  let now = await measured()
  if (process.argv.includes("--write")) fs.writeFileSync(figures, `${JSON.stringify(now, null, 2)}\n`)
  const known: Cost = JSON.parse(fs.readFileSync(figures, "utf8"))
  const isDearer = () => now.http > known.http * slack || now.running > known.running * slack
  for (let n = 1; n < tries && isDearer(); n++) {
    const again = await measured()
    now = { http: Math.min(now.http, again.http), running: Math.min(now.running, again.running) }
  }
  for (const [what, name] of [
    ["until HTTP answers", "http"],
    ["a restart until it runs", "running"]
  ] as const) {
    const grown = now[name] > known[name] * slack
    console.log(
      `${what}: ${now[name]} x bare (${known[name]} when it was last written down)${grown ? ", too much" : ""}`
    )
    if (grown) process.exitCode = 1
  }
} finally {
  await endAll(home)
  fs.rmSync(home, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })
}
