/**
 * The program as its users meet it: a real process with real arguments, real signals, a real Postgres below it.
 *
 * Asserts nothing itself. Everything is waited for by what the process prints or answers, and what a test leaves
 * behind is killed when its scope ends.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { afterAll } from "vitest"
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import type { WireFailed } from "../../src/errors/Failure.ts"
import { connect, type Wire } from "../../src/pgwire/Wire.ts"
import { forgetSharedMemory, freePort, runAs, temporaryFolder } from "../support/postgres.ts"
import { killAll, processesIn } from "../support/processes.ts"
import { compiledOnce, sharedFolder } from "../support/runFolder.ts"
import { startShipped } from "../support/shipped.ts"

export { killAll, processesIn } from "../support/processes.ts"

export interface Place {
  readonly directory: string
  readonly port: number
  readonly httpPort: number
}

/** Clusters that earlier places made with initdb, so that later ones need not make them again. */
const templates = path.join(
  sharedFolder() ?? path.join(os.tmpdir(), `compute-ctl-templates-${process.pid}`),
  "of-storage"
)
if (sharedFolder() === undefined) afterAll(() => fs.rmSync(path.dirname(templates), { recursive: true, force: true }))

/** Where a compute of these tests says on which ports it listens, apart from computes of this machine. */
export const runFolderOf = (httpPort: number): string => path.join(path.dirname(templates), "run", String(httpPort))

/** As `cp` does it: owner and mode stay. There in one step, whole. */
const keepTemplates = (from: string): void => {
  if (fs.existsSync(templates) || !fs.existsSync(from)) return
  if (!fs.readdirSync(from).some((name) => fs.existsSync(path.join(from, name, "template.json")))) return
  const at = `${templates}-${process.pid}`
  fs.mkdirSync(path.dirname(templates), { recursive: true })
  execFileSync("cp", ["-a", from, at])
  try {
    fs.renameSync(at, templates)
  } catch {
    // Another file of tests was faster.
    fs.rmSync(at, { recursive: true, force: true })
  }
}

/** A folder, a Postgres port and an HTTP port for one compute, started as often as a test likes. */
export const place: Effect.Effect<Place, never, Scope.Scope> = Effect.gen(function* () {
  const directory = yield* temporaryFolder
  const storage = path.join(directory, "storage")
  if (fs.existsSync(templates)) {
    fs.mkdirSync(storage, { mode: 0o700 })
    if (runAs !== null) fs.chownSync(storage, runAs.uid, runAs.gid)
    execFileSync("cp", ["-a", templates, path.join(storage, "templates")])
  }
  yield* Effect.addFinalizer(() =>
    Effect.sync(() => {
      keepTemplates(path.join(storage, "templates"))
      killAll(processesIn(path.join(directory, "pgdata")), "SIGKILL")
      forgetSharedMemory(path.join(directory, "pgdata"))
    })
  )
  return { directory, port: yield* freePort, httpPort: yield* freePort }
})

export interface Program {
  readonly pid: number
  readonly signal: (name: NodeJS.Signals) => void
  /** Everything on stderr and stdout so far. */
  readonly output: () => string
  /** What of it came on stdout. */
  readonly printed: () => string
  /** Waits until the output matches. */
  readonly prints: (pattern: RegExp) => Promise<RegExpMatchArray>
  readonly exit: Promise<{ readonly code: number | null; readonly signal: string | null }>
  readonly http: (route: string, init?: RequestInit) => Promise<{ readonly status: number; readonly text: string }>
  readonly status: () => Promise<{ readonly status: string; readonly error: string | null }>
  /** Polls `/status`. */
  readonly reaches: (
    ...wanted: ReadonlyArray<string>
  ) => Promise<{ readonly status: string; readonly error: string | null }>
}

const patience = 60_000

const within = async <A>(what: string, output: () => string, work: Promise<A>): Promise<A> => {
  const timer = new AbortController()
  const late = pause(patience, undefined, { signal: timer.signal }).then(() => {
    throw new Error(`waited ${patience} ms for ${what}; the last output:\n${output().slice(-4000)}`)
  })
  late.catch(() => {})
  try {
    return await Promise.race([work, late])
  } finally {
    timer.abort()
  }
}

const follow = (child: ChildProcess, httpPort: number): Program => {
  let text = ""
  let printed = ""
  child.stdout?.on("data", (chunk) => void (printed += String(chunk)))
  const waiting = new Set<() => void>()
  for (const stream of [child.stderr, child.stdout]) {
    stream?.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk
      for (const wake of waiting) wake()
    })
  }
  const output = () => text
  const exit = once(child, "close").then(([code, signal]) => ({
    code: code as number | null,
    signal: signal as string | null
  }))
  const http: Program["http"] = async (route, init) => {
    const response = await fetch(`http://127.0.0.1:${httpPort}${route}`, init)
    return { status: response.status, text: await response.text() }
  }
  const status: Program["status"] = async () => JSON.parse((await http("/status")).text)
  const prints: Program["prints"] = (pattern) =>
    within(
      `${pattern}`,
      output,
      new Promise((resolve, reject) => {
        const look = () => {
          const match = text.match(pattern)
          if (match === null) return
          waiting.delete(look)
          resolve(match)
        }
        waiting.add(look)
        look()
        void exit.then(({ code, signal }) => {
          look()
          reject(new Error(`the program ended (${code ?? signal}) without printing ${pattern}:\n${text.slice(-4000)}`))
        })
      })
    )
  const reaches: Program["reaches"] = (...wanted) =>
    within(
      `status ${wanted.join(" or ")}`,
      output,
      (async () => {
        for (;;) {
          const now = await status().catch(() => null)
          if (now !== null && wanted.includes(now.status)) return now
          if (child.exitCode !== null || child.signalCode !== null)
            throw new Error(`the program ended:\n${text.slice(-4000)}`)
          await pause(20)
        }
      })()
    )
  return {
    pid: child.pid ?? -1,
    signal: (name) => void child.kill(name),
    output,
    printed: () => printed,
    prints,
    exit,
    http,
    status,
    reaches
  }
}

/**
 * Starts `compute_ctl` with these arguments. Killed with the scope, with everything it started. A `silent` standard
 * input is a pipe that stays open and brings nothing. `under`: the program, and its arguments, that is to start it.
 */
export const launch = (
  args: ReadonlyArray<string>,
  httpPort: number,
  env: Record<string, string> = {},
  stdin: "none" | "silent" = "none",
  under: ReadonlyArray<string> = []
) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const [command, ...rest] = [...under, ...startShipped, ...args]
      const child = spawn(command ?? "", rest, {
        stdio: [stdin === "none" ? "ignore" : "pipe", "pipe", "pipe"],
        env: { ...process.env, ...compiledOnce(), RUNTIME_DIRECTORY: runFolderOf(httpPort), ...env }
      })
      return { child, program: follow(child, httpPort) }
    }),
    ({ child, program }) =>
      Effect.promise(async () => {
        if (child.exitCode !== null || child.signalCode !== null) return
        child.kill("SIGKILL")
        await program.exit
      })
  ).pipe(Effect.map(({ program }) => program))

/** A TCP port that accepts and never answers, as a machine that hangs does. */
export const silentPort: Effect.Effect<number, never, Scope.Scope> = Effect.acquireRelease(
  Effect.promise(async () => {
    const open = new Set<net.Socket>()
    const server = net.createServer((socket) => void open.add(socket.on("error", () => {})))
    server.listen(0, "127.0.0.1")
    await once(server, "listening")
    return { server, open }
  }),
  ({ open, server }) =>
    Effect.sync(() => {
      for (const socket of open) socket.destroy()
      server.close()
    })
).pipe(Effect.map(({ server }) => (server.address() as net.AddressInfo).port))

/** Local storage in this place, the spec in a file there. */
export const localArguments = (at: Place, spec: unknown, more: ReadonlyArray<string> = []): ReadonlyArray<string> => {
  const file = path.join(at.directory, "spec.json")
  fs.writeFileSync(file, typeof spec === "string" ? spec : JSON.stringify(spec))
  return [...argumentsFor(at, file), ...more]
}

/** Neon's storage: the addresses are the spec's. */
export const neonArguments = (at: Place, spec: unknown): ReadonlyArray<string> => {
  const args = localArguments(at, spec)
  return args.slice(args.indexOf("-D"))
}

/** The place belongs to the tests' user, whom the program would not choose by itself. */
export const runAsArguments: ReadonlyArray<string> = runAs === null ? [] : ["--run-as", runAs.name]

const argumentsFor = (at: Place, file: string): ReadonlyArray<string> => [
  "--storage",
  `local:${at.directory}/storage`,
  "-D",
  `${at.directory}/pgdata`,
  "-C",
  `postgresql://cloud_admin@127.0.0.1:${at.port}/postgres`,
  "-S",
  file,
  "--http-port",
  String(at.httpPort),
  ...runAsArguments
]

/**
 * A superuser session with the compute in this place: over the socket in PGDATA where there is one, as with stock
 * Postgres, else over TCP.
 */
export const session = (at: Place, database = "postgres"): Effect.Effect<Wire, WireFailed, Scope.Scope> =>
  Effect.suspend(() => {
    // A Postgres that was killed leaves its own behind.
    const changedAt = (file: string) => fs.statSync(file, { throwIfNoEntry: false })?.ctimeMs ?? 0
    const [newest] = fs
      .globSync(path.join(at.directory, "*", `.s.PGSQL.${at.port}`))
      .sort((one, other) => changedAt(other) - changedAt(one))
    const host = newest === undefined ? "127.0.0.1" : path.dirname(newest)
    return connect({ host, port: at.port, user: "cloud_admin", database, connectWithin: Duration.seconds(10) })
  })

export const rows = (at: Place, sql: string, database?: string) =>
  Effect.scoped(Effect.flatMap(session(at, database), (wire) => wire.rows(sql)))

/** Asks until the answer is accepted. What cannot be asked yet is not there yet. */
export const eventually = <A>(
  what: string,
  ask: () => A | Promise<A>,
  accept: (answer: A) => boolean
): Effect.Effect<A> =>
  Effect.promise(() => {
    let last = "nothing"
    let ended = false
    const asking = (async () => {
      while (!ended) {
        try {
          const answer = await ask()
          if (accept(answer)) return answer
          last = JSON.stringify(answer)
        } catch (cause) {
          last = String(cause)
        }
        await pause(10)
      }
      throw new Error(`${what}: given up`)
    })()
    asking.catch(() => {})
    return within(what, () => last, asking).finally(() => (ended = true))
  })

/** Returns when no Postgres of this folder is left. */
export const gone = (directory: string): Promise<void> =>
  Effect.runPromise(
    Effect.asVoid(
      eventually(
        `the last process in ${directory}`,
        () => processesIn(directory),
        (pids) => pids.length === 0
      )
    )
  )
