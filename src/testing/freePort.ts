/**
 * A port for Postgres, which the kernel gives nobody else and no other compute of these tests takes.
 *
 * A port that the system gave and that was closed again may be a connection's a moment later, so ours are from below
 * those that systems give away by themselves (32768 and up). A process has a block of them, and listens on the first of
 * the block, which keeps other processes like it out. A server of somebody else may still come in between; whoever
 * starts Postgres tries another port then.
 */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { once } from "node:events"
import * as net from "node:net"
import { FileFailed } from "../errors/Failure.ts"

const ports = { from: 12_000, to: 32_000, block: 100 }
const blocks = (ports.to - ports.from) / ports.block

let ours: { readonly first: number; next: number } | undefined

const listening = async (port: number): Promise<net.Server | null> => {
  const server = net.createServer((socket) => socket.destroy())
  try {
    await once(server.listen({ port, host: "127.0.0.1", exclusive: true }), "listening")
    return server
  } catch {
    return null
  }
}

/** Whether somebody listens there, so that a Postgres could not. */
export const isPortTaken = (port: number): Effect.Effect<boolean> =>
  Effect.promise(async () => {
    const server = await listening(port)
    if (server === null) return true
    server.close()
    await once(server, "close")
    return false
  })

const noneFree = (detail: string) =>
  new FileFailed({ operation: "find a free port on", path: "127.0.0.1", cause: new Error(detail) })

const claimBlock = Effect.gen(function* () {
  for (let tries = 0; tries < 5 * blocks; tries++) {
    const first = ports.from + ports.block * (yield* Random.nextIntBetween(0, blocks, { halfOpen: true }))
    const server = yield* Effect.promise(() => listening(first))
    if (server === null) continue
    server.unref()
    return { first, next: 1 }
  }
  return yield* noneFree(`no block of ${ports.block} ports from ${ports.from} to ${ports.to} is free`)
})

/** Another one at each call, until the block begins anew. */
export const freePort: Effect.Effect<number, FileFailed> = Effect.gen(function* () {
  const block = ours ?? (yield* claimBlock)
  ours ??= block
  for (let tries = 1; tries < ports.block; tries++) {
    const port = ours.first + ours.next
    ours.next = (ours.next % (ports.block - 1)) + 1
    if (!(yield* isPortTaken(port))) return port
  }
  return yield* noneFree(`every port from ${ours.first} to ${ours.first + ports.block - 1} is taken`)
})
