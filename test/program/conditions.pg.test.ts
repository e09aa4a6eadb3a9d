/**
 * What goes wrong around a Postgres that is well: it goes on, the status stays `running`, a condition and a metric say
 * what is wrong while it lasts, the log says it once when it begins and once when it is over.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { programAt } from "../support/programs.ts"
import { freePort } from "../support/postgres.ts"
import { eventually, launch, localArguments, place, type Place, type Program, rows } from "./harness.ts"

const specWith = (more: Readonly<Record<string, unknown>> = {}) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: { roles: [], databases: [], settings: [] },
  ...more
})

interface Shown {
  readonly code: string
  readonly about?: string
  readonly message: string
}

const conditionsOf = (program: Program): Promise<ReadonlyArray<Shown>> =>
  program.http("/conditions").then(({ text }) => JSON.parse(text).degraded)

const raised = (program: Program, code: string, about?: string) =>
  eventually(
    `the condition ${code}`,
    async () => (await conditionsOf(program)).find((one) => one.code === code && one.about === about) ?? null,
    (found) => found !== null
  ).pipe(Effect.map((found) => found?.message ?? ""))

const cleared = (program: Program, code: string) =>
  eventually(
    `no condition ${code}`,
    async () => (await conditionsOf(program)).filter((one) => one.code === code),
    ({ length }) => length === 0
  )

const times = (program: Program, what: RegExp): number => [...program.output().matchAll(new RegExp(what, "g"))].length

const isWell = Effect.fnUntraced(function* (program: Program, at: Place) {
  assert.strictEqual((yield* Effect.promise(() => program.status())).status, "running")
  assert.deepStrictEqual(yield* rows(at, "select 1"), [["1"]])
})

const endsInOrder = Effect.fnUntraced(function* (program: Program) {
  program.signal("SIGTERM")
  assert.deepStrictEqual(yield* Effect.promise(() => program.exit), { code: 0, signal: null })
})

const storageOf = (at: Place): string => path.join(at.directory, "storage", "0".repeat(32), "0".repeat(32))

describe("an auxiliary actor that cannot work", () => {
  const startWithMonitor = Effect.fnUntraced(function* (at: Place, address: string) {
    const args = [...localArguments(at, specWith()), "--cgroup-policy", "run-without", "--vm-monitor-addr", address]
    const program = yield* launch(args, at.httpPort, { AUTOSCALING: "1" })
    yield* Effect.promise(() => program.reaches("running"))
    return program
  })

  it.live("because its address is none shows for as long as it lasts, and Postgres goes on", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* startWithMonitor(at, "nonsense")
        assert.include(yield* raised(program, "actor_failing", "vm-monitor"), "nonsense")
        const metric = /^compute_ctl_actor_restarts_total\{actor="vm-monitor"\} ([6-9]|\d\d)/m
        yield* eventually(
          "more attempts than an essential actor has",
          async () => (await program.http("/metrics")).text,
          (text) => metric.test(text)
        )
        const { text } = yield* Effect.promise(() => program.http("/metrics"))
        assert.match(text, /^compute_ctl_condition\{code="actor_failing",about="vm-monitor"\} 1$/m)
        yield* isWell(program, at)
        assert.strictEqual(times(program, /WARN.*the vm-monitor failed/), 1)
        yield* endsInOrder(program)
      })
    )
  )

  it.live(
    "because its port is taken works as soon as it is free",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const port = yield* freePort
          const taker = net.createServer().listen(port, "127.0.0.1")
          yield* Effect.addFinalizer(() => Effect.sync(() => taker.close()))
          yield* Effect.promise(() => once(taker, "listening"))
          const program = yield* startWithMonitor(at, `127.0.0.1:${port}`)
          assert.include(yield* raised(program, "actor_failing", "vm-monitor"), "EADDRINUSE")
          yield* isWell(program, at)
          taker.close()
          yield* Effect.promise(() => program.prints(/the vm-monitor listens on port/))
          yield* cleared(program, "actor_failing")
          yield* Effect.promise(() => program.prints(/no longer true: the vm-monitor failed/))
          yield* isWell(program, at)
          yield* endsInOrder(program)
        })
      ),
    90_000
  )
})

const prlimit = programAt("prlimit")
if (prlimit !== null) {
  describe("a compute without a file descriptor left", () => {
    it.live(
      "serves on with Postgres, and is well again when there are some",
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const at = yield* place
            const program = yield* launch(localArguments(at, specWith()), at.httpPort)
            yield* Effect.promise(() => program.reaches("running"))
            const allow = (files: string) => execFileSync(prlimit, ["--pid", String(program.pid), `--nofile=${files}:`])
            // No more than it has; connections alone cannot take so many.
            allow(String(fs.readdirSync(`/proc/${program.pid}/fd`).length - 8))
            yield* Effect.promise(() => program.prints(/WARN.*the storage archiver failed .*EMFILE/))
            assert.deepStrictEqual(yield* rows(at, "select 1"), [["1"]])
            allow("1024")
            yield* eventually(
              "no condition",
              () => conditionsOf(program),
              ({ length }) => length === 0
            )
            yield* Effect.promise(() => program.prints(/no longer true: the storage archiver failed/))
            yield* isWell(program, at)
            assert.notMatch(program.output(), /asking Postgres to leave/)
            yield* endsInOrder(program)
          })
        ),
      120_000
    )
  })
}

describe("a storage that takes no new base", () => {
  it.live(
    "is a condition with its reason until it takes one; the last base still starts",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const program = yield* launch(localArguments(at, specWith()), at.httpPort)
          yield* Effect.promise(() => program.reaches("running"))
          const { n } = JSON.parse(fs.readFileSync(path.join(storageOf(at), "current.json"), "utf8"))
          const inTheWay = path.join(storageOf(at), `base-${n + 1}.new`)
          fs.writeFileSync(inTheWay, "")
          // More WAL than a base may have after it.
          yield* rows(at, "create table wide as select repeat(md5(n::text), 30) t from generate_series(1, 120000) n")
          const message = yield* raised(program, "base_publication_failed")
          assert.match(message, /no new base \(.*base-\d+\.new.*; attempt 1, again in 10 s\)/)
          yield* isWell(program, at)
          const { text } = yield* Effect.promise(() => program.http("/metrics"))
          assert.match(text, /^compute_ctl_base_publication_failures_total 1$/m)
          assert.match(text, /^compute_ctl_condition\{code="base_publication_failed"\} 1$/m)
          fs.rmSync(inTheWay)
          yield* cleared(program, "base_publication_failed")
          assert.strictEqual(JSON.parse(fs.readFileSync(path.join(storageOf(at), "current.json"), "utf8")).n, n + 1)
          assert.strictEqual(times(program, /no longer true: no new base/), 1)
          yield* endsInOrder(program)
        })
      ),
    120_000
  )

  it.live(
    "because it cannot read what it has is left to its archiver, and Postgres goes on",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const program = yield* launch(localArguments(at, specWith()), at.httpPort)
          yield* Effect.promise(() => program.reaches("running"))
          const current = path.join(storageOf(at), "current.json")
          fs.renameSync(current, `${current}.kept`)
          // As unreadable to root as to anybody.
          fs.mkdirSync(current)
          assert.include(yield* raised(program, "actor_failing", "storage archiver"), "EISDIR")
          yield* isWell(program, at)
          fs.rmdirSync(current)
          fs.renameSync(`${current}.kept`, current)
          yield* cleared(program, "actor_failing")
          yield* isWell(program, at)
          yield* endsInOrder(program)
        })
      ),
    120_000
  )

  const mount = process.getuid?.() === 0 ? programAt("mount") : null
  if (mount !== null) {
    it.live(
      "because its disk is full for a while does not touch Postgres",
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const at = yield* place
            const storage = path.join(at.directory, "storage")
            const kept = `${storage}.kept`
            if (fs.existsSync(storage)) fs.renameSync(storage, kept)
            fs.mkdirSync(storage)
            execFileSync(mount, ["-t", "tmpfs", "-o", "size=400m,mode=755", "tmpfs", storage])
            yield* Effect.addFinalizer(() => Effect.sync(() => execFileSync("umount", ["-l", storage])))
            if (fs.existsSync(kept)) execFileSync("cp", ["-a", `${kept}/.`, storage])
            execFileSync("chown", ["--reference", at.directory, storage])
            const program = yield* launch(localArguments(at, specWith()), at.httpPort)
            yield* Effect.promise(() => program.reaches("running"))
            const filler = path.join(storage, "filler")
            const fill = () => {
              try {
                for (;;) fs.appendFileSync(filler, Buffer.alloc(1 << 16))
              } catch {
                // Full.
              }
            }
            fill()
            yield* rows(at, "create table small (n int)")
            // What the storage can spare (trash, the spare, its reserve) it may give up: that is filled, too.
            fill()
            yield* rows(at, "insert into small select n from generate_series(1, 1000) n")
            yield* isWell(program, at)
            fs.rmSync(filler)
            yield* rows(at, "insert into small select n from generate_series(1, 1000) n")
            yield* isWell(program, at)
            yield* endsInOrder(program)
          })
        ),
      120_000
    )
  }
})

it.live("a sidecar that a spec asks for and that is not there is a condition until no spec asks for it", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const at = yield* place
      const spec = specWith({ pgbouncer_settings: { default_pool_size: "10" } })
      const program = yield* launch(localArguments(at, spec), at.httpPort)
      yield* Effect.promise(() => program.reaches("running"))
      assert.include(yield* raised(program, "sidecar_unusable", "pgbouncer"), "pgbouncer")
      const { text } = yield* Effect.promise(() => program.http("/metrics"))
      assert.match(text, /^compute_ctl_condition\{code="sidecar_unusable",about="pgbouncer"\} 1$/m)
      const { sidecars } = JSON.parse((yield* Effect.promise(() => program.http("/apply"))).text)
      assert.deepInclude(sidecars[0], { sidecar: "pgbouncer", outcome: "failed" })
      yield* isWell(program, at)
      const healed = yield* Effect.promise(() =>
        program.http("/configure", {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ spec: specWith() })
        })
      )
      assert.strictEqual(healed.status, 200, healed.text)
      yield* cleared(program, "sidecar_unusable")
      assert.strictEqual(times(program, /no longer true: pgbouncer/), 1)
      yield* endsInOrder(program)
    })
  )
)

it.live("a migration that cannot be made is a condition until it can", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const at = yield* place
      const first = yield* launch(localArguments(at, specWith()), at.httpPort)
      yield* Effect.promise(() => first.reaches("running"))
      yield* Effect.promise(() => first.prints(/Finished migration id=12/))
      // As a tenant who owns the database could have made it.
      yield* rows(
        at,
        "create role tenant; alter schema neon_migration owner to tenant; " +
          "alter table neon_migration.migration_id owner to tenant"
      )
      yield* endsInOrder(first)

      const program = yield* launch(localArguments(at, specWith()), at.httpPort)
      yield* Effect.promise(() => program.reaches("running"))
      assert.include(yield* raised(program, "migration_failed", "migrations"), "does not belong to a superuser")
      const { text } = yield* Effect.promise(() => program.http("/metrics"))
      assert.match(text, /^compute_ctl_db_migration_failed_total\{migration_id="0"\} [1-9]/m)
      yield* isWell(program, at)
      yield* rows(
        at,
        "alter schema neon_migration owner to cloud_admin; alter table neon_migration.migration_id owner to cloud_admin"
      )
      yield* cleared(program, "migration_failed")
      assert.strictEqual(times(program, /no longer true: the migrations/), 1)
      yield* endsInOrder(program)
    })
  )
)
