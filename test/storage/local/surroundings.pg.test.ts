/**
 * Local storage where the program runs as users run it, and the machine is not the one it was made on: what helps it
 * to a lock, who it runs as, who owns PGDATA, what is left of its settings, and a standby that is not there.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import {
  killAll,
  launch,
  localArguments,
  type Place,
  place,
  type Program,
  rows,
  session
} from "../../program/harness.ts"
import { parsePidFile, readPidFile } from "../../../src/postgres/pidFile.ts"
import { least } from "../../support/fixtures.ts"
import { eventually } from "../../support/waiting.ts"
import { startShipped } from "../../support/shipped.ts"
import { killCompute, locksHeldBy, postgresOf, start, where } from "./containers.ts"

/** Only root can mount, give files away and become somebody else. */
const whereRoot = (what: string, tests: () => void): void => {
  if (process.getuid?.() === 0) describe(what, tests)
}

const running = (program: Program) => Effect.promise(() => program.reaches("running"))

const stopped = Effect.fnUntraced(function* (program: Program) {
  program.signal("SIGTERM")
  assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
})

const lockIn = (at: Place): string => fs.globSync(`${at.directory}/storage/*/*/lock/flock`)[0] ?? assert.fail("a lock")

/** Where a program is, behind all that only stands for it; `null`: nowhere. */
const whereIs = (name: string): string | null => {
  const asked = spawnSync(
    name === "python3" ? "python3" : "sh",
    name === "python3" ? ["-c", "import sys; print(sys.executable)"] : ["-c", `command -v ${name}`],
    { encoding: "utf8" }
  )
  return asked.status === 0 ? asked.stdout.trim() : null
}

describe("a lock that is taken with the help of", () => {
  for (const [helpers, probe] of [
    ["flock", "command -v flock"],
    ["busybox", "busybox --list | grep -qx flock"],
    // Debian's.
    ["busybox perl", "busybox --list > /dev/null && ! busybox --list | grep -qx flock && perl -MFcntl -e 1"],
    ["perl", "perl -MFcntl -e 1"],
    ["python3", "python3 -c 'import fcntl'"]
  ] as const) {
    it.live(`${helpers} alone lasts as long as Postgres does, and somebody else's is respected`, () =>
      where(
        ["sh", "-c", `${probe} || { echo "${probe} fails" >&2; exit 1; }`],
        Effect.scoped(
          Effect.gen(function* () {
            const at = yield* place
            const bin = `${at.directory}/bin`
            fs.mkdirSync(bin)
            for (const helper of helpers.split(" ")) {
              fs.writeFileSync(`${bin}/${helper}`, `#!/bin/sh\nexec ${whereIs(helper)} "$@"\n`, { mode: 0o755 })
            }
            const args = localArguments(at, least)
            const first = yield* launch(args, at.httpPort, { PATH: bin })
            yield* running(first)
            const postmaster = parsePidFile(readPidFile(`${at.directory}/pgdata`))?.pid ?? assert.fail("a postmaster")
            // PGDATA's and the timeline's.
            assert.strictEqual(locksHeldBy(postmaster), 2)
            yield* stopped(first)

            // A storage from a copy: the claims of its computes are not in it, so a holder is nobody's leftover.
            const lock = lockIn(at)
            for (const name of fs.readdirSync(path.dirname(lock))) {
              if (name !== "flock") fs.rmSync(`${path.dirname(lock)}/${name}`)
            }
            const holder = yield* start(args, at, ["flock", lock, "sh", "-c", "sleep 1000"])
            yield* eventually("somebody's lock", () => locksHeldBy(holder.pid) === 1)
            const refused = yield* launch(args, at.httpPort, { PATH: bin })
            const { error } = yield* Effect.promise(() => refused.reaches("failed"))
            assert.include(error ?? "", `which holds the lock ${lock}`)
          })
        )
      )
    )
  }
})

/** As containers may run it: a user without a name, and no environment but a path. */
const nameless = 12_345
const asNameless = `setpriv --reuid=${nameless} --regid=${nameless} --clear-groups -- env -i`
  .split(" ")
  .concat(`PATH=${process.env["PATH"]}`)

/** Whether the loader finds it: it says so on standard error where it does not. */
const hasNssWrapper =
  spawnSync("/bin/sh", ["-c", ":"], { encoding: "utf8", env: { LD_PRELOAD: "libnss_wrapper.so" } }).stderr === ""

const withoutRunAs = (args: ReadonlyArray<string>): ReadonlyArray<string> =>
  args.filter((arg, index) => arg !== "--run-as" && args[index - 1] !== "--run-as")

whereRoot("a user without a name and without HOME", () => {
  it.live("starts what another has made, once it is his; makes his own by nss_wrapper, or is told another way", () =>
    where(
      [...asNameless, process.execPath, "--eval", "0", "--"],
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const args = localArguments(at, least)
          const first = yield* launch(args, at.httpPort)
          yield* running(first)
          yield* rows(at, "create table kept as select 1 n")
          yield* stopped(first)
          const own = (who: string, folder: string) => execFileSync("chown", ["-R", who, folder])
          own(`${nameless}:${nameless}`, at.directory)
          const storage = `${at.directory}/storage`
          // As root has restored it.
          own("0:0", storage)
          const refused = yield* start(withoutRunAs(args), at, asNameless)
          const { error: refusal } = yield* Effect.promise(() => refused.reaches("failed"))
          assert.include(refusal ?? "", `${storage}: it belongs to the user with id 0`)
          assert.include(refused.output(), `hint: give it to that user: chown -R ${nameless} ${storage}`)
          refused.signal("SIGTERM")
          yield* Effect.promise(() => refused.exit)
          own(`${nameless}:${nameless}`, at.directory)
          const second = yield* start(withoutRunAs(args), at, asNameless)
          yield* running(second)
          assert.deepStrictEqual(yield* rows(at, "select n from kept"), [["1"]])
          second.signal("SIGTERM")
          yield* Effect.promise(() => second.exit)

          fs.rmSync(`${at.directory}/storage`, { recursive: true })
          const doctor = [...asNameless, ...startShipped, "doctor", "--storage", `local:${at.directory}/storage`]
          const { stdout } = spawnSync(doctor[0] ?? "", doctor.slice(1), { encoding: "utf8" })
          const state = hasNssWrapper ? "ok {7}" : "warning {2}"
          assert.match(stdout, new RegExp(`^${state}user: .*\\(${nameless}\\), which has no name`, "m"))
          const third = yield* start(withoutRunAs(args), at, asNameless)
          if (hasNssWrapper) {
            yield* running(third)
            assert.deepStrictEqual(yield* rows(at, "select 1"), [["1"]])
            third.signal("SIGTERM")
            yield* Effect.promise(() => third.exit)
            const [seed = ""] = fs.globSync(`${at.directory}/storage/templates/*`)
            assert.notInclude(fs.readdirSync(seed), "passwd")
            return
          }
          const { error } = yield* Effect.promise(() => third.reaches("failed"))
          assert.include(error ?? "", `user id ${nameless} has no name`)
          assert.match(third.output(), /hint: install libnss-wrapper.*\/etc\/passwd/)
        })
      )
    )
  )
})

whereRoot("PGDATA that belongs to root and is open to all", () => {
  const emptyDir = Effect.fnUntraced(function* (at: Place) {
    const pgdata = `${at.directory}/pgdata`
    fs.mkdirSync(pgdata)
    yield* Effect.acquireRelease(
      Effect.sync(() => execFileSync("mount", ["-t", "tmpfs", "-o", "mode=0777", "tmpfs", pgdata])),
      () => Effect.sync(() => execFileSync("umount", ["-l", pgdata]))
    )
  })

  it.live("is made Postgres's own by root, and keeps what is committed", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        yield* emptyDir(at)
        const args = localArguments(at, least)
        const first = yield* start(args, at)
        yield* running(first)
        yield* rows(at, "create table kept as select 1 n")
        yield* killCompute(first)
        const second = yield* start(args, at)
        yield* running(second)
        assert.deepStrictEqual(yield* rows(at, "select n from kept"), [["1"]])
      })
    )
  )

  it.live("is refused to everybody else, with the folder to give instead, which works", () =>
    where(
      [...asNameless, process.execPath, "--eval", "0", "--"],
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const seed = yield* launch(localArguments(at, least), at.httpPort)
          yield* running(seed)
          yield* stopped(seed)
          fs.rmSync(`${at.directory}/pgdata`, { recursive: true })
          execFileSync("chown", ["-R", `${nameless}:${nameless}`, at.directory])
          yield* emptyDir(at)
          const args = withoutRunAs(localArguments(at, least))
          const refused = yield* start(args, at, asNameless)
          yield* Effect.promise(() => refused.reaches("failed"))
          const hint = `give a folder below it, such as -D ${at.directory}/pgdata/pgdata`
          assert.include(refused.output(), `it belongs to the user with id 0, and we are ${nameless}: ${hint}`)
          refused.signal("SIGTERM")
          yield* Effect.promise(() => refused.exit)
          const below = args.map((arg) => (arg === `${at.directory}/pgdata` ? `${arg}/pgdata` : arg))
          const next = yield* start(below, at, asNameless)
          yield* running(next)
          yield* stopped(next)
        })
      )
    )
  )
})

describe("what is left of a killed compute's PGDATA", () => {
  const ours =
    "postgresql.conf postgresql.auto.conf pg_hba.conf pg_ident.conf PG_VERSION backup_label postmaster.pid " +
    "postmaster.opts recovery.signal standby.signal global/pg_control"
  const damages: Record<string, (file: string) => void> = {
    garbage: (file) => fs.writeFileSync(file, "\u0001{garbage\n"),
    "a folder": (file) => fs.mkdirSync(file),
    "a link to nothing": (file) => fs.symlinkSync("/nonexistent/file", file),
    missing: () => undefined
  }
  it.live("may be damaged in any way: every file of it is made anew", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const args = localArguments(at, least)
        let program = yield* start(args, at)
        yield* running(program)
        yield* rows(at, "create table kept (kind text)")
        for (const [kind, damage] of Object.entries(damages)) {
          yield* rows(at, `insert into kept values ('${kind}')`)
          killAll([program.pid, ...postgresOf(at)], "SIGKILL")
          yield* eventually("all are dead", () => postgresOf(at).length === 0)
          for (const name of ours.split(" ")) {
            fs.rmSync(`${at.directory}/pgdata/${name}`, { force: true, recursive: true })
            damage(`${at.directory}/pgdata/${name}`)
          }
          program = yield* start(args, at)
          yield* running(program)
        }
        const kinds = (yield* rows(at, "select kind from kept")).map(([kind]) => kind)
        assert.deepStrictEqual(kinds, Object.keys(damages))
      })
    )
  )
})

describe("a synchronous standby that is not there", () => {
  it.live("does not hold up the start, and is warned of: it is users' commits that wait", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const cluster = {
          roles: [{ name: "web" }],
          databases: [{ name: "shop", owner: "web" }],
          settings: [{ name: "synchronous_standby_names", value: "elsewhere", vartype: "string" }]
        }
        const program = yield* start(localArguments(at, { ...least, cluster }), at)
        yield* running(program)
        assert.match(program.output(), /WARN.*synchronous_standby_names.*commits of users wait for ever/)
        assert.deepStrictEqual(yield* rows(at, "show synchronous_standby_names"), [["elsewhere"]])
        assert.deepStrictEqual(yield* rows(at, "select 1 from pg_database where datname = 'shop'"), [["1"]])
        yield* Effect.scoped(
          Effect.flatMap(session(at), (wire) =>
            wire.simple("set synchronous_commit = local; create table kept as select 1 n")
          )
        )
        yield* stopped(program)
        const again = yield* start(localArguments(at, { ...least, cluster }), at)
        yield* running(again)
        assert.deepStrictEqual(yield* rows(at, "select n from kept"), [["1"]])
      })
    )
  )
})
