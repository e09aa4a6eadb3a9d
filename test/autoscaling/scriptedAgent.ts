/**
 * A scripted autoscaler agent over a real WebSocket, a cgroup made of plain files, and a vm-monitor on a free port.
 */
import { WebSocket } from "@effect/platform-node/NodeWS"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { type VmCounts, VmMetrics } from "../../src/autoscaling/metrics.ts"
import { listen, type VmMonitorOptions } from "../../src/autoscaling/VmMonitor.ts"

export const MiB = 1_048_576
export const GiB = 1024 * MiB

interface Closed {
  readonly code: number
  readonly reason: string
}

export interface Agent {
  readonly socket: WebSocket
  readonly sendRaw: (text: string | Uint8Array) => Effect.Effect<void>
  /** As the Go agent does: payload under `content`, a newline at the end. */
  readonly send: (type: string, id: number, content?: unknown) => Effect.Effect<void>
  /** The next message, parsed; a defect when none comes in thirty seconds or the connection ends. */
  readonly next: Effect.Effect<Record<string, unknown>>
  /** The next message that is not an `UpscaleRequest`. */
  readonly answer: Effect.Effect<Record<string, unknown>>
  readonly closed: Effect.Effect<Closed>
  /** Unread messages. */
  readonly waiting: () => number
}

const within = <A>(what: string, effect: Effect.Effect<A>, seconds = 30) =>
  Effect.timeoutOrElse(effect, {
    duration: `${seconds} seconds`,
    orElse: () => Effect.die(new Error(`${what}: not in ${seconds} s`))
  })

/** A connection that has not sent anything yet. */
export const dial = Effect.fnUntraced(function* (port: number, seconds = 30) {
  const inbox: Array<string> = []
  let wake: (() => void) | undefined
  let over: Closed | undefined
  const socket = yield* Effect.acquireRelease(
    Effect.sync(() => new WebSocket(`ws://127.0.0.1:${port}/monitor`)),
    (socket) => Effect.sync(() => socket.terminate())
  )
  socket.on("error", () => undefined)
  socket.on("message", (data) => {
    inbox.push(data.toString())
    wake?.()
  })
  socket.on("close", (code, reason) => {
    over = { code, reason: reason.toString() }
    wake?.()
  })
  yield* within(
    "to connect",
    Effect.callback<void>((resume) => {
      socket.once("open", () => resume(Effect.void))
      socket.once("error", (cause) => resume(Effect.die(cause)))
    })
  )
  const waitFor = <A>(what: string, find: () => A | undefined) =>
    within(
      what,
      Effect.callback<A>((resume) => {
        const attempt = () => {
          const found = find()
          if (found !== undefined || over !== undefined) wake = undefined
          if (found !== undefined) resume(Effect.succeed(found))
          else if (over !== undefined)
            resume(Effect.die(new Error(`${what}: the connection ended with ${over.code} ${over.reason}`)))
        }
        wake = attempt
        attempt()
      }),
      seconds
    )
  const next: Agent["next"] = Effect.map(
    waitFor("a message", () => inbox.shift()),
    (text) => JSON.parse(text) as Record<string, unknown>
  )
  const sendRaw: Agent["sendRaw"] = (text) => Effect.sync(() => socket.send(text))
  return {
    socket,
    sendRaw,
    send: (type, id, content = {}) => sendRaw(`${JSON.stringify({ content, type, id })}\n`),
    next,
    answer: Effect.repeat(next, { until: ({ type }) => type !== "UpscaleRequest" }),
    closed: waitFor("the end", () => over),
    waiting: () => inbox.length
  } satisfies Agent
})

/** A connection after a handshake that succeeded. */
export const connectAgent = Effect.fnUntraced(function* (port: number, seconds = 30) {
  const agent = yield* dial(port, seconds)
  yield* agent.sendRaw(`{"min":1,"max":1}\n`)
  const greeting = yield* agent.next
  if (greeting["version"] !== 1) throw new Error(`the greeting was ${JSON.stringify(greeting)}`)
  return agent
})

export interface RunningMonitor {
  readonly port: number
  readonly counts: Effect.Effect<VmCounts>
  /** The first counts that fulfil the condition. */
  readonly until: (wanted: (counts: VmCounts) => boolean) => Effect.Effect<VmCounts>
}

export const nothingManaged: VmMonitorOptions = {
  address: "127.0.0.1:0",
  cgroup: null,
  fileCacheConnstr: null,
  totalMemory: Effect.succeed(2 * GiB)
}

/** A monitor that serves agents until the scope closes. */
export const startMonitor = Effect.fnUntraced(function* (options: Partial<VmMonitorOptions> = {}) {
  const context = yield* Layer.build(Layer.fresh(VmMetrics.layer))
  const { serve, port } = yield* listen({ ...nothingManaged, ...options }, Effect.succeed(null))
  yield* Effect.forkScoped(Effect.provide(serve, context), { startImmediately: true })
  const { now } = yield* Effect.provide(VmMetrics, context)
  const until: RunningMonitor["until"] = (wanted) =>
    within("the counts", Effect.repeat(now, { schedule: Schedule.spaced("5 millis"), until: wanted }))
  return { port, counts: now, until } satisfies RunningMonitor
})

export interface FakeCgroup {
  readonly root: string
  readonly folder: string
  /** Bytes of anonymous memory from now on. */
  readonly use: (bytes: number) => void
  readonly write: (memoryStat: string | null) => void
}

/** A cgroup v2 as far as files go: a root with one group, which uses nothing yet. */
export const fakeCgroup = Effect.acquireRelease(
  Effect.sync((): FakeCgroup => {
    const root = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-cgroup-"))
    const folder = path.join(root, "neon-postgres")
    fs.mkdirSync(folder)
    fs.writeFileSync(path.join(root, "cgroup.controllers"), "cpu memory pids\n")
    fs.writeFileSync(path.join(folder, "cgroup.procs"), "")
    const file = path.join(folder, "memory.stat")
    const write = (text: string | null) => {
      if (text === null) return fs.rmSync(file)
      // Renamed into place: a real one is never half-written.
      fs.writeFileSync(path.join(root, "next"), text)
      fs.renameSync(path.join(root, "next"), file)
    }
    const use = (bytes: number) =>
      write(`anon ${bytes}\nfile 999999999999\ninactive_anon ${bytes - 1000}\nactive_anon 1000\nslab 5\n`)
    use(1000)
    return { root, folder, use, write }
  }),
  ({ root }) => Effect.sync(() => fs.rmSync(root, { recursive: true }))
)
