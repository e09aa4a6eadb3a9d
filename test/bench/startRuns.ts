/**
 * Starts of processes, timed from the call of exec: ours, a bare HTTP server, and the plain shell script.
 *
 * Everything that is started is remembered and killed by `endAll`. Times are milliseconds of this process's clock.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import { forgetSharedMemory } from "../support/postgres.ts"

/** Whom files belong to and Postgres runs as; `null`: we are not root and stay who we are. */
export const user = process.geteuid?.() === 0 ? { name: "nobody", uid: 65534, gid: 65534 } : null
const patience = 20_000
const live = new Set<ChildProcess>()

export interface Started {
  readonly child: ChildProcess
  readonly pid: number
  /** Everything it said so far. */
  readonly said: () => string
  /** When it said something last. */
  readonly saidAt: () => number
  /** Milliseconds from exec until it said this. */
  readonly says: (pattern: RegExp) => Promise<number>
  /** Milliseconds from exec until a connect to the port succeeded, tried once a millisecond. */
  readonly accepts: (port: number) => Promise<number>
  readonly end: (signal: NodeJS.Signals) => Promise<void>
}

const opens = async (port: number): Promise<boolean> => {
  const socket = net.connect({ port, host: "127.0.0.1" })
  try {
    await once(socket, "connect")
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

export const start = (
  command: string,
  args: ReadonlyArray<string>,
  env: NodeJS.ProcessEnv,
  as: typeof user = null
): Started => {
  const from = performance.now()
  const child = spawn(command, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env,
    ...(as === null ? {} : { uid: as.uid, gid: as.gid, cwd: "/" })
  })
  live.add(child)
  const exit = once(child, "exit").then(() => void live.delete(child))
  let text = ""
  let saidAt = from
  let wake = (): void => {}
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk
      saidAt = performance.now()
      wake()
    })
  }
  const late = (what: string) => new Error(`no ${what} from ${command}:\n${text.slice(-3000)}`)
  const over = () => performance.now() - from > patience || child.exitCode !== null || child.signalCode !== null
  return {
    child,
    pid: child.pid ?? -1,
    said: () => text,
    saidAt: () => saidAt,
    says: (pattern) =>
      new Promise((resolve, reject) => {
        const timer = setInterval(() => {
          if (!over()) return
          clearInterval(timer)
          reject(late(String(pattern)))
        }, 500)
        wake = () => {
          if (!pattern.test(text)) return
          clearInterval(timer)
          resolve(performance.now() - from)
        }
        wake()
      }),
    accepts: async (port) => {
      while (!(await opens(port))) {
        if (over()) throw late(`open port ${port}`)
        await pause(1)
      }
      return performance.now() - from
    },
    end: async (signal) => {
      child.kill(signal)
      await exit
    }
  }
}

/** Kills what is still there, and every process whose working directory is in this folder: that is Postgres. */
export const endAll = async (folder: string): Promise<void> => {
  for (const child of live) child.kill("SIGKILL")
  for (let left = processesIn(folder); left.length > 0; left = processesIn(folder)) {
    for (const pid of left) kill(pid, "SIGKILL")
    await pause(5)
  }
}

const kill = (pid: number, signal: NodeJS.Signals): void => {
  try {
    process.kill(pid, signal)
  } catch {
    // It left by itself.
  }
}

const processesIn = (folder: string): ReadonlyArray<number> =>
  fs
    .readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return fs.readlinkSync(`/proc/${pid}/cwd`).startsWith(`${folder}/`)
      } catch {
        return false
      }
    })

/** Ends the Postgres of a data directory and waits until nothing of it is left. */
export const endPostgres = async (pgdata: string, signal: NodeJS.Signals): Promise<void> => {
  kill(postmasterOf(pgdata), signal)
  const folder = path.dirname(pgdata)
  while (processesIn(folder).length > 0) await pause(2)
  // A postmaster that was killed leaves its segment, and names it in a file that the next start wipes.
  forgetSharedMemory(pgdata)
}

export const postmasterOf = (pgdata: string): number =>
  Number(fs.readFileSync(path.join(pgdata, "postmaster.pid"), "utf8").split("\n")[0])

export const freePort = async (): Promise<number> => {
  const server = net.createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const address = server.address()
  server.close()
  await once(server, "close")
  return typeof address === "object" && address !== null ? address.port : 0
}

export const until = async (what: string, condition: () => boolean): Promise<void> => {
  const from = performance.now()
  while (!condition()) {
    if (performance.now() - from > patience) throw new Error(`waited in vain for ${what}`)
    await pause(5)
  }
}

/** Megabytes of memory of a process: all that is resident, and what is its own. */
export const memoryOf = (pid: number): { readonly resident: number; readonly own: number } => {
  const text = fs.readFileSync(`/proc/${pid}/status`, "utf8")
  const megabytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1]) / 1024
  return { resident: megabytes("VmRSS"), own: megabytes("RssAnon") }
}
