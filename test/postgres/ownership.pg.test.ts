/**
 * Whose server a session is with: real servers of every version, servers that lie, and a `/proc` that shows nothing.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import { spawn, spawnSync } from "node:child_process"
import { randomUUID } from "node:crypto"
import { once } from "node:events"
import * as fs from "node:fs"
import { syncBuiltinESMExports } from "node:module"
import * as Net from "node:net"
import os from "node:os"
import * as path from "node:path"
import { cgroupCommand } from "../../src/autoscaling/Cgroup.ts"
import { connect, type Wire } from "../../src/pgwire/Wire.ts"
import { ensurePortFree, proveOurs } from "../../src/postgres/ownership.ts"
import { parsePidFile, readPidFile } from "../../src/postgres/pidFile.ts"
import { error, readyForQuery, table } from "../../src/testing/peers/serverWire.ts"
import { fakeCgroup } from "../autoscaling/scriptedAgent.ts"
import { authentication, type Connection, frame, int32, scriptedServer } from "../pgwire/scriptedServer.ts"
import {
  type Cluster,
  cleanEnvironment,
  configOf,
  freePort,
  installs,
  makeCluster,
  runAs,
  startPostgres
} from "../support/postgres.ts"
import { eventually } from "../support/waiting.ts"
import { makePostmaster, postmasterOver } from "./clusters.ts"

const logged = { log_statement: "all", log_connections: "on" }
const noToken = { token: null }
const askedForIt = /statement: SELECT pg_catalog\.pg_read_file/

/** What nothing shows: `/proc` knows no process with this pid. */
const unseen = (wire: Wire): Wire => ({ ...wire, backendPid: 0 })

/** All that it has logged of what was asked until now: a statement of our own is waited for. */
const logOf = Effect.fnUntraced(function* (server: Pick<Cluster, "port">, log: () => string) {
  const mark = `end of the log ${randomUUID()}`
  yield* Effect.scoped(Effect.flatMap(connect(configOf(server)()), (wire) => wire.rows(`select '${mark}'`)))
  yield* eventually("the statement in the log", () => log().includes(mark))
  return log().replace(/^.*statement: select 'end of the log.*$/gm, "")
})

const two = Effect.all([startPostgres({ settings: logged }), startPostgres({ settings: logged })], { concurrency: 2 })

const refusal = (proof: Effect.Effect<void, { readonly message: string }>) =>
  Effect.map(Effect.flip(proof), ({ message }) => message)

describe.each(installs)("Postgres $major ($postgres)", ({ major }) => {
  it.live("a session with it is proven without a statement: by TCP and by socket, whatever its title is made of", () =>
    Effect.gen(function* () {
      const database = `${"d".repeat(50)} (1)`
      const ours = yield* startPostgres({
        major,
        settings: { ...logged, cluster_name: "'a [local] (2)'", update_process_title: "off", log_hostname: "on" }
      })
      yield* ours.rows(`create database "${database}"`)
      for (const host of ["127.0.0.1", ours.sockets])
        for (const name of ["postgres", database])
          yield* proveOurs(ours)(yield* connect({ ...ours.config(undefined, name), host }))
      assert.notMatch(yield* logOf(ours, ours.log), askedForIt)
    })
  )

  it.live("where /proc shows nothing, it reads its own postmaster.pid", () =>
    Effect.gen(function* () {
      const ours = yield* startPostgres({ major, settings: logged })
      yield* proveOurs(ours)(unseen(yield* ours.connect()))
      assert.match(yield* logOf(ours, ours.log), askedForIt)
    })
  )
})

describe("another Postgres", () => {
  it.live("is refused without a statement, by TCP and by socket; who is who and what to do is said", () =>
    Effect.gen(function* () {
      const [ours, other] = yield* two
      for (const host of ["127.0.0.1", other.sockets]) {
        const message = yield* refusal(proveOurs(ours)(yield* connect({ ...other.config(), host })))
        assert.match(message, new RegExp(`^refused to use .*: another Postgres answers there.* pid ${other.pid}, and`))
        assert.match(message, new RegExp(`ours has pid ${ours.pid}. Nothing was asked of it. .*with -C$`))
        assert.include(message, String(other.port))
      }
      assert.notMatch(yield* logOf(other, other.log), /statement:/)
    })
  )

  it.live("is refused where /proc shows nothing, also when it may not read the file", () =>
    Effect.gen(function* () {
      const [ours, other] = yield* two
      assert.match(yield* refusal(proveOurs(ours)(unseen(yield* other.connect()))), /is not the one in our data dir/)
      yield* other.rows("create role weak login")
      const weak = yield* other.connect("weak")
      assert.match(yield* refusal(proveOurs(ours)(unseen(weak))), /did not prove to be ours.*permission denied/)
    })
  )

  it.live("is refused when its backend's pid is, in our pid namespace, that of a process of ours", () =>
    Effect.gen(function* () {
      const [ours, other] = yield* two
      const wire = yield* other.connect()
      const [row] = yield* ours.rows("select string_agg(pid::text, ',') from pg_stat_activity")
      const client = yield* ours.connect()
      for (const backendPid of [...(row?.[0] ?? "").split(",").map(Number), client.backendPid, ours.pid])
        assert.match(yield* refusal(proveOurs(ours)({ ...wire, backendPid })), /did not prove to be ours/)
    })
  )

  it.live("on our port is asked for nothing before ours runs, and ours is not started then", () =>
    Effect.gen(function* () {
      const { admin, cluster, start } = yield* makePostmaster({ settings: logged })
      const early = yield* startPostgres({ settings: { ...logged, port: String(cluster.port) } })
      const refusedEarly = yield* Effect.flip(admin.connect("apply_config"))
      assert.match(refusedEarly.message, /this compute's own Postgres is not running/)
      assert.notMatch(yield* logOf(cluster, early.log), /statement:/)
      assert.strictEqual((yield* Effect.flip(Effect.scoped(start(noToken))))._tag, "PostgresPortTaken")
    })
  )
})

describe("a Postgres of ours", () => {
  it.live("is proven when it was started through a cgroup", () =>
    Effect.gen(function* () {
      const { folder, root } = yield* fakeCgroup
      const procs = path.join(folder, "cgroup.procs")
      fs.chmodSync(root, 0o755)
      fs.chmodSync(folder, 0o755)
      if (runAs !== null) fs.chownSync(procs, runAs.uid, runAs.gid)
      const cluster = yield* makeCluster({ settings: logged })
      const at = { root, name: "neon-postgres", policy: "refuse", path: undefined } as const
      const { admin, log, start } = yield* postmasterOver(cluster, { enter: (request) => cgroupCommand(at, request) })
      const running = yield* start(noToken)
      yield* running.ready
      assert.strictEqual(fs.readFileSync(procs, "utf8").trim(), String(running.pid))
      assert.deepStrictEqual(yield* (yield* admin.connect("apply_config")).rows("select 1"), [["1"]])
      assert.notMatch(yield* logOf(cluster, log), askedForIt)
    })
  )

  it.live("is proven over its socket, and over a proxy by being asked", () =>
    Effect.gen(function* () {
      const cluster = yield* makeCluster({ settings: logged })
      const { admin, log, start } = yield* postmasterOver(cluster, {}, cluster.sockets)
      yield* (yield* start(noToken)).ready
      const wire = yield* admin.connect("apply_config")
      assert.isNull(wire.localPort)
      assert.notMatch(yield* logOf(cluster, log), askedForIt)
      const proxied = yield* connect({ ...configOf(cluster)(), port: yield* proxyTo(cluster.port) })
      yield* admin.prove(proxied)
      assert.match(yield* logOf(cluster, log), askedForIt)
    })
  )

  it.live("that is not our child, because another program started it for us, is proven by being asked", () =>
    Effect.gen(function* () {
      const ours = yield* startPostgres({ settings: logged })
      yield* proveOurs({ pid: process.pid, pgdata: ours.pgdata })(yield* ours.connect())
      assert.match(yield* logOf(ours, ours.log), askedForIt)
    })
  )

  it.live("gets no sessions any more once it has left", () =>
    Effect.gen(function* () {
      const { admin, cluster, start } = yield* makePostmaster()
      const running = yield* start(noToken)
      yield* running.ready
      yield* running.stop
      const other = yield* startPostgres({ settings: { ...logged, port: String(cluster.port) } })
      assert.match((yield* Effect.flip(admin.connect("apply_config"))).message, /own Postgres is not running/)
      assert.notMatch(yield* logOf(cluster, other.log), /statement:/)
    })
  )
})

const proxyTo = (port: number) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const server = Net.createServer((near) => {
        const far = Net.connect({ host: "127.0.0.1", port })
        near.pipe(far).on("error", () => near.destroy())
        far.pipe(near).on("error", () => far.destroy())
      })
      await once(server.listen(0, "127.0.0.1"), "listening")
      return server
    }),
    (server) => Effect.sync(() => server.close())
  ).pipe(Effect.map((server) => (server.address() as Net.AddressInfo).port))

const canUnshare = spawnSync("unshare", ["--pid", "--fork", "true"]).status === 0

describe("a Postgres in a pid namespace of its own", () => {
  it.live("is proven by being asked, and refused when it is another one, where this machine lets us make one", () =>
    Effect.gen(function* () {
      if (!canUnshare) return
      const cluster = yield* makeCluster({ settings: logged })
      yield* inNamespace(cluster.install.postgres, cluster.pgdata)
      const wire = yield* connect(configOf(cluster)())
      // Its postmaster calls itself 1 or so; here that is another process.
      yield* proveOurs({ pid: 1, pgdata: cluster.pgdata })(wire)
      const another = yield* startPostgres()
      assert.match(yield* refusal(proveOurs(another)(wire)), /did not prove to be ours/)
    })
  )
})

const inNamespace = Effect.fnUntraced(function* (postgres: string, pgdata: string) {
  const drop = runAs === null ? [] : ["setpriv", `--reuid=${runAs.uid}`, `--regid=${runAs.gid}`, "--clear-groups"]
  const args = ["--pid", "--fork", ...drop, postgres, "-D", pgdata]
  yield* Effect.acquireRelease(
    Effect.sync(() => spawn("unshare", args, { cwd: "/", env: cleanEnvironment(), stdio: "ignore" })),
    (child) =>
      Effect.promise(async () => {
        const left = once(child, "exit")
        // `unshare` leaves with the one child that it has; killed itself, it would leave Postgres behind.
        for (const pid of fs.readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").trim().split(" "))
          process.kill(Number(pid), "SIGQUIT")
        await left
      })
  )
  yield* eventually("its readiness", () => parsePidFile(readPidFile(pgdata))?.status === "ready")
})

describe("a server that lets everybody in", () => {
  /** Says that it is this process, and answers every query like this. */
  const impostor = (pid: number | null, answer: Uint8Array | null, asked: Array<string>) => async (c: Connection) => {
    await c.read()
    await c.write(authentication(0), ...(pid === null ? [] : [frame("K", int32(pid), int32(1))]), readyForQuery)
    for (;;) {
      const next = await c.read()
      if (next === null) return
      asked.push(next.body.toString("utf8"))
      if (answer !== null && next.type === "Q") await c.write(answer)
    }
  }

  it.live("is refused, whichever pid it claims and whatever it answers; no other statement is sent", () =>
    Effect.gen(function* () {
      const ours = yield* startPostgres()
      const client = yield* ours.connect()
      const answers = [
        table(["pg_read_file", "system_identifier"], [["", ""]]),
        table(["pg_read_file", "system_identifier"], [[`${ours.pid}\n${ours.pgdata}\n`, "1"]]),
        table(["pg_read_file", "system_identifier"], []),
        Buffer.concat([error("ERROR", "42501", "permission denied"), readyForQuery]),
        Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")
      ]
      for (const pid of [null, -1, 1, ours.pid, client.backendPid]) {
        for (const answer of answers) {
          const asked: Array<string> = []
          const fake = yield* scriptedServer(impostor(pid, answer, asked))
          const message = yield* refusal(proveOurs(ours)(yield* connect(fake)))
          assert.match(message, /did not prove to be ours .*Stop that server, or give this compute an address/)
          assert.isTrue(
            asked.filter((sql) => sql !== "").every((sql) => sql.startsWith("SELECT pg_catalog.pg_read_file")),
            asked.join()
          )
        }
      }
    })
  )
})

describe("the port, before Postgres is started", () => {
  const listening = (at: Net.ListenOptions) =>
    Effect.acquireRelease(
      Effect.promise(async () => {
        const server = Net.createServer((socket) => void socket.on("error", () => {}).destroy())
        await once(server.listen(at), "listening")
        return server
      }),
      (server) => Effect.sync(() => server.close())
    )

  const warnings = (at: { readonly host: string; readonly port: number }) =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const logger = Logger.make(({ message }) => void lines.push(String(message)))
      yield* ensurePortFree(at).pipe(Effect.provide(Logger.layer([logger])))
      return lines
    })

  it.live("is free when nobody answers on any address", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* warnings({ host: "127.0.0.1", port: yield* freePort }), [])
    })
  )

  it.live("is looked for on loopback alone where a sandbox hides the addresses of the machine", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      yield* listening({ host: "127.0.0.1", port })
      const real = os.networkInterfaces
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          os.networkInterfaces = () => {
            throw new Error("uv_interface_addresses returned Unknown system error 97")
          }
          syncBuiltinESMExports()
        }),
        () =>
          Effect.sync(() => {
            os.networkInterfaces = real
            syncBuiltinESMExports()
          })
      )
      assert.include((yield* warnings({ host: "::1", port }))[0], `another server listens on 127.0.0.1:${port}`)
    })
  )

  it.live("is taken when somebody answers where we would look for Postgres; the error says on which port", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      yield* listening({ host: "127.0.0.1", port })
      for (const host of ["127.0.0.1", "localhost"]) {
        const failure = yield* Effect.flip(ensurePortFree({ host, port }))
        assert.strictEqual(
          failure.message,
          `port ${port} of ${host} is taken: another server answers there, so Postgres was not started`
        )
      }
    })
  )

  it.live("is taken when the socket in the folder answers, and free when only its file was left", () =>
    Effect.gen(function* () {
      const cluster = yield* makeCluster()
      const [host, port] = [cluster.sockets, cluster.port]
      fs.writeFileSync(`${host}/.s.PGSQL.${port}`, "")
      yield* ensurePortFree({ host, port })
      fs.rmSync(`${host}/.s.PGSQL.${port}`)
      yield* listening({ path: `${host}/.s.PGSQL.${port}` })
      assert.strictEqual((yield* Effect.flip(ensurePortFree({ host, port })))._tag, "PostgresPortTaken")
    })
  )

  it.live("is reported when somebody answers on another address of this machine", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      yield* listening({ host: "::1", port, ipv6Only: true })
      const [line, ...more] = yield* warnings({ host: "127.0.0.1", port })
      assert.match(line ?? "", new RegExp(`another server listens on \\[::1\\]:${port}, the port of this Postgres`))
      assert.deepStrictEqual(more, [])
    })
  )
})
