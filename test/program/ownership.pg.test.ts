/**
 * Two computes that were given the same port: the second one touches nothing of the first, whenever the first appears.
 *
 * Its spec would drop the first one's database, and makes its Postgres start although 127.0.0.1 is not to be had.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { randomUUID } from "node:crypto"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { commandComplete, loggedIn, readyForQuery } from "../../src/testing/peers/serverWire.ts"
import { atHand, installOf, temporaryFolder } from "../support/postgres.ts"
import { eventually, gone, launch, localArguments, type Place, place, type Program, rows } from "./harness.ts"

type Settings = Readonly<Record<string, string>>

const specOf = (settings: Settings, more: { readonly databases?: boolean; readonly deletes?: boolean }) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: {
    roles: [{ name: "web" }],
    databases: more.databases === true ? [{ name: "app", owner: "web" }] : [],
    settings: Object.entries(settings).map(([name, value]) => ({ name, value, vartype: "string" }))
  },
  ...(more.deletes === true ? { delta_operations: [{ action: "delete_db", name: "app" }] } : {})
})

/** Every statement is in its output, after the name of the session. */
const logged = { log_statement: "all", log_line_prefix: "%a|" }

const victim = (settings: Settings = {}) => specOf({ ...logged, ...settings }, { databases: true })
const destroyer = (settings: Settings = { listen_addresses: "*" }) => specOf(settings, { deletes: true })

/** The same port, in a place of its own. */
const neighbour = (of: Place) => Effect.map(place, (own): Place => ({ ...own, port: of.port }))

/** A socket in `folder` instead of TCP. */
const overSocket = (at: Place, args: ReadonlyArray<string>, folder: string): ReadonlyArray<string> =>
  args.map((arg, index) =>
    args[index - 1] === "-C" ? `postgresql://cloud_admin@/postgres?host=${folder}&port=${at.port}` : arg
  )

/** A Postgres that, once it is to be started, waits: the port was looked at then, and is not bound yet. */
const hesitant = Effect.fnUntraced(function* () {
  const install = yield* Effect.promise(() => atHand(installOf(17)))
  const folder = yield* temporaryFolder
  const postgres = path.join(folder, "postgres")
  const script = [
    "#!/bin/sh",
    `if [ "$1" = -D ]; then : > ${folder}/called; while [ ! -e ${folder}/go ]; do sleep 0.05; done; fi`,
    `exec ${install.postgres} "$@"`
  ]
  fs.chmodSync(folder, 0o755)
  fs.writeFileSync(postgres, `${script.join("\n")}\n`, { mode: 0o755 })
  fs.symlinkSync(install.initdb, path.join(folder, "initdb"))
  return {
    postgres,
    called: eventually("the start of Postgres", () => fs.existsSync(`${folder}/called`), Boolean),
    go: Effect.sync(() => fs.writeFileSync(`${folder}/go`, ""))
  }
})

/** It says that it failed and why, and ends with 1 without waiting for others to read it. */
const ended = Effect.fnUntraced(function* (program: Program, at: Place, why: string) {
  const { error } = yield* Effect.promise(() => program.reaches("failed"))
  assert.include(error ?? "", why)
  program.signal("SIGTERM")
  const { code } = yield* Effect.promise(() => program.exit)
  assert.strictEqual(code, 1, program.output())
  yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
  return program.output()
})

/** What it has printed until now: a statement of our own is waited for. */
const outputOf = Effect.fnUntraced(function* (at: Place, program: Program) {
  const mark = `end of the output ${randomUUID()}`
  yield* rows(at, `select '${mark}'`)
  yield* Effect.promise(() => program.prints(new RegExp(mark)))
  return program.output()
})

interface Victim {
  readonly program: Program
  readonly before: string
}

/** Its database is there, and since then nobody applied a spec to it, nor looked whose it is. */
const assertUntouched = Effect.fnUntraced(function* (at: Place, { before, program }: Victim) {
  const since = (yield* outputOf(at, program)).slice(before.length)
  assert.notMatch(since, /compute_ctl:apply_config\|.*statement:|DROP DATABASE|pg_read_file/)
  assert.deepStrictEqual(yield* rows(at, "select count(*) from pg_database where datname = 'app'"), [["1"]])
  assert.strictEqual((yield* Effect.promise(() => program.status())).status, "running")
})

const start = Effect.fnUntraced(function* (at: Place, args: ReadonlyArray<string>) {
  const program = yield* launch(args, at.httpPort)
  yield* Effect.promise(() => program.reaches("running"))
  return program
})

const startVictim = Effect.fnUntraced(function* (at: Place, settings: Settings = {}) {
  const program = yield* start(at, localArguments(at, victim(settings)))
  return { program, before: yield* outputOf(at, program) } satisfies Victim
})

describe("a compute whose port another compute has", () => {
  it.live("is not started: it fails, says which port, and the other one is not asked for anything", () =>
    Effect.gen(function* () {
      const first = yield* place
      const a = yield* startVictim(first)
      const second = yield* neighbour(first)
      const b = yield* launch(localArguments(second, destroyer()), second.httpPort)
      const why = `port ${first.port} of 127.0.0.1 is taken: another server answers there`
      const output = yield* ended(b, second, why)
      assert.match(output, /stop what listens there, or give this compute a port of its own with -C/)
      assert.notMatch(output, /Postgres .* was started with pid/)
      yield* assertUntouched(first, a)
    })
  )

  it.live("is not started either when the two meet in a folder of sockets", () =>
    Effect.gen(function* () {
      const sockets = yield* temporaryFolder
      const first = yield* place
      const a = yield* startVictim(first, { unix_socket_directories: sockets })
      const second = yield* neighbour(first)
      const args = overSocket(second, localArguments(second, destroyer()), sockets)
      const why = `port ${first.port} of ${sockets} is taken: another server answers there`
      yield* ended(yield* launch(args, second.httpPort), second, why)
      yield* assertUntouched(first, a)
    })
  )
})

/** Lets everybody in, and says to every query that it is done. */
const impostor = (port: number, asked: Array<string>) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const server = net.createServer((socket) => {
        let welcomed = false
        socket
          .on("error", () => {})
          .on("data", (bytes) => {
            if (!welcomed) socket.write(loggedIn)
            else if (bytes.toString("latin1", 0, 1) === "Q") {
              asked.push(bytes.toString("utf8", 5))
              socket.write(Buffer.concat([commandComplete("SELECT 0"), readyForQuery]))
            }
            welcomed = true
          })
      })
      await once(server.listen(port, "127.0.0.1"), "listening")
      return server
    }),
    (server) => Effect.sync(() => server.close())
  )

describe("a compute whose port another one takes while Postgres is being started", () => {
  /** `b` is between its look at the port and Postgres's: `takes` happens then. */
  const race = <A, E, R>(
    second: Place,
    args: (postgres: string) => ReadonlyArray<string>,
    takes: Effect.Effect<A, E, R>
  ) =>
    Effect.gen(function* () {
      const { called, go, postgres } = yield* hesitant()
      const b = yield* launch(args(postgres), second.httpPort)
      yield* called
      const taken = yield* takes
      yield* go
      return { taken, b }
    })

  const isTaken = ({ port }: Place) => `port ${port} of 127.0.0.1 is taken: another server answers there`

  it.live("applies nothing anywhere, fails, and starts again when the port is its own", () =>
    Effect.gen(function* () {
      const first = yield* place
      const second = yield* neighbour(first)
      const args = (postgres: string) => localArguments(second, destroyer(), ["-b", postgres])
      const { b, taken } = yield* race(second, args, startVictim(first))
      const output = yield* ended(b, second, isTaken(first))
      assert.match(output, /stop what listens there, or give this compute a port of its own with -C/)
      assert.notInclude(output, "applied the catalog")
      yield* assertUntouched(first, taken)

      taken.program.signal("SIGTERM")
      yield* Effect.promise(() => taken.program.exit)
      const again = yield* start(second, localArguments(second, destroyer()))
      assert.deepStrictEqual(yield* rows(second, "select count(*) from pg_roles where rolname = 'web'"), [["1"]])
      again.signal("SIGTERM")
      assert.strictEqual((yield* Effect.promise(() => again.exit)).code, 0, again.output())
    })
  )

  it.live("applies its spec to its own Postgres, whoever has the socket that it was told", () =>
    Effect.gen(function* () {
      const sockets = yield* temporaryFolder
      const first = yield* place
      const second = yield* neighbour(first)
      // Its own Postgres listens nowhere that the other one does.
      const spec = destroyer({ listen_addresses: "", unix_socket_directories: second.directory })
      const args = (postgres: string) => overSocket(second, localArguments(second, spec, ["-b", postgres]), sockets)
      const { b, taken } = yield* race(second, args, startVictim(first, { unix_socket_directories: sockets }))
      yield* Effect.promise(() => b.reaches("running"))
      assert.deepStrictEqual(yield* rows(second, "select count(*) from pg_roles where rolname = 'web'"), [["1"]])
      yield* assertUntouched(first, taken)
    })
  )

  it.live("fails where a server lets everybody in, and asks it nothing", () =>
    Effect.gen(function* () {
      const second = yield* place
      const asked: Array<string> = []
      const args = (postgres: string) => localArguments(second, destroyer(), ["-b", postgres])
      const { b } = yield* race(second, args, impostor(second.port, asked))
      yield* ended(b, second, isTaken(second))
      assert.deepStrictEqual(asked, [])
    })
  )
})
