/**
 * A load generator that costs little itself: keep-alive connections, one request at a time on each.
 *
 * `flat out` asks again as soon as it is answered, and tells throughput. `paced` asks at a steady rate, and tells what
 * a request that meets no queue of its own making takes.
 */
import { connect, type Socket } from "node:net"
import { setTimeout as pause } from "node:timers/promises"

export interface Seen {
  readonly perSecond: number
  readonly p50: number
  readonly p99: number
  readonly worst: number
  readonly failed: number
}

const quantile = (sorted: ReadonlyArray<number>, part: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? NaN

interface Line {
  readonly ask: (path: string) => Promise<boolean>
  readonly end: () => void
}

/** Answers whether it was a 200 in full. */
const open = async (port: number): Promise<Line> => {
  const socket: Socket = connect({ port, host: "127.0.0.1", noDelay: true })
  let heard: Buffer = Buffer.alloc(0)
  let commitLsn: ((well: boolean) => void) | null = null
  const finish = (well: boolean) => {
    const done = commitLsn
    commitLsn = null
    heard = Buffer.alloc(0)
    done?.(well)
  }
  socket.on("data", (chunk: Buffer) => {
    heard = heard.length === 0 ? chunk : Buffer.concat([heard, chunk])
    const end = heard.indexOf("\r\n\r\n")
    if (end === -1) return
    const length = /content-length: (\d+)/i.exec(heard.toString("latin1", 0, end))?.[1]
    if (heard.length >= end + 4 + Number(length ?? 0)) finish(heard.toString("latin1", 9, 12) === "200")
  })
  socket.on("error", () => finish(false))
  socket.on("close", () => finish(false))
  await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject))
  return {
    ask: (path) =>
      new Promise((resolve) => {
        commitLsn = resolve
        if (socket.destroyed) return finish(false)
        socket.write(`GET ${path} HTTP/1.1\r\nhost: localhost\r\n\r\n`)
      }),
    end: () => socket.destroy()
  }
}

const summary = (times: Array<number>, seconds: number, failed: number): Seen => {
  const sorted = times.sort((a, b) => a - b)
  return {
    perSecond: times.length / seconds,
    p50: quantile(sorted, 0.5),
    p99: quantile(sorted, 0.99),
    worst: sorted.at(-1) ?? NaN,
    failed
  }
}

/** Until `stop` says so, or for as long as it is given. */
export const flatOut = async (port: number, path: string, connections: number, seconds: number): Promise<Seen> => {
  const lines = await Promise.all(Array.from({ length: connections }, () => open(port)))
  const times: Array<number> = []
  let failed = 0
  const from = performance.now()
  const until = from + seconds * 1000
  await Promise.all(
    lines.map(async (line) => {
      for (let now = performance.now(); now < until;) {
        if (!(await line.ask(path))) failed++
        const after = performance.now()
        times.push(after - now)
        now = after
      }
    })
  )
  const took = (performance.now() - from) / 1000
  for (const line of lines) line.end()
  return summary(times, took, failed)
}

/**
 * `going` is asked before each request. There are more connections than are ever busy, unless the server stands still.
 */
export const paced = async (port: number, path: string, perSecond: number, going: () => boolean): Promise<Seen> => {
  const lines = await Promise.all(Array.from({ length: 64 }, () => open(port)))
  const free = [...lines]
  const times: Array<number> = []
  let failed = 0
  const from = performance.now()
  const under = new Set<Promise<void>>()
  for (let planned = 0; going();) {
    for (; from + (planned * 1000) / perSecond <= performance.now() && free.length > 0; planned++) {
      // In turn, so that none idles until the server closes it.
      const line = free.shift()
      if (line === undefined) break
      const began = performance.now()
      const asked: Promise<void> = line.ask(path).then((well) => {
        if (!well) failed++
        times.push(performance.now() - began)
        free.push(line)
        under.delete(asked)
      })
      under.add(asked)
    }
    await pause(1)
  }
  await Promise.all(under)
  const took = (performance.now() - from) / 1000
  for (const line of lines) line.end()
  return summary(times, took, failed)
}
