/**
 * Who gets into stock Postgres: the superuser only over our socket and only who started the compute (and whom Postgres
 * runs as), everybody else with a password. The same whether root starts it or an ordinary user.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { execFileSync, spawnSync } from "node:child_process"
import { createHash, createHmac, pbkdf2Sync } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { connect } from "../../src/pgwire/Wire.ts"
import { runAs } from "../support/postgres.ts"
import { killAll, processesIn } from "../support/processes.ts"
import { programAt } from "../support/programs.ts"
import { gone, launch, localArguments, type Place, place, type Program } from "./harness.ts"

interface Account {
  readonly uid: number
  readonly gid: number
}

/** Somebody else with a name on every Unix, and somebody without. */
const daemon: Account = { uid: 1, gid: 1 }
const nameless: Account = { uid: 54_321, gid: 54_321 }

const under = ({ gid, uid }: Account) => ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups"]

/** Begins a log-in and says how it went: it needs no file of ours, which another account might not be able to read. */
const attempt = `
const [host, port, user] = process.argv.slice(1)
const to = host.startsWith("/") ? { path: host + "/.s.PGSQL." + port } : { host, port }
const socket = require("node:net").connect(to)
const say = (text) => { console.log(text); process.exit() }
socket.on("error", ({ code }) => say(code))
const body = Buffer.from("\\0\\x03\\0\\0user\\0" + user + "\\0database\\0postgres\\0\\0", "latin1")
const size = Buffer.alloc(4)
size.writeInt32BE(body.length + 4)
socket.write(Buffer.concat([size, body]))
socket.once("data", (bytes) => say(
  bytes[0] === 69 ? bytes.toString("utf8").split("\\0").find((one) => one.startsWith("M")).slice(1)
    : bytes.readInt32BE(5) === 0 ? "in" : "authentication " + bytes.readInt32BE(5)
))`

const sasl = "authentication 10"

const as = (account: Account | null) => ({
  cwd: "/",
  ...(account === null ? {} : { uid: account.uid, gid: account.gid })
})

/** As `account`; `null`: as ourselves. */
const tries = (account: Account | null, host: string, port: number, user: string): string =>
  spawnSync(process.execPath, ["-e", attempt, host, String(port), user], {
    ...as(account),
    encoding: "utf8"
  }).stdout.trim()

/** By RFC 5803, with no code of ours. */
const verifierOf = (password: string): string => {
  const salt = Buffer.from("sixteen bytes!!!")
  const salted = pbkdf2Sync(password, salt, 4096, 32, "sha256")
  const key = (name: string) => createHmac("sha256", salted).update(name).digest()
  const stored = createHash("sha256").update(key("Client Key")).digest("base64")
  return `SCRAM-SHA-256$4096:${salt.toString("base64")}$${stored}:${key("Server Key").toString("base64")}`
}

const spec = {
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: {
    roles: [{ name: "alice" }, { name: "bob", encrypted_password: verifierOf("bob's own") }],
    databases: [{ name: "app", owner: "alice" }]
  }
}

const logIn = (port: number, user: string, password: string, database = "postgres") =>
  Effect.scoped(
    Effect.flatMap(
      connect({
        host: "127.0.0.1",
        port,
        user,
        database,
        password: Redacted.make(password),
        connectWithin: Duration.seconds(10)
      }),
      (wire) => wire.rows("select current_user, current_database()")
    )
  )

interface Shown {
  readonly program: Program
  readonly url: URL
  readonly sockets: string
}

/** Runs, and has said how to connect. */
const shown = Effect.fnUntraced(function* (program: Program): Effect.fn.Return<Shown> {
  const urlOf = async (who: string) =>
    new URL((await program.prints(new RegExp(`${who} psql '(postgresql://[^']+)'`)))[1] ?? "")
  const superuser = yield* Effect.promise(() => urlOf("the superuser with"))
  return {
    program,
    url: yield* Effect.promise(() => urlOf("alice connects with")),
    sockets: superuser.searchParams.get("host") ?? assert.fail("the superuser has no socket")
  }
})

const passwordIn = (file: string): string =>
  /^\*:\*:\*:alice:(.+)$/m.exec(fs.readFileSync(file, "utf8"))?.[1] ?? assert.fail("no password of alice")

/** The URL of the log, as it is; and that the password is where only who started the compute may read it. */
const urlWorks = Effect.fnUntraced(function* ({ program, url }: Shown, at: Place, by: Account | null) {
  const file = url.searchParams.get("passfile") ?? assert.fail("the URL names no password file")
  const password = passwordIn(file)
  const stat = fs.statSync(file)
  assert.deepStrictEqual([stat.mode & 0o777, stat.uid], [0o600, by?.uid ?? process.getuid?.()])
  assert.notInclude(program.output(), password)
  assert.deepStrictEqual(yield* logIn(at.port, "alice", password, "app"), [["alice", "app"]])
  const psql = programAt("psql")
  if (psql !== null) {
    const said = execFileSync(psql, ["-X", "-A", "-t", "-c", "select current_user", url.href], {
      ...as(by),
      encoding: "utf8"
    })
    assert.strictEqual(said.trim(), "alice")
  }
  return password
})

/** Neither by TCP nor by the socket, also when the socket can be reached. */
const nobodyElseIsSuperuser = Effect.fnUntraced(function* ({ sockets }: Shown, at: Place) {
  const byTcp = yield* Effect.flip(logIn(at.port, "cloud_admin", "cloud_admin"))
  assert.match(byTcp.message, /password authentication failed for user "cloud_admin"/)
  if (process.getuid?.() !== 0) return void process.stdout.write("not tested: only root can be another account\n")
  assert.strictEqual(tries(daemon, "127.0.0.1", at.port, "cloud_admin"), sasl)
  assert.strictEqual(tries(daemon, sockets, at.port, "cloud_admin"), "EACCES")
  assert.strictEqual(fs.statSync(sockets).mode & 0o777, 0o700)
})

/** Where the folder has been opened by mistake, the operating system still says who comes. */
const peerHolds = ({ sockets }: Shown, at: Place): void => {
  if (process.getuid?.() !== 0) return
  const folders = [sockets]
  for (let folder = sockets; folder !== at.directory;) folders.push((folder = path.dirname(folder)))
  const before = folders.map((folder) => fs.statSync(folder).mode & 0o777)
  for (const folder of folders) fs.chmodSync(folder, 0o755)
  assert.include(tries(daemon, sockets, at.port, "cloud_admin"), "Peer authentication failed")
  for (const [index, folder] of folders.entries()) fs.chmodSync(folder, before[index] ?? 0o700)
}

const more = ["--generate-password", "alice"]

const end = Effect.fnUntraced(function* ({ program }: Shown) {
  program.signal("SIGTERM")
  assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0, program.output())
})

describe("stock Postgres", () => {
  it.live("started by root or whoever runs the tests, is the superuser's for nobody else", () =>
    Effect.gen(function* () {
      const at = yield* place
      const started = yield* shown(yield* launch(localArguments(at, spec, more), at.httpPort))
      assert.strictEqual(started.sockets, `${at.directory}/pgdata`)
      yield* nobodyElseIsSuperuser(started, at)
      peerHolds(started, at)
      for (const account of [null, runAs]) {
        assert.strictEqual(tries(account, started.sockets, at.port, "cloud_admin"), "in")
      }
      const password = yield* urlWorks(started, at, null)
      assert.deepStrictEqual(yield* logIn(at.port, "bob", "bob's own"), [["bob", "postgres"]])
      yield* Effect.flip(logIn(at.port, "bob", "alice's own"))
      yield* end(started)

      const again = yield* shown(yield* launch(localArguments(at, spec, more), at.httpPort))
      assert.strictEqual(yield* urlWorks(again, at, null), password)
      yield* end(again)
    })
  )

  it.live("started by an ordinary user, with its socket in the storage where PGDATA's path is too long", () =>
    Effect.gen(function* () {
      if (runAs === null) return void process.stdout.write("not tested: only root can become another user\n")
      const ordinary: Account = runAs
      const at = yield* place
      const pgdata = path.join(at.directory, "x".repeat(80), "pgdata")
      const args = localArguments(at, spec, more).map((arg) => (arg === `${at.directory}/pgdata` ? pgdata : arg))
      const own = args.slice(0, args.indexOf("--run-as")).concat(more)
      const start = Effect.suspend(() => launch(own, at.httpPort, { HOME: at.directory }, "none", under(ordinary)))
      fs.chmodSync(path.join(at.directory, "spec.json"), 0o644)
      const started = yield* shown(yield* start)
      assert.match(started.sockets, new RegExp(`^${at.directory}/storage/sockets/[0-9a-f]{12}$`))
      yield* nobodyElseIsSuperuser(started, at)
      peerHolds(started, at)
      assert.strictEqual(tries(runAs, started.sockets, at.port, "cloud_admin"), "in")
      const password = yield* urlWorks(started, at, runAs)

      // What a kill leaves of the socket is no hindrance.
      started.program.signal("SIGKILL")
      killAll(processesIn(pgdata), "SIGKILL")
      yield* Effect.promise(() => gone(pgdata))
      assert.include(fs.readdirSync(started.sockets), `.s.PGSQL.${at.port}.lock`)
      const again = yield* shown(yield* start)
      assert.strictEqual(yield* urlWorks(again, at, runAs), password)
      yield* end(again)
      assert.isFalse(fs.existsSync(again.sockets), "the folder of the socket goes with Postgres")
    })
  )

  it.live("started by a user whom the operating system has no name for, has one socket, in a folder of its own", () =>
    Effect.gen(function* () {
      if (runAs === null) return void process.stdout.write("not tested: only root can become another user\n")
      const at = yield* place
      // A new cluster needs a user with a name; one that is there does not.
      const first = yield* shown(yield* launch(localArguments(at, spec, more), at.httpPort))
      yield* end(first)
      execFileSync("chown", ["-R", `${nameless.uid}:${nameless.gid}`, at.directory])
      const wishing = { ...spec, cluster: { ...spec.cluster, settings: [socketsIn(at.directory)] } }
      const args = localArguments(at, wishing, more)
      fs.chmodSync(path.join(at.directory, "spec.json"), 0o644)
      const own = args.slice(0, args.indexOf("--run-as")).concat(more)
      const started = yield* shown(yield* launch(own, at.httpPort, { HOME: at.directory }, "none", under(nameless)))
      assert.match(started.program.output(), /setting "unix_socket_directories" is overridden/)
      assert.isFalse(fs.existsSync(path.join(at.directory, `.s.PGSQL.${at.port}`)))
      assert.strictEqual(tries(nameless, started.sockets, at.port, "cloud_admin"), "in")
      yield* nobodyElseIsSuperuser(started, at)
      yield* end(started)
    })
  )
})

const socketsIn = (folder: string) => ({ name: "unix_socket_directories", value: folder, vartype: "string" })
