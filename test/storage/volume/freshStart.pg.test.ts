/**
 * Each start on a volume keeps the data files as they are, and makes everything else anew.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import type { Failure } from "../../../src/errors/Failure.ts"
import { runAs } from "../../support/postgres.ts"
import { eventually } from "../../support/waiting.ts"
import { archiving, type Started } from "../local/computes.ts"
import { crashAt } from "../crashAt.ts"
import { makeVolume, put, start, type Volume } from "./volumes.ts"

const one = (started: Started, sql: string) => Effect.map(started.rows(sql), (rows) => rows[0]?.[0] ?? null)

/** Files of a table, with what tells whether they are the same files still. */
const filesOf = Effect.fnUntraced(function* (volume: Volume, started: Started, table: string) {
  const file = `${volume.pgdata}/${yield* one(started, `select pg_relation_filepath('${table}')`)}`
  const { dev, ino } = fs.statSync(file)
  return { file, dev, ino }
})

/** Not data, at the top of PGDATA. */
const transient = [
  "postgresql.conf",
  "pg_hba.conf",
  "pg_ident.conf",
  "postgresql.auto.conf",
  "more.conf",
  "pg_hba.conf.new",
  "standby.signal",
  "recovery.signal",
  "promote",
  "recovery.done",
  "backup_label.old",
  "tablespace_map.old",
  "backup_manifest",
  "postmaster.opts",
  "current_logfiles",
  "server.crt",
  "server.key",
  "core",
  "core.4711",
  ".s.PGSQL.5432.lock"
]
/** What Postgres throws away when it starts. */
const temporary = ["base/pgsql_tmp/pgsql_tmp4711.0", "base/5/t3_99999"]
/** Nobody knows what it is, so it may be somebody's only copy. */
const unknown = ["keys.bin", "pg_of_an_extension/keys", "conf.d/more.conf"]

describe("a start after kill -9 of everything", () => {
  it.live("has every row in the same files, and no file of the start before that is not data", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        const first = yield* start(volume)
        yield* first.rows("create table kept (n int)")
        yield* first.rows("insert into kept select generate_series(1, 1000)")
        yield* first.rows("alter system set work_mem = '77MB'")
        yield* first.rows("checkpoint")
        yield* first.rows("insert into kept values (1001)")
        const files = yield* filesOf(volume, first, "kept")
        yield* first.crash()
        for (const name of [...transient, ...temporary, ...unknown]) put(volume, name, `left behind: ${name}`)
        put(volume, "postgresql.auto.conf", "work_mem = '77MB'\n")
        const socket = net.createServer().listen(`${volume.pgdata}/.s.PGSQL.5432`)

        yield* Effect.flatMap(crashAt("volume-cleaned", start(volume)), ({ interrupt }) => interrupt)
        const names = fs.readdirSync(volume.pgdata)
        assert.deepStrictEqual(
          names.filter((name) => transient.includes(name) || /^postmaster|^\.s\./.test(name)),
          []
        )
        const second = yield* start(volume)
        assert.strictEqual(yield* one(second, "select count(*) from kept"), "1001")
        assert.deepStrictEqual(yield* filesOf(volume, second, "kept"), files)
        assert.strictEqual(yield* one(second, "show work_mem"), "4MB")
        assert.strictEqual(yield* one(second, "select pg_is_in_recovery()"), "f")
        assert.strictEqual(yield* one(second, "select timeline_id from pg_control_checkpoint()"), "1")
        for (const name of temporary) assert.isFalse(fs.existsSync(`${volume.pgdata}/${name}`), name)
        for (const name of unknown) {
          assert.strictEqual(fs.readFileSync(`${volume.pgdata}/${name}`, "utf8"), `left behind: ${name}`)
        }
        socket.close()
        yield* second.crash()
      })
    )
  )

  it.live("leaves a link that stands in the place of a file alone where it leads", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        const first = yield* start(volume)
        yield* first.crash()
        const target = `${volume.folder}/somebody's`
        fs.writeFileSync(target, "precious")
        for (const name of ["pg_hba.conf", "postgresql.auto.conf"]) {
          fs.rmSync(`${volume.pgdata}/${name}`, { force: true })
          fs.symlinkSync(target, `${volume.pgdata}/${name}`)
        }
        const second = yield* start(volume)
        assert.isTrue(fs.lstatSync(`${volume.pgdata}/pg_hba.conf`).isFile())
        assert.strictEqual(fs.readFileSync(target, "utf8"), "precious")
        yield* second.crash()
      })
    )
  )
})

/** Only root can mount. */
const whereRoot = (what: string, tests: () => void): void => {
  if (process.getuid?.() === 0) describe(what, tests)
}

whereRoot("a volume without an inode left", () => {
  it.live("is started by means of the reserve, which is made again when there are some", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume({ lookEvery: Duration.millis(20) })
        fs.mkdirSync(volume.pgdata)
        const mount = `size=300m,nr_inodes=3000,mode=700,uid=${runAs?.uid ?? 0},gid=${runAs?.gid ?? 0}`
        yield* Effect.acquireRelease(
          Effect.sync(() => execFileSync("mount", ["-t", "tmpfs", "-o", mount, "tmpfs", volume.pgdata])),
          () => Effect.sync(() => execFileSync("umount", ["-l", volume.pgdata]))
        )
        const first = yield* start(volume)
        yield* first.rows("create table kept as select generate_series(1, 100) n")
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* archiving(first)
            yield* eventually("a reserve", () => fs.existsSync(`${volume.ours}/reserve`))
          })
        )
        yield* first.crash()
        const full = `${volume.pgdata}/full`
        fs.mkdirSync(full)
        assert.throws(() => {
          for (let n = 0; ; n++) fs.writeFileSync(`${full}/${n}`, "")
        }, "ENOSPC")
        const second = yield* start(volume)
        assert.isFalse(fs.existsSync(`${volume.ours}/reserve`))
        assert.deepStrictEqual(yield* second.rows("select count(*) from kept"), [["100"]])
        fs.rmSync(full, { recursive: true })
        yield* archiving(second)
        yield* eventually("a reserve again", () => fs.existsSync(`${volume.ours}/reserve`))
        yield* second.crash()
      })
    )
  )
})

describe("a start after a stop in order", () => {
  it.live("finds what only Postgres's own files keep: slots, unlogged tables", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        const first = yield* start(volume)
        yield* first.rows("create unlogged table quick (n int)")
        yield* first.rows("insert into quick values (1)")
        yield* first.rows("select pg_create_physical_replication_slot('reader')")
        yield* first.stop
        assert.isFalse(fs.existsSync(`${volume.ours}/postmaster`))
        const second = yield* start(volume)
        assert.deepStrictEqual(yield* second.rows("select n from quick"), [["1"]])
        assert.deepStrictEqual(yield* second.rows("select slot_name from pg_replication_slots"), [["reader"]])
        yield* second.crash()
      })
    )
  )
})

describe("the settings that durability rests on", () => {
  it.live.each(["fsync", "full_page_writes"])("%s that is off is refused before anybody is served", (name) =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        const failure = (yield* Effect.flip(start(volume, { settings: `${name} = off` }))) as Failure
        assert.strictEqual(failure._tag, "NotSupported")
        assert.include(failure.message, `${name} other than on with --storage volume`)
      })
    )
  )

  it.live("are taken back when ALTER SYSTEM changes them", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume({ lookEvery: Duration.millis(20) })
        const started = yield* start(volume)
        yield* archiving(started)
        yield* started.rows("alter system set fsync = off")
        yield* started.rows("select pg_reload_conf()")
        yield* started.rows("create table written_meanwhile ()")
        yield* eventually("fsync is on again", () => Effect.map(one(started, "show fsync"), (value) => value === "on"))
        yield* started.crash()
      })
    )
  )
})
