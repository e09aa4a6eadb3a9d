/**
 * PGDATA on a real folder, in virtual time: wiping, retries, files, lines, links, and what is never followed.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import * as fs from "node:fs"
import * as path from "node:path"
import { type Failure, FileFailed, NotSupported, WireFailed } from "../../src/errors/Failure.ts"
import { explain } from "../../src/errors/policy.ts"
import { Pgdata, type PgdataSource } from "../../src/postgres/Pgdata.ts"
import type { StartPlan } from "../../src/postgres/startPlan.ts"
import { claimAndBegin, runAs, temporaryFolder } from "../support/postgres.ts"
import { contentOf, type Entry, gzipped, tarOf } from "../support/tars.ts"

const plan: StartPlan = {
  starting: [{ name: "postgresql.conf", content: "port = 5432\n" }],
  opening: [],
  appended: [{ name: "pg_hba.conf", line: "host\tall\t\tall\t\tall\t\tmd5" }],
  signalFiles: [],
  linkDynshmem: false,
  applyCatalog: true,
  override: null
}
const backup: ReadonlyArray<Entry> = [
  { path: "PG_VERSION", body: "17\n" },
  { path: "pg_hba.conf", body: "local all all trust\n" },
  { path: "pg_dynshmem/", type: "Directory" },
  { path: "global/pg_control", body: "control" }
]
const archiveOf = (
  entries: ReadonlyArray<Entry>,
  broken: ReadonlyArray<Failure> = []
): PgdataSource & { readonly opened: () => number } => {
  let opened = 0
  const bytes = gzipped(tarOf(entries))
  return {
    _tag: "Archive",
    lsn: 0x16b9188n,
    opened: () => opened,
    open: Effect.sync(() => {
      const failure = broken[Math.min(opened, broken.length - 1)]
      const meets = failure !== undefined && (broken.length === 1 || opened < broken.length)
      opened += 1
      const whole = Stream.make(bytes)
      return { bytes: meets ? Stream.concat(whole, Stream.fail(failure)) : whole, connectMicros: 7 }
    })
  }
}
const broke = new WireFailed({
  operation: "copy out",
  peer: "pageserver:64000",
  detail: "a layer file could not be read"
})

const withPgdata = (body: (pgdata: Pgdata["Service"], around: string) => Effect.Effect<void, unknown, Scope.Scope>) =>
  Effect.gen(function* () {
    const around = yield* temporaryFolder
    const layer = Pgdata.layer({ directory: path.join(around, "deep", "pgdata"), runAs })
    yield* Effect.provide(
      Effect.flatMap(Pgdata, (pgdata) => body(pgdata, around)),
      layer
    )
  })

/** Runs an effect whose pauses are virtual and whose files are real. */
const overTime = Effect.fnUntraced(function* <A, E>(effect: Effect.Effect<A, E>) {
  const fiber = yield* Effect.forkChild(effect)
  while (fiber.pollUnsafe() === undefined) {
    yield* TestClock.adjust("1 minute")
    yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
  }
  return yield* Fiber.join(fiber)
})

describe("PGDATA", () => {
  it.effect("begin: a closed folder of the run-as user, with parents, and only the starting files in it", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        const stat = fs.statSync(pgdata.directory)
        assert.strictEqual(stat.mode & 0o7777, 0o700)
        if (runAs !== null) assert.deepStrictEqual([stat.uid, stat.gid], [runAs.uid, runAs.gid])
        assert.deepStrictEqual(contentOf(pgdata.directory), { "postgresql.conf": "port = 5432\n" })
        const conf = fs.statSync(path.join(pgdata.directory, "postgresql.conf"))
        assert.strictEqual(conf.mode & 0o7777, 0o600)
        if (runAs !== null) assert.deepStrictEqual([conf.uid, conf.gid], [runAs.uid, runAs.gid])
      })
    )
  )

  it.effect("begin again: emptied, and the same inode; links are cut, not followed", () =>
    withPgdata((pgdata, around) =>
      Effect.gen(function* () {
        const durable = path.join(around, "wal")
        fs.mkdirSync(durable)
        fs.writeFileSync(path.join(durable, "000000010000000000000001"), "durable")
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        const before = fs.statSync(pgdata.directory).ino
        fs.symlinkSync(durable, path.join(pgdata.directory, "pg_wal"))
        fs.mkdirSync(path.join(pgdata.directory, "pg_tblspc"))
        fs.symlinkSync(durable, path.join(pgdata.directory, "pg_tblspc", "16384"))
        fs.writeFileSync(path.join(pgdata.directory, "left.over"), "x")
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        assert.strictEqual(fs.statSync(pgdata.directory).ino, before)
        assert.deepStrictEqual(Object.keys(contentOf(pgdata.directory)), ["postgresql.conf"])
        assert.deepStrictEqual(contentOf(durable), { "000000010000000000000001": "durable" })
      })
    )
  )

  it.effect("begin for a storage that restores in place leaves the content alone", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        fs.mkdirSync(pgdata.directory, { recursive: true, mode: 0o755 })
        fs.writeFileSync(path.join(pgdata.directory, "mine"), "x")
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "InPlace"))
        assert.deepStrictEqual(contentOf(pgdata.directory), { mine: "x" })
        assert.strictEqual(fs.statSync(pgdata.directory).mode & 0o7777, 0o700)
      })
    )
  )

  it.effect("build: the archive, then our files, lines, links and signal files", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        const full = { ...plan, linkDynshmem: true, signalFiles: ["standby.signal"] }
        yield* Effect.scoped(claimAndBegin(pgdata, full, "Archive"))
        const source = archiveOf([...backup, { path: "zenith.signal", body: "PREV LSN: none" }])
        const built = yield* pgdata.build(full, source)
        assert.deepStrictEqual(built.connectMicros, 7)
        assert.isAbove(built.archiveBytes, 100)
        assert.deepStrictEqual(contentOf(pgdata.directory), {
          PG_VERSION: "17\n",
          global: null,
          "global/pg_control": "control",
          "neon.signal": "PREV LSN: none",
          pg_dynshmem: "-> /dev/shm/",
          "pg_hba.conf": "local all all trust\n\nhost\tall\t\tall\t\tall\t\tmd5",
          "postgresql.conf": "port = 5432\n",
          "standby.signal": "",
          "zenith.signal": "PREV LSN: none"
        })
      })
    )
  )

  it.effect(
    "tells what the basebackup's pg_hba.conf lets in without a password, and nothing where it lets nobody in",
    () =>
      withPgdata((pgdata) =>
        Effect.gen(function* () {
          const lines: Array<string> = []
          const logger = Logger.make(({ message }) => void lines.push(String(message)))
          const build = (body: string) =>
            Effect.scoped(
              Effect.andThen(
                claimAndBegin(pgdata, plan, "Archive"),
                pgdata.build(plan, archiveOf([{ path: "pg_hba.conf", body }]))
              )
            ).pipe(Effect.provide(Logger.layer([logger])))
          yield* build("host all all all scram-sha-256\n")
          assert.notInclude(lines.join(), "without a password")
          yield* build("local all all  trust\nhost all all 127.0.0.1/32 trust\n")
          assert.include(
            lines.join(),
            "lets these log in without a password: local all all trust; host all all 127.0.0.1/32 trust."
          )
        })
      )
  )

  it.effect("a line that is there is not appended again, and an empty file gets no empty line", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        const line = plan.appended[0]?.line ?? ""
        for (const [before, after] of [
          [`a\n${line}\nb`, `a\n${line}\nb`],
          ["", line],
          [` ${line}`, ` ${line}\n${line}`]
        ] as const) {
          yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
          yield* pgdata.build(plan, archiveOf([{ path: "pg_hba.conf", body: before }]))
          assert.strictEqual(contentOf(pgdata.directory)["pg_hba.conf"], after)
        }
      })
    )
  )

  it.effect("an existing neon.signal is not replaced by the older zenith.signal", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        yield* pgdata.build(
          plan,
          archiveOf([
            { path: "neon.signal", body: "new" },
            { path: "zenith.signal", body: "old" }
          ])
        )
        assert.strictEqual(contentOf(pgdata.directory)["neon.signal"], "new")
      })
    )
  )

  it.effect("each attempt begins with an empty folder", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        fs.writeFileSync(path.join(pgdata.directory, "dirt"), "x")
        const attempts: Array<ReadonlyArray<string>> = []
        const good = archiveOf(backup)
        const source: PgdataSource = {
          _tag: "Archive",
          lsn: 0n,
          open: Effect.suspend(() => {
            attempts.push(fs.readdirSync(pgdata.directory))
            return good._tag === "Archive" && attempts.length === 3
              ? good.open
              : Effect.succeed({
                  bytes: Stream.make(gzipped(tarOf([{ path: `dirt${attempts.length}`, body: "x" }])).subarray(0, 60)),
                  connectMicros: 1
                })
          })
        }
        yield* overTime(pgdata.build(plan, source))
        assert.deepStrictEqual(attempts, [[], [], []])
        assert.notProperty(contentOf(pgdata.directory), "dirt1")
        assert.property(contentOf(pgdata.directory), "PG_VERSION")
      })
    )
  )

  it.effect("gives up after eleven attempts and 57 seconds of pauses, and says why", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        const source = archiveOf(backup, [broke])
        const lines: Array<string> = []
        const logger = Logger.make(({ message }) => void lines.push(String(message)))
        const failure = yield* Effect.flip(overTime(Effect.provide(pgdata.build(plan, source), Logger.layer([logger]))))
        const pauses = lines.flatMap((line) => {
          const [, attempt, millis] =
            /^attempt (\d+) to get the basebackup failed, the next in (\d+) ms: /.exec(line) ?? []
          return attempt === undefined ? [] : [[Number(attempt), Number(millis)] as const]
        })
        assert.deepStrictEqual(
          pauses.map(([attempt]) => attempt),
          [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
        )
        assert.strictEqual(pauses[0]?.[1], 500)
        assert.strictEqual(Math.round(pauses.reduce((sum, [, millis]) => sum + millis, 0) / 1000), 57)
        assert.strictEqual(failure._tag, "BasebackupFailed")
        assert.strictEqual(source.opened(), 11)
        assert.strictEqual(
          explain(failure),
          "failed to get basebackup@0/16B9188 (11 attempts): copy out pageserver:64000: a layer file could not be read"
        )
      })
    )
  )

  it.effect("recovers when a later attempt succeeds", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        const source = archiveOf(backup, [broke, broke, broke])
        yield* overTime(pgdata.build(plan, source))
        assert.strictEqual(source.opened(), 4)
      })
    )
  )

  it.effect("an archive that leads out of PGDATA is asked for once", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        const source = archiveOf([{ path: "../evil", body: "x" }])
        const failure = yield* Effect.flip(pgdata.build(plan, source))
        assert.strictEqual(source.opened(), 1)
        assert.match(
          explain(failure),
          /basebackup@0\/16B9188 \(1 attempts\): the basebackup archive is trying to leave PGDATA/
        )
      })
    )
  )

  it.effect("what is not the sender's fault fails at once, as it is", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        for (const wrong of [
          new NotSupported({ what: "grpc", because: "no" }),
          new FileFailed({ operation: "write", path: "x" })
        ]) {
          const source: PgdataSource = { _tag: "Archive", lsn: 0n, open: Effect.fail(wrong) }
          assert.strictEqual(yield* Effect.flip(pgdata.build(plan, source)), wrong)
        }
      })
    )
  )

  it.effect("in place: the storage restores the files, the rest is the same", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "InPlace"))
        const restore = (at: string) => Effect.sync(() => fs.writeFileSync(path.join(at, "PG_VERSION"), "17\n"))
        const built = yield* pgdata.build({ ...plan, appended: [] }, { _tag: "InPlace", restore })
        assert.deepStrictEqual(built, { archiveBytes: 0, connectMicros: 0 })
        assert.deepStrictEqual(contentOf(pgdata.directory), { PG_VERSION: "17\n", "postgresql.conf": "port = 5432\n" })
      })
    )
  )

  it.effect("rewrite answers whether anything is new, and keeps owner and mode", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        const file = path.join(pgdata.directory, "postgresql.conf")
        const before = fs.statSync(file).ino
        assert.deepStrictEqual(yield* pgdata.rewrite(plan.starting), [])
        assert.strictEqual(fs.statSync(file).ino, before, "an equal file is not touched")
        const changed = yield* pgdata.rewrite([
          { name: "postgresql.conf", content: "port = 1\n" },
          ...plan.starting.slice(1)
        ])
        assert.deepStrictEqual(
          changed,
          plan.starting.filter(({ name }) => name === "postgresql.conf"),
          "what it held before"
        )
        assert.lengthOf(yield* pgdata.rewrite([{ name: "compute_ctl_temp_override.conf", content: "" }]), 1)
        assert.deepStrictEqual(contentOf(pgdata.directory), {
          "compute_ctl_temp_override.conf": "",
          "postgresql.conf": "port = 1\n"
        })
        assert.strictEqual(fs.statSync(file).mode & 0o7777, 0o600)
        if (runAs !== null) assert.strictEqual(fs.statSync(file).uid, runAs.uid)
      })
    )
  )

  it.effect("rewrite replaces a link by a file, and leaves alone what it led to", () =>
    withPgdata((pgdata, around) =>
      Effect.gen(function* () {
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        fs.writeFileSync(path.join(around, "elsewhere"), "port = 9\n")
        fs.rmSync(path.join(pgdata.directory, "postgresql.conf"))
        fs.symlinkSync(path.join(around, "elsewhere"), path.join(pgdata.directory, "postgresql.conf"))
        assert.deepStrictEqual(yield* pgdata.rewrite([{ name: "postgresql.conf", content: "port = 9\n" }]), [
          { name: "postgresql.conf", content: "" }
        ])
        assert.isTrue(fs.lstatSync(path.join(pgdata.directory, "postgresql.conf")).isFile())
        assert.strictEqual(fs.readFileSync(path.join(around, "elsewhere"), "utf8"), "port = 9\n")
      })
    )
  )

  it.effect("a file that cannot be replaced stays as it was, without leftovers, and is named", () =>
    withPgdata((pgdata) =>
      Effect.gen(function* () {
        yield* Effect.scoped(claimAndBegin(pgdata, plan, "Archive"))
        fs.mkdirSync(path.join(pgdata.directory, "taken"))
        fs.writeFileSync(path.join(pgdata.directory, "taken", "x"), "")
        const failure = yield* Effect.flip(pgdata.rewrite([{ name: "taken", content: "new" }]))
        assert.match(explain(failure), /cannot write .*\/taken: E/)
        assert.deepStrictEqual(fs.readdirSync(pgdata.directory).sort(), ["postgresql.conf", "taken"])
      })
    )
  )
})
