/**
 * Room for connections: how many there may be, and which one leaves for a new one. All ports of a compute share it.
 *
 * A connection is silent until it has sent a whole request, and again once that is answered. There is always room for a
 * newcomer: the one that has been silent for the longest time is closed for it, and before that the longest silent one
 * of a peer that has more than its share. That works because requests under way are fewer than connections may be: more
 * are refused. So probes are answered whatever strangers do, and descriptors are left over for
 * Postgres and for files.
 */
import { readFileSync } from "node:fs"
import type { Server, ServerResponse } from "node:http"
import type { Socket } from "node:net"
import type { Traffic } from "./traffic.ts"

export interface ConnectionLimits {
  /** Connections in all. */
  readonly open: number
  /** Silent connections of one address. */
  readonly silentOfPeer: number
  /** Requests that are being answered or waited for; one connection can send many without waiting for answers. */
  readonly busy: number
  /** Requests that watch the status for as long as they like. */
  readonly watching: number
}

/** Enough for a thousand that watch the status and a thousand that ask for it. */
const mostOpen = 4096

/** For sessions, log pipes, WAL segments, downloads, sidecars: what a compute has open beside HTTP. */
const reserved = 128

export const limitsFor = (descriptors: number): ConnectionLimits => {
  const open = Math.max(16, Math.min(mostOpen, descriptors - Math.max(reserved, descriptors >> 2)))
  return { open, silentOfPeer: open >> 1, busy: open - (open >> 2), watching: open >> 1 }
}

/** What POSIX lets every process have at least is less, but nobody is given that little. */
const assumedDescriptors = 1024

/** Files that this process may have open at once. Node raises the soft limit to the hard one when it starts. */
export const openFilesLimit = (): number => {
  try {
    const soft = /^Max open files +(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1"))?.[1]
    return soft === undefined ? assumedDescriptors : Number(soft)
  } catch {
    return assumedDescriptors
  }
}

interface Connection {
  /** Of TCP, or of TLS once its handshake is over. */
  socket: Socket
  readonly peer: string
  /** Of requests that are not answered to their end. */
  readonly responses: Set<ServerResponse>
  /** It was answered at once since it took its place among the silent. */
  heard: boolean
}

/** Tells two connections apart for as long as they last: the socket of TLS is another object than that of TCP. */
const endsOf = ({ localPort, remoteAddress, remotePort }: Socket): string =>
  `${remoteAddress} ${remotePort} ${localPort}`

export class Connections {
  readonly limits: ConnectionLimits
  readonly #traffic: Pick<Traffic, "dropped">
  readonly #servers = new Map<Connection, Server>()
  readonly #bySocket = new Map<Socket, Connection>()
  /** The longest silent first, but for those that were heard: they move to the end when it is their turn to leave. */
  readonly #silent = new Set<Connection>()
  readonly #silentOf = new Map<string, number>()
  #busy = 0

  constructor(limits: ConnectionLimits, traffic: Pick<Traffic, "dropped">) {
    this.limits = limits
    this.#traffic = traffic
  }

  /** From now on every connection of the server counts. */
  watch(server: Server): void {
    const handshakes = new Map<string, Connection>()
    server.on("connection", (socket: Socket) => {
      const ends = endsOf(socket)
      const connection: Connection = { socket, peer: socket.remoteAddress ?? "", responses: new Set(), heard: false }
      handshakes.set(ends, connection)
      socket.once("close", () => {
        handshakes.delete(ends)
        this.#forget(connection)
      })
      this.#servers.set(connection, server)
      this.#bySocket.set(socket, connection)
      this.#fallsSilent(connection)
      this.#makeRoomFor(connection)
    })
    server.on("secureConnection", (socket: Socket) => {
      const connection = handshakes.get(endsOf(socket))
      if (connection === undefined) return
      this.#bySocket.delete(connection.socket)
      connection.socket = socket
      this.#bySocket.set(socket, connection)
    })
  }

  /** A request came and was answered at once. */
  heard(socket: Socket): void {
    const connection = this.#bySocket.get(socket)
    if (connection !== undefined) connection.heard = true
  }

  /** A request begins, and ends with its response. False: there are too many, and it has not begun. */
  begin(socket: Socket, response: ServerResponse): boolean {
    const connection = this.#bySocket.get(socket)
    // It was closed a moment ago: nobody is there to be answered.
    if (connection === undefined) return true
    if (this.#busy >= this.limits.busy) return false
    this.#busy += 1
    connection.responses.add(response)
    if (this.#silent.delete(connection)) this.#countSilent(connection.peer, -1)
    response.once("close", () => {
      if (!connection.responses.delete(response)) return
      this.#busy -= 1
      if (connection.responses.size === 0) this.#fallsSilent(connection)
    })
    return true
  }

  /** Closes all of a server's, in whatever state they are. */
  closeAll(server: Server): void {
    for (const [connection, of] of this.#servers) if (of === server) connection.socket.destroy()
  }

  #fallsSilent(connection: Connection): void {
    connection.heard = false
    this.#silent.add(connection)
    this.#countSilent(connection.peer, 1)
  }

  #countSilent(peer: string, by: 1 | -1): void {
    const now = (this.#silentOf.get(peer) ?? 0) + by
    if (now === 0) this.#silentOf.delete(peer)
    else this.#silentOf.set(peer, now)
  }

  #makeRoomFor(newcomer: Connection): void {
    const { peer } = newcomer
    if ((this.#silentOf.get(peer) ?? 0) > this.limits.silentOfPeer)
      this.#drop(this.#longestSilent((one) => one !== newcomer && one.peer === peer))
    else if (this.#servers.size > this.limits.open) this.#drop(this.#longestSilent((one) => one !== newcomer))
  }

  #longestSilent(among: (one: Connection) => boolean): Connection | undefined {
    // Those that move are met again, unless another one is found before.
    for (const one of this.#silent) {
      if (!among(one)) continue
      if (!one.heard) return one
      this.#silent.delete(one)
      this.#silent.add(one)
      one.heard = false
    }
    return undefined
  }

  #drop(connection: Connection | undefined): void {
    if (connection === undefined) return
    this.#forget(connection)
    connection.socket.destroy()
    this.#traffic.dropped("silent")
  }

  #forget(connection: Connection): void {
    if (!this.#servers.delete(connection)) return
    if (this.#silent.delete(connection)) this.#countSilent(connection.peer, -1)
    this.#bySocket.delete(connection.socket)
    this.#busy -= connection.responses.size
    for (const response of connection.responses) {
      // Node tells only the response whose turn it is that its peer has gone; the others would be worked on in vain.
      if (response.socket === null) response.destroy().emit("close")
    }
    connection.responses.clear()
  }
}
