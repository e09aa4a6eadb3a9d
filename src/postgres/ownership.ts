/**
 * Proof that the server which answers our sessions is the Postgres that we started, and no other on the same port.
 *
 * Without it a compute whose Postgres could not bind an address would apply its spec to a neighbour's databases. A
 * session is ours when its backend is a child of our postmaster. Where `/proc` does not show that (another pid
 * namespace, `hidepid`, another system), the server itself has to read us our own postmaster.pid. What is not proven is
 * refused before the first statement.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Net from "node:net"
import { PostgresPortTaken, WireFailed } from "../errors/Failure.ts"
import { printHostPort } from "../pgwire/address.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import type { Wire } from "../pgwire/Wire.ts"
import { parentOf } from "../platform/processes.ts"
import { readPidFile } from "./pidFile.ts"

export interface OurPostgres {
  readonly pid: number
  readonly pgdata: string
}

/** Fails when the session is not one of our Postgres. Costs a read of `/proc`, and only without one a round trip. */
export const proveOurs =
  ({ pgdata, pid }: OurPostgres) =>
  (wire: Wire): Effect.Effect<void, WireFailed> =>
    Effect.suspend(() => {
      const parent = parentOf(wire.backendPid)
      if (parent === pid) return Effect.void
      return Effect.flatMap(
        wire.rows("SELECT pg_catalog.pg_read_file('postmaster.pid')", Duration.seconds(5)),
        ([row]) => (isSameServer(row?.[0] ?? "", readPidFile(pgdata)) ? Effect.void : notOurs(wire, pid))
      ).pipe(Effect.catchTag("TimedOut", () => notOurs(wire, pid)))
    })

/** Pid, data directory and start time: the last line changes with the state of the server. */
const isSameServer = (theirs: string, ours: string): boolean => {
  const head = (text: string) => text.split("\n").slice(0, 3).join("\n")
  return ours !== "" && head(theirs) === head(ours)
}

const notOurs = ({ backendPid, peer }: Wire, pid: number) =>
  Effect.fail(
    new WireFailed({
      operation: "trust",
      peer,
      detail:
        `another Postgres answers there (its process ${backendPid} is no child of ours, pid ${pid}); ` +
        "nothing was asked of it. Give this compute an address or a port of its own"
    })
  )

const answerWithin = Duration.millis(500)

/** Whether somebody accepts connections there. A silent address is taken for free: the postmaster will know better. */
const isTaken = (to: Net.NetConnectOpts): Effect.Effect<boolean> =>
  Effect.callback<boolean>((resume) => {
    const socket = Net.connect(to)
    socket.once("connect", () => resume(Effect.succeed(true)))
    socket.once("error", () => resume(Effect.succeed(false)))
    return Effect.sync(() => socket.destroy())
  }).pipe(Effect.timeoutOrElse({ duration: answerWithin, orElse: () => Effect.succeed(false) }))

/**
 * Before Postgres is started: nobody may answer where we will look for it. Who answers only on another loopback address
 * of the same port is reported, because Postgres starts all the same and its users may reach the other one.
 */
export const ensurePortFree = Effect.fnUntraced(function* ({ host, port }: Pick<ConnString, "host" | "port">) {
  if (host.startsWith("/")) {
    if (yield* isTaken({ path: `${host}/.s.PGSQL.${port}` })) return yield* new PostgresPortTaken({ host, port })
    return
  }
  const others = ["127.0.0.1", "::1"].filter((other) => other !== host)
  const taken = yield* Effect.filter([host, ...others], (one) => isTaken({ host: one, port }), {
    concurrency: "unbounded"
  })
  if (taken.includes(host)) return yield* new PostgresPortTaken({ host, port })
  for (const other of taken) {
    yield* Effect.logWarning(
      `another server listens on ${printHostPort({ host: other, port })}, the port of this Postgres`
    )
  }
})
