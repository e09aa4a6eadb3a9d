/**
 * Proof that the server which answers our sessions is the Postgres that we started, and no other on the same port.
 *
 * Without it a compute whose Postgres could not bind an address would apply its spec to the databases of another one. A
 * session is ours when its backend is a child of our postmaster; by what the backend calls itself (`postgres: user
 * database host(port)`, the port being our end's) a pid of another pid namespace is not taken for it. Where `/proc`
 * does not show that (`hidepid`, a namespace, a proxy in between, another system), the server itself has to read us
 * our own postmaster.pid. Nothing that would change a server is ever sent to one that is not proven.
 *
 * It guards against mix-ups. A server that relays everything to ours is not found out by it.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Net from "node:net"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { PostgresPortTaken, type TimedOut, WireFailed } from "../errors/Failure.ts"
import { printHostPort } from "../pgwire/address.ts"
import type { Prove } from "../pgwire/Admin.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import type { Wire } from "../pgwire/Wire.ts"
import { listensOn } from "../platform/listeners.ts"
import { commandLineOf, parentOf } from "../platform/processes.ts"
import { parsePidFile, readPidFile } from "./pidFile.ts"

export interface OurPostgres {
  readonly pid: number
  readonly pgdata: string
}

/** Fails when the session is not one of our Postgres. Costs reads of `/proc`, and only without them a round trip. */
export const proveOurs =
  (ours: OurPostgres): Prove =>
  (wire) =>
    Effect.suspend(() => {
      const postmaster = postmasterOf(wire)
      if (postmaster === ours.pid) return Effect.void
      // Under a program that started Postgres for us our child is not the postmaster; then the server decides.
      if (postmaster !== null && parsePidFile(readPidFile(ours.pgdata))?.pid === ours.pid)
        return Effect.fail(
          refused(
            wire,
            `another Postgres answers there: its process ${wire.backendPid} belongs to the postmaster with pid ` +
              `${postmaster}, and ours has pid ${ours.pid}. Nothing was asked of it`
          )
        )
      return askForPidFile(wire, ours)
    })

/** Before the start and after the end of our Postgres every session is somebody else's. */
export const refuseEverySession: Prove = (wire) =>
  Effect.fail(refused(wire, "a server answers there, but this compute's own Postgres is not running"))

/** The parent of this session's backend, if `/proc` shows that the process is just this session's. */
const postmasterOf = ({ backendPid, localPort }: Wire): number | null => {
  const client = localPort === null ? "[local]" : `(${localPort})`
  return commandLineOf(backendPid)?.includes(client) === true ? parentOf(backendPid) : null
}

const question = `SELECT pg_catalog.pg_read_file('postmaster.pid'),
  (SELECT system_identifier FROM pg_catalog.pg_control_system())`

const answerWithin = Duration.seconds(10)

/** Postgres is leaving or has crashed: the session is lost, and nothing is known of whose it was. */
const leaving = new Set(["57P01", "57P02", "57P03"])

const askForPidFile = (wire: Wire, ours: OurPostgres): Effect.Effect<void, WireFailed> =>
  wire.rows(question, answerWithin).pipe(
    Effect.mapError((failure) => {
      const lost = failure._tag === "WireFailed" && leaving.has(failure.sqlState ?? "")
      return lost ? failure : notProven(wire, ours, reasonOf(failure))
    }),
    Effect.flatMap(([row]) => {
      const [pidFile, systemId] = row ?? []
      return isOurs(pidFile, systemId, ours.pgdata)
        ? Effect.void
        : Effect.fail(notProven(wire, ours, "its postmaster.pid is not the one in our data directory"))
    })
  )

const reasonOf = (failure: WireFailed | TimedOut): string =>
  failure._tag === "TimedOut" ? "it did not answer in time" : failure.message

const isOurs = (pidFile: string | null | undefined, systemId: string | null | undefined, pgdata: string): boolean => {
  const ours = identityIn(readPidFile(pgdata))
  return ours !== "" && identityIn(pidFile ?? "") === ours && systemId === systemIdIn(pgdata)
}

/** Pid, data directory, start time, addresses, shared memory: all but the last line, the server's state. */
const identityIn = (pidFile: string): string => pidFile.split("\n").slice(0, 7).join("\n")

/** As Postgres prints it; empty where it cannot be read. */
const systemIdIn = (pgdata: string): string => {
  try {
    return String(fs.readFileSync(path.join(pgdata, "global/pg_control")).readBigInt64LE(0))
  } catch {
    return ""
  }
}

const notProven = (wire: Wire, { pgdata, pid }: OurPostgres, reason: string) =>
  refused(wire, `the server there did not prove to be ours (pid ${pid}, data directory ${pgdata}): ${reason}`)

const refused = ({ peer }: Wire, detail: string) =>
  new WireFailed({
    operation: "refused to use",
    peer,
    detail: `${detail}. Stop that server, or give this compute an address and a port of its own with -C`
  })

const connectedWithin = Duration.millis(500)

/** Whether somebody accepts connections there. A silent address is taken for free: the postmaster will know better. */
const isTaken = (to: Net.NetConnectOpts): Effect.Effect<boolean> =>
  Effect.callback<boolean>((resume) => {
    const socket = Net.connect(to)
    socket.once("connect", () => resume(Effect.succeed(true)))
    socket.once("error", () => resume(Effect.succeed(false)))
    return Effect.sync(() => socket.destroy())
  }).pipe(Effect.timeoutOrElse({ duration: connectedWithin, orElse: () => Effect.succeed(false) }))

/** A sandbox without netlink sockets (`RestrictAddressFamilies=`) does not list them: then nothing is known of them. */
const interfaces = () => {
  try {
    return Object.values(os.networkInterfaces())
  } catch {
    return []
  }
}

/** Every address of this machine that needs no interface to go with it. */
const ownAddresses = (): ReadonlyArray<string> => [
  "127.0.0.1",
  "::1",
  ...interfaces()
    .flatMap((some) => some ?? [])
    .filter((one) => one.family === "IPv4" || one.scopeid === 0)
    .map(({ address }) => address)
]

/**
 * Before Postgres is started: nobody may answer where we will look for it. Who answers only on another address of the
 * same port is reported, because Postgres starts all the same and its users may reach the other one.
 */
export const ensurePortFree = Effect.fnUntraced(function* ({ host, port }: Pick<ConnString, "host" | "port">) {
  if (host.startsWith("/")) {
    if (yield* isTaken({ path: `${host}/.s.PGSQL.${port}` })) return yield* new PostgresPortTaken({ host, port })
    return
  }
  const hosts = [...new Set([host, ...ownAddresses()])]
  const taken = yield* Effect.filter(hosts, (one) => isTaken({ host: one, port }), { concurrency: 32 })
  if (taken.includes(host)) return yield* new PostgresPortTaken({ host, port })
  if (taken.length === 0) return
  const where = taken.map((other) => printHostPort({ host: other, port })).join(", ")
  yield* Effect.logWarning(
    `another server listens on ${where}, the port of this Postgres: who connects there does not reach this compute. ` +
      "Stop that server, or give this compute a port of its own with -C"
  )
})

/** To whom a connection there comes; `null`: nobody accepts one. */
const answering = (host: string, port: number): Effect.Effect<string | null> =>
  Effect.callback<string | null>((resume) => {
    const socket = Net.connect({ host, port })
    socket.once("connect", () => resume(Effect.succeed(socket.remoteAddress ?? host)))
    socket.once("error", () => resume(Effect.succeed(null)))
    return Effect.sync(() => socket.destroy())
  }).pipe(Effect.timeoutOrElse({ duration: connectedWithin, orElse: () => Effect.succeed(null) }))

/**
 * Once Postgres is ready, which it becomes without an address that it could not have: who looks for it there must not
 * reach somebody who took it after `ensurePortFree`. Where nobody answers, the spec has it listen elsewhere.
 */
export const ensureBound = Effect.fnUntraced(function* (
  { host, port }: Pick<ConnString, "host" | "port">,
  pgdata: string
) {
  if (host.startsWith("/")) return
  const address = yield* answering(host, port)
  const postmaster = parsePidFile(readPidFile(pgdata))?.pid
  if (address === null || postmaster === undefined) return
  const listens = yield* Effect.promise(() => listensOn(postmaster, address, port))
  if (listens === false) return yield* new PostgresPortTaken({ host, port })
})
