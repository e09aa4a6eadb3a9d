/**
 * A real compute of a test: its port, who logs in, what a reset leaves, what the next compute need not do again, and
 * what is shown of its log.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { connect } from "../../src/pgwire/Wire.ts"
import { resolveRunAs } from "../../src/platform/users.ts"
import { parseSpec } from "../../src/spec/parseSpec.ts"
import { startProgram } from "../../src/testing/computeProgram.ts"
import { freePort } from "../../src/testing/freePort.ts"
import { logLines } from "../../src/testing/logLines.ts"
import { databaseAt, makeAncestor, type RunningCompute, startCompute, verifierOf } from "../../src/testing/promise.ts"
import { cleanEnvironment, installs } from "../support/postgres.ts"
import { compiledOnce } from "../support/runFolder.ts"
import { eventually } from "../support/waiting.ts"

const spec = {
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: {
    roles: [{ name: "web" }, { name: "own", encrypted_password: verifierOf("its own") }],
    databases: [{ name: "a shop", owner: "web" }]
  }
}
const parse = (input: unknown) => parseSpec(input, { source: "a test", storage: "local" })

const ask = (url: string, sql: string) => {
  const { hostname, password, pathname, port, username } = new URL(url)
  const session = connect({
    host: hostname,
    port: Number(port),
    user: decodeURIComponent(username),
    password: Redacted.make(decodeURIComponent(password)),
    database: decodeURIComponent(pathname.slice(1)),
    connectWithin: Duration.seconds(10)
  })
  return Effect.runPromise(Effect.scoped(Effect.flatMap(session, (wire) => wire.rows(sql))))
}

describe("a compute of a test", () => {
  let pg: RunningCompute
  const shown: Array<string> = []
  beforeAll(async () => {
    pg = await startCompute({ spec, log: (line) => shown.push(line) })
  })
  afterAll(() => pg.stop())

  it("lets the superuser and the roles of its spec log in at the URLs that it gives", async () => {
    assert.deepStrictEqual(await ask(pg.url, "SELECT current_user, current_database()"), [["cloud_admin", "postgres"]])
    const web = await ask(pg.urlOf("a shop", "web"), "SELECT current_user, current_database()")
    assert.deepStrictEqual(web, [["web", "a shop"]])
    const url = new URL(pg.urlOf("postgres", "own"))
    url.password = "its own"
    assert.deepStrictEqual(await ask(url.href, "SELECT current_user"), [["own"]])
  })

  it("keeps them when it gets another spec, and has what that says", async () => {
    const databases = [...spec.cluster.databases, { name: "more", owner: "web" }]
    await pg.configure({ ...spec, cluster: { ...spec.cluster, databases } })
    assert.deepStrictEqual(await ask(pg.urlOf("more", "web"), "SELECT current_user"), [["web"]])
    assert.strictEqual((await fetch(`${pg.httpUrl}/status`)).status, 200)
  })

  it("gives every line of its log and Postgres's to whoever asks for them", () => {
    const log = pg.log()
    assert.isTrue(log.some((line) => line.includes("Postgres") && line.includes("was started with pid")))
    assert.isTrue(log.some((line) => /^PG:.*ready to accept connections/.test(line)))
    assert.deepStrictEqual(shown.slice(-log.length), log)
  })

  it("has a database for each test, copied from one that is migrated once, by the attempt that succeeds", async () => {
    let migrations = 0
    const migrate = async (url: string) => {
      migrations += 1
      await ask(url, "CREATE TABLE IF NOT EXISTS orders AS SELECT current_user AS buyer")
      if (migrations === 1) {
        await ask(url, "CREATE TABLE half ()")
        throw new Error("the first attempt")
      }
    }
    const failed = await pg.database({ migrate, owner: "web" }).catch(String)
    assert.match(String(failed), /the first attempt/)
    let name = ""
    {
      const wanted = { migrate, owner: "web" }
      await using one = await pg.database(wanted)
      // As another process does, which has the URL.
      const wal = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"
      const [before] = await ask(pg.url, wal)
      await using other = await databaseAt(pg.url, wanted)
      const [after] = await ask(pg.url, wal)
      assert.isBelow(Number(after?.[0]) - Number(before?.[0]), 1_000_000, "its files are not in the WAL")
      name = one.name
      await ask(one.url, "INSERT INTO orders SELECT 'one more'")
      assert.deepStrictEqual(await ask(one.url, "SELECT count(*) FROM orders"), [["2"]])
      assert.deepStrictEqual(await ask(other.url, "SELECT buyer, current_user FROM orders"), [["web", "web"]])
      assert.deepStrictEqual(await ask(other.url, "SELECT to_regclass('half')"), [[null]])
    }
    assert.strictEqual(migrations, 2)
    assert.deepStrictEqual(await ask(pg.url, `SELECT 1 FROM pg_database WHERE datname = '${name}'`), [])
  })

  it("leaves the standard input of its process alone", async () => {
    const before = process.stdin.listenerCount("end")
    await using _ = await startCompute({ log: "silent" })
    assert.strictEqual(process.stdin.listenerCount("end"), before)
  })

  it("is as at its start after a reset, at the same URLs", async () => {
    const before = await ask(pg.url, "SELECT system_identifier FROM pg_control_system()")
    await ask(pg.urlOf("a shop", "web"), "CREATE TABLE orders ()")
    await ask(pg.url, "CREATE ROLE somebody")
    await pg.reset()
    assert.deepStrictEqual(await ask(pg.urlOf("a shop", "web"), "SELECT to_regclass('orders')"), [[null]])
    assert.deepStrictEqual(await ask(pg.url, "SELECT rolname FROM pg_roles WHERE rolname = 'somebody'"), [])
    assert.notDeepEqual(await ask(pg.url, "SELECT system_identifier FROM pg_control_system()"), before)
    assert.strictEqual((await fetch(`${pg.httpUrl}/status`)).status, 200)
  })

  it("is gone at the end of its block, and says so to whoever still asks", async () => {
    let url = ""
    {
      await using second = await startCompute({ password: "it's 100% known / secret" })
      url = second.url
      assert.deepStrictEqual(await ask(url, "SELECT 1"), [["1"]])
    }
    const failed = await ask(url, "SELECT 1").catch((cause: unknown) => cause)
    assert.strictEqual((failed as { _tag?: string })._tag, "WireFailed")
  })

  it("keeps its data in a folder that it is given, and nothing else there", async () => {
    const directory = path.join(os.tmpdir(), `compute-kept-${process.pid}`)
    try {
      {
        await using first = await startCompute({ directory })
        await ask(first.url, "CREATE TABLE kept AS SELECT 1 AS one")
      }
      assert.deepStrictEqual(fs.readdirSync(directory), ["storage"])
      await using second = await startCompute({ directory })
      assert.deepStrictEqual(await ask(second.url, "SELECT one FROM kept"), [["1"]])
      await second.reset()
      assert.deepStrictEqual(await ask(second.url, "SELECT to_regclass('kept')"), [[null]])
    } finally {
      fs.rmSync(directory, { recursive: true, force: true })
    }
  })

  it("serves the tests in examples/: one compute for a whole run of vitest, and one in node:test", async () => {
    const root = path.resolve(import.meta.dirname, "../..")
    const run = async (...options: ReadonlyArray<string>) => {
      const env = { ...cleanEnvironment(), ...compiledOnce(), NO_COLOR: "1" }
      const child = spawn(process.execPath, options, { cwd: root, env })
      let said = ""
      for (const output of [child.stdout, child.stderr]) output.on("data", (chunk: Buffer) => (said += String(chunk)))
      await once(child, "close")
      assert.strictEqual(child.exitCode, 0, said)
      return said
    }
    const [vitest, node] = await Promise.all([
      run("node_modules/vitest/vitest.mjs", "run", "--root", "examples/vitest"),
      run("--conditions=source", "--test", "examples/nodeTest.ts")
    ])
    assert.match(vitest, /Tests\s+3 passed/)
    assert.match(node, /pass 1$/m)
  })

  it("runs the major version that it is asked for, and names where it looked for one that is not there", async () => {
    const here = new Set([17, ...installs.filter(({ embedded }) => !embedded).map(({ major }) => major)])
    for (const major of here) {
      await using other = await startCompute({ postgres: major })
      const [[version = ""] = []] = await ask(other.url, "SHOW server_version_num")
      assert.strictEqual(Math.floor(Number(version) / 10_000), major)
    }
    const failed = await startCompute({ postgres: 13 }).catch(String)
    assert.match(String(failed), /no Postgres 13 here.*\/usr\/pgsql-13/)
  })

  it("rejects a spec that is none with the path of each problem", async () => {
    const failed = await startCompute({ spec: { format_version: 1, cluster: { roles: 7 } } }).catch(String)
    assert.match(String(failed), /cluster\.roles/)
  })
})

describe("branches of a cluster that is filled once", () => {
  it("have its content, its roles and nothing of each other, also in the data directory of one before", async () => {
    const count = (pg: RunningCompute) => ask(pg.urlOf("a shop", "web"), "SELECT count(*) FROM orders")
    const made = await makeAncestor({ spec }, (pg) =>
      ask(pg.urlOf("a shop", "web"), "CREATE TABLE orders AS SELECT generate_series(1, 20000) AS id")
    )
    try {
      // As another process of the run has it.
      const branchOf = structuredClone(made.ancestor)
      const branches = await Promise.all([0, 1].map(() => startCompute({ branchOf })))
      for (const pg of branches) assert.deepStrictEqual(await count(pg), [["20000"]])
      const [one, other] = [branches[0]!, branches[1]!]
      await ask(one.urlOf("a shop", "web"), "UPDATE orders SET id = -id; CREATE TABLE more ()")
      assert.deepStrictEqual(await ask(other.urlOf("a shop", "web"), "SELECT min(id) FROM orders"), [["1"]])
      assert.match(one.log().join("\n"), /0 done, \d+ skipped, 0 failed/, "there is nothing to apply")
      await one.configure({ ...spec, cluster: { ...spec.cluster, roles: [...spec.cluster.roles, { name: "late" }] } })
      assert.deepStrictEqual(await ask(one.urlOf("postgres", "late"), "SELECT current_user"), [["late"]])
      await other.stop()
      await one.reset()
      const sum = await ask(one.urlOf("a shop", "web"), "SELECT sum(id), min(id), to_regclass('more') FROM orders")
      assert.deepStrictEqual(sum, [["200010000", "1", null]])
      await one.stop()
      const refused = await startCompute({ branchOf, directory: "/nowhere" }).catch(String)
      assert.match(String(refused), /give it no directory/)
    } finally {
      await made.remove()
    }
    assert.isFalse(fs.existsSync(made.ancestor.storage))
    const failed = await startCompute({ branchOf: made.ancestor, log: "silent" }).catch(String)
    assert.match(String(failed), /there is no timeline in .* to branch/)
  })
})

const listening = async (port: number) => {
  const server = net.createServer().listen(port, "127.0.0.1")
  await once(server, "listening")
  return server
}

/** Listens, and answers nobody: it is stopped, and its queue of connections is full. */
const silent = Effect.fnUntraced(function* (port: number) {
  const program = `require("node:net").createServer().listen({ port: ${port}, host: "127.0.0.1", backlog: 1 },
    () => console.log("listening"))`
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => spawn(process.execPath, ["-e", program], { stdio: ["ignore", "pipe", "inherit"] })),
    (child) => Effect.sync(() => void child.kill("SIGKILL"))
  )
  yield* Effect.promise(() => once(child.stdout, "data"))
  child.kill("SIGSTOP")
  yield* eventually("its stop", () => /^State:\s+T/m.test(fs.readFileSync(`/proc/${child.pid}/status`, "utf8")))
  // One more than the backlog.
  for (let waiting = 0; waiting < 2; waiting++) {
    const socket = net.connect(port, "127.0.0.1")
    socket.on("error", () => {})
    yield* Effect.promise(() => once(socket, "connect"))
  }
})

describe("the port of a compute", () => {
  it.live(
    "is another one when somebody has the first, also when Postgres is the first to notice; that is no failure",
    () =>
      Effect.gen(function* () {
        const [taken, quiet, free] = yield* Effect.all([freePort, freePort, freePort])
        const server = yield* Effect.promise(() => listening(taken))
        yield* silent(quiet)
        let failures = 0
        const log = { ...logLines("silent"), failed: Effect.sync(() => void (failures += 1)) }
        const ports = [taken, quiet, free]
        const started = yield* startProgram(
          {
            spec: yield* Effect.fromResult(parse(spec)),
            parseSpec: parse,
            postgres: null,
            durability: "process",
            directory: null,
            runAs: yield* resolveRunAs(null),
            branchOf: null,
            log,
            httpPort: 0
          },
          Effect.sync(() => ports.shift() ?? 0)
        )
        server.close()
        assert.strictEqual(started.options.at.port, free)
        assert.isTrue(
          log.lines().some((line) => line.startsWith("PG:") && line.includes(`port`) && line.includes(String(quiet))),
          "Postgres tried the second port"
        )
        assert.strictEqual(failures, 0)
        const pidFile = fs.readFileSync(`${started.options.pgdata}/postmaster.pid`, "utf8").split("\n")
        process.kill(Number(pidFile[0]), "SIGKILL")
        yield* eventually("the log of a compute that failed", () => failures === 1)
        return pidFile[6]?.trim().split(/\s+/) ?? assert.fail("postmaster.pid names no segment")
      }).pipe(
        Effect.scoped,
        Effect.map((segment) => {
          const left = fs.readFileSync("/proc/sysvipc/shm", "utf8")
          assert.notMatch(left, new RegExp(`^\\s*${segment.join("\\s+")}\\s`, "m"), "its shared memory was left")
        })
      )
  )
})

describe("the cache of seed clusters", () => {
  it.live(
    "spares the next compute the initdb and keeps nothing of a test; where others could write to it, it is not used",
    () =>
      Effect.promise(async () => {
        const before = process.env["TMPDIR"]
        const folder = fs.mkdtempSync(path.join(before ?? "/tmp", "compute-cache-test-"))
        fs.chmodSync(folder, 0o1777)
        process.env["TMPDIR"] = folder
        try {
          const cache = path.join(folder, `compute-ctl-cache-${process.geteuid?.()}`)
          fs.mkdirSync(cache)
          fs.chmodSync(cache, 0o777)
          {
            await using open = await startCompute({ log: "silent" })
            assert.isTrue(open.log().some((line) => line.includes("not a folder that only this user can write to")))
          }
          assert.deepStrictEqual(fs.readdirSync(cache), [])
          fs.rmdirSync(cache)
          const made: Array<string> = []
          for (let time = 0; time < 2; time++) {
            // Not as it was laid out: as the seed has it is how the next compute needs it.
            for (const file of fs.globSync(path.join(cache, "seeds-of-*/used/*/pgdata/PG_VERSION")))
              fs.writeFileSync(file, "1")
            await using compute = await startCompute({ log: "silent" })
            await ask(compute.url, "CREATE TABLE letters AS SELECT 'written by a test' AS content")
            const seeds = fs.readdirSync(cache).find((name) => name.startsWith("seeds-of-")) ?? ""
            const templates = path.join(cache, seeds, "templates")
            made.push(...fs.readdirSync(templates).map((name) => String(fs.statSync(path.join(templates, name)).ino)))
            // As of a start that was killed while initdb ran.
            const half = path.join(templates, ".build-0123456789ab")
            if (time === 0) fs.mkdirSync(half)
            if (time === 0) fs.utimesSync(half, 0, 0)
          }
          assert.strictEqual(made.length, 2)
          assert.strictEqual(made[0], made[1], "the second compute made none of its own")
          const [used = ""] = fs.globSync(path.join(cache, "seeds-of-*/used/*"))
          const files = fs.readdirSync(used, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
          assert.isAbove(files.length, 500, "its data directory is kept for the next")
          const written = files.filter((file) =>
            fs.readFileSync(path.join(file.parentPath, file.name)).includes("written by a test")
          )
          assert.deepStrictEqual(written, [], "what a test wrote is not")
          // A seed that decays where it is needed is made anew.
          const [seed = ""] = fs.globSync(path.join(cache, "seeds-of-*/templates/*/pgdata/PG_VERSION"))
          fs.writeFileSync(path.join(used, "pgdata/PG_VERSION"), "1")
          fs.writeFileSync(seed, "1")
          const again = await startCompute({ log: "silent" })
          assert.isTrue(
            again.log().some((line) => line.includes("PG_VERSION")),
            "the damage is told"
          )
          await again.stop()
          assert.notStrictEqual(fs.readFileSync(seed, "utf8"), "1")
          assert.deepStrictEqual(
            fs.readdirSync(folder).filter((name) => name.startsWith("compute-") && !name.includes("cache")),
            []
          )
        } finally {
          if (before === undefined) delete process.env["TMPDIR"]
          else process.env["TMPDIR"] = before
          fs.rmSync(folder, { recursive: true, force: true })
        }
      })
  )
})
