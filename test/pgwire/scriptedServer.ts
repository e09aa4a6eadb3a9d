/**
 * A Postgres server that does what a script says, for what a real one never does: lies, breaks off, odd packets.
 *
 * Real sockets on a free port of 127.0.0.1. When the scope ends, every connection is destroyed and the port is free.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as diagnostics from "node:diagnostics_channel"
import { once } from "node:events"
import * as Net from "node:net"
import type { WireConfig } from "../../src/pgwire/Wire.ts"

interface Frame {
  /** `startup` for the first one, which has no type on the wire. */
  readonly type: string
  readonly body: Buffer
}

export interface Connection {
  /** The client's next message; `null`: it left. */
  readonly read: () => Promise<Frame | null>
  /** Returns when the client's process has read all of it. */
  readonly write: (...parts: ReadonlyArray<Uint8Array>) => Promise<void>
  readonly end: () => void
  readonly reset: () => void
  /** The other end, which is in this process too. */
  readonly client: Net.Socket
}

export const int32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}
export const text = (value: string): Buffer => Buffer.from(`${value}\0`)

export const frame = (type: string, ...parts: ReadonlyArray<Uint8Array>): Buffer => {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from(type, "latin1"), int32(body.length + 4), body])
}

/** An authentication request, by its number in the protocol. */
export const authentication = (kind: number, ...parts: ReadonlyArray<Uint8Array>): Buffer =>
  frame("R", int32(kind), ...parts)

export const notice = (message: string): Buffer =>
  frame("N", ...["SNOTICE", "VNOTICE", "C00000", `M${message}`].map(text), Buffer.from([0]))

/** Sockets that this process dialled, by their own port. */
const dialled = new Map<number, Net.Socket>()
diagnostics.subscribe("net.client.socket", (message) => {
  const { socket } = message as { readonly socket: Net.Socket }
  socket.once("connect", () => {
    const { localPort } = socket
    if (localPort === undefined) return
    dialled.set(localPort, socket)
    socket.once("close", () => dialled.delete(localPort))
  })
})

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

const clientOf = async (socket: Net.Socket): Promise<Net.Socket> => {
  for (;;) {
    const client = dialled.get(socket.remotePort ?? 0)
    if (client !== undefined || socket.destroyed) return client ?? socket
    await turn()
  }
}

/** Cuts what the client sends into messages. */
async function* framesOf(socket: Net.Socket): AsyncGenerator<Frame> {
  let held = Buffer.alloc(0)
  let type = "startup"
  for await (const chunk of socket) {
    held = Buffer.concat([held, chunk as Buffer])
    for (;;) {
      const skip = type === "startup" ? 0 : 1
      if (held.length < skip + 4) break
      const end = skip + held.readInt32BE(skip)
      if (held.length < end) break
      if (skip === 1) type = held.toString("latin1", 0, 1)
      yield { type, body: held.subarray(skip + 4, end) }
      held = held.subarray(end)
      type = "typed"
    }
  }
}

const converse = async (socket: Net.Socket, script: (connection: Connection) => Promise<void>) => {
  const client = await clientOf(socket)
  const frames = framesOf(socket)
  await script({
    client,
    read: async () => {
      const next = await frames.next().catch(() => null)
      return next === null || next.done === true ? null : next.value
    },
    write: async (...parts) => {
      socket.write(Buffer.concat(parts))
      while (client.bytesRead < socket.bytesWritten && !client.destroyed && !socket.destroyed) await turn()
    },
    end: () => void socket.end(),
    reset: () => void socket.resetAndDestroy()
  })
}

/** Every connection follows the script. Answers how to connect. */
export const scriptedServer = (
  script: (connection: Connection) => Promise<void>
): Effect.Effect<WireConfig, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const sockets = new Set<Net.Socket>()
      const server = Net.createServer({ noDelay: true }, (socket) => {
        sockets.add(socket.on("error", () => {}))
        socket.once("close", () => sockets.delete(socket))
        void converse(socket, script)
      })
      await once(server.listen(0, "127.0.0.1"), "listening")
      return { server, sockets }
    }),
    ({ server, sockets }) =>
      Effect.promise(async () => {
        for (const socket of sockets) socket.destroy()
        await once(server.close(), "close")
      })
  ).pipe(
    Effect.map(({ server }) => ({
      host: "127.0.0.1",
      port: (server.address() as Net.AddressInfo).port,
      user: "web",
      connectWithin: Duration.seconds(10)
    }))
  )
