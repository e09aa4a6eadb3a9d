/**
 * Ports for servers of tests, several files of tests at a time and several checkouts on one machine.
 *
 * A port that the system gave and that was closed again may be somebody else's a moment later. These never are: a
 * process has a block of its own, out of reach of what the system gives away.
 */
import * as Effect from "effect/Effect"
import { once } from "node:events"
import * as net from "node:net"

/** Ports below those that systems give to connections by themselves (32768 and up), in blocks. */
const ports = { from: 12_000, to: 32_000, block: 100 }
let ours: { readonly first: number; next: number } | undefined

const listening = async (port: number): Promise<net.Server | null> => {
  const server = net.createServer()
  try {
    await once(server.listen({ port, host: "127.0.0.1", exclusive: true }), "listening")
    return server
  } catch {
    return null
  }
}

/** A block belongs to the process that listens on its first port, until it ends. */
const claimPorts = async (): Promise<{ readonly first: number; next: number }> => {
  for (let tries = 0; tries < 1000; tries++) {
    const first = ports.from + ports.block * Math.floor((Math.random() * (ports.to - ports.from)) / ports.block)
    const server = await listening(first)
    if (server === null) continue
    server.unref()
    return { first, next: 1 }
  }
  throw new Error("no block of ports is free")
}

/**
 * A TCP port of 127.0.0.1 that is free, and that no other file of tests and no connection takes, also while a server
 * on it is being started again.
 */
export const freePort: Effect.Effect<number> = Effect.promise(async () => {
  ours ??= await claimPorts()
  for (let tries = 0; tries < ports.block; tries++) {
    const port = ours.first + ours.next
    ours.next = (ours.next % (ports.block - 1)) + 1
    const server = await listening(port)
    if (server === null) continue
    server.close()
    await once(server, "close")
    return port
  }
  throw new Error("every port of this block is taken")
})
