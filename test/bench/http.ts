/**
 * What `/status` and `/metrics` cost, idle and while a spec is being applied, beside a bare `node:http` server that
 * answers the same bytes; and while local storage makes a base of what the applies left (1 GB).
 *
 * `npm run bench:http [-- ROUNDS]`. The program runs as users run it: a process, with a real Postgres on local storage.
 * Both servers take turns, so what slows the machine slows both: read ratios. Leaves no process and no folder behind.
 */
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import { freePort, runAs, temporaryFolder } from "../support/postgres.ts"
import { baseOf, fill, type Place, spareIsReady, until, update } from "./localBases.ts"
import { flatOut, paced, type Seen } from "./httpLoad.ts"

const rounds = Number(process.argv[2] ?? 3)
const seconds = 2
const connections = 16
/** A rate that neither server is troubled by: what is seen is what one request meets. */
const rate = 500

const spec = (objects: number) => ({
  format_version: 1,
  tenant_id: "bbe3e2d5d1ae4b0b8e3e6d2b8ff3b001",
  timeline_id: "bbe3e2d5d1ae4b0b8e3e6d2b8ff3b002",
  suspend_timeout_seconds: -1,
  cluster: {
    roles: Array.from({ length: objects }, (_, n) => ({ name: `role_${n}`, encrypted_password: null, options: null })),
    databases: Array.from({ length: Math.floor(objects / 4) }, (_, n) => ({
      name: `database_${n}`,
      owner: `role_${n}`,
      options: null
    }))
  }
})

/** The launcher's. */
const nodeFlags = ["--max-semi-space-size=1"]

const placeOf = (directory: string, port: number): Place => {
  const { tenant_id, timeline_id } = spec(0)
  const timeline = path.join(directory, "storage", tenant_id, timeline_id)
  return { timeline, pgdata: path.join(directory, "pgdata"), port }
}

interface Program {
  readonly http: (route: string, init?: RequestInit) => Promise<{ readonly status: number; readonly text: string }>
}

const program = (directory: string, httpPort: number, port: number) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const file = path.join(directory, "spec.json")
      fs.writeFileSync(file, JSON.stringify(spec(0)))
      const args = ["--storage", `local:${directory}/storage`, "--durability", "process", "-D", `${directory}/pgdata`]
      args.push(
        "-C",
        `postgresql://cloud_admin@127.0.0.1:${port}/postgres`,
        "-S",
        file,
        "--http-port",
        String(httpPort)
      )
      if (runAs !== null) args.push("--run-as", runAs.name)
      // The built program, unless the sources are newer.
      return spawn(path.join(import.meta.dirname, "../../bin/compute_ctl"), args, {
        stdio: ["ignore", "ignore", fs.openSync(path.join(directory, "log"), "w")]
      })
    }),
    (child) =>
      Effect.promise(async () => {
        // One that did not even start has left already.
        if (child.exitCode !== null || child.signalCode !== null) return
        child.kill("SIGTERM")
        await once(child, "exit")
      })
  ).pipe(
    Effect.as<Program>({
      http: async (route, init) => {
        const response = await fetch(`http://127.0.0.1:${httpPort}${route}`, init)
        return { status: response.status, text: await response.text() }
      }
    })
  )

/** Nothing is measured before it runs. */
const running = async ({ http }: Program): Promise<void> => {
  const until = performance.now() + 60_000
  while (performance.now() < until) {
    const answer = await http("/status?wait_for=running,failed&timeout=60s").catch(() => null)
    if (answer?.text.includes('"running"') === true) return
    await new Promise((resolve) => setImmediate(resolve))
  }
  throw new Error("the compute did not start")
}

const bare = (directory: string, bodies: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const files = bodies.map((body, index) => {
        const file = path.join(directory, `body-${index}`)
        fs.writeFileSync(file, body)
        return file
      })
      const child = spawn(process.execPath, [...nodeFlags, path.join(import.meta.dirname, "bareHttp.ts"), ...files], {
        stdio: ["ignore", "pipe", "inherit"]
      })
      const [said] = await once(child.stdout, "data")
      return { child, port: Number(/port (\d+)/.exec(String(said))?.[1]) }
    }),
    ({ child }) =>
      Effect.promise(async () => {
        child.kill("SIGKILL")
        await once(child, "exit")
      })
  )

const print = (what: string, { failed, p50, p99, perSecond, worst }: Seen): void =>
  console.log(
    `${what.padEnd(38)} ${perSecond.toFixed(0).padStart(7)}/s  ` +
      `p50 ${p50.toFixed(2).padStart(6)}  p99 ${p99.toFixed(2).padStart(6)}  ` +
      `worst ${worst.toFixed(2).padStart(7)} ms  failed ${failed}`
  )

const median = (numbers: ReadonlyArray<number>): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? NaN

const bench = Effect.gen(function* () {
  const directory = yield* temporaryFolder
  const httpPort = yield* freePort
  const pgPort = yield* freePort
  const ours = yield* program(directory, httpPort, pgPort)
  yield* Effect.promise(() => running(ours))
  const bodies = yield* Effect.promise(async () => [
    (await ours.http("/status")).text,
    (await ours.http("/metrics")).text
  ])
  const { port } = yield* bare(directory, bodies)

  for (const route of ["/status", "/metrics"]) {
    const seen: { ours: Array<Seen>; bare: Array<Seen> } = { ours: [], bare: [] }
    // Code is compiled while it is first used, in both.
    yield* Effect.promise(() => flatOut(httpPort, route, connections, 1))
    yield* Effect.promise(() => flatOut(port, route, connections, 1))
    for (let round = 0; round < rounds; round++) {
      seen.bare.push(yield* Effect.promise(() => flatOut(port, route, connections, seconds)))
      seen.ours.push(yield* Effect.promise(() => flatOut(httpPort, route, connections, seconds)))
    }
    for (const kind of ["bare", "ours"] as const) for (const one of seen[kind]) print(`${route} flat out, ${kind}`, one)
    const ratio =
      median(seen.ours.map(({ perSecond }) => perSecond)) / median(seen.bare.map(({ perSecond }) => perSecond))
    console.log(`${route} throughput against bare: ${ratio.toFixed(2)}`)

    const until = performance.now() + seconds * 1000
    print(
      `${route} at ${rate}/s, idle, bare`,
      yield* Effect.promise(() => paced(port, route, rate, () => performance.now() < until))
    )
    const later = performance.now() + seconds * 1000
    print(
      `${route} at ${rate}/s, idle, ours`,
      yield* Effect.promise(() => paced(httpPort, route, rate, () => performance.now() < later))
    )
  }

  for (const [index, route] of ["/status", "/metrics"].entries()) {
    let applying = true
    const began = performance.now()
    const applied = ours
      .http("/configure", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ spec: spec(200 * (index + 1)) })
      })
      .finally(() => (applying = false))
    // The bare server is asked meanwhile, too: what it suffers is the machine's, not ours.
    const both = yield* Effect.promise(() =>
      Promise.all([paced(port, route, rate, () => applying), paced(httpPort, route, rate, () => applying)])
    )
    print(`${route} at ${rate}/s, applying, bare`, both[0])
    print(`${route} at ${rate}/s, applying, ours`, both[1])
    const { status } = yield* Effect.promise(() => applied)
    console.log(`the apply took ${((performance.now() - began) / 1000).toFixed(1)} s and answered ${status}`)
  }

  const place = placeOf(directory, pgPort)
  const rows = yield* Effect.promise(() => fill(place, 200))
  yield* Effect.promise(() => until("the spare is ready", () => spareIsReady(place)))
  const { n } = baseOf(place)
  let making = true
  const made = until("there is another base and its spare", async () => {
    await update(place, rows)
    return baseOf(place).n > n && spareIsReady(place)
  }).finally(() => (making = false))
  const both = yield* Effect.promise(() =>
    Promise.all([paced(port, "/status", rate, () => making), paced(httpPort, "/status", rate, () => making)])
  )
  yield* Effect.promise(() => made)
  print(`/status at ${rate}/s, a base is made, bare`, both[0])
  print(`/status at ${rate}/s, a base is made, ours`, both[1])
})

await Effect.runPromise(Effect.scoped(bench))
