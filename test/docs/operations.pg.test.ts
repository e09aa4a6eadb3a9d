/**
 * docs/operations.md as an operator follows it: the blocks of commands on the page, executed as they stand, against
 * real computes.
 */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { userInfo } from "node:os"
import * as path from "node:path"
import { type Place, localArguments, place, launch, rows } from "../program/harness.ts"
import { freePort, installs, runAs } from "../support/postgres.ts"
import { startShipped } from "../support/shipped.ts"

const page = fs.readFileSync(path.resolve(import.meta.dirname, "../../docs/operations.md"), "utf8")

const block = (name: string): string =>
  page.split(`<!-- run: ${name} -->\n\`\`\`sh\n`)[1]?.split("\n```")[0] ?? assert.fail(`no block ${name}`)

const spec = {
  format_version: 1,
  cluster: { roles: [{ name: "app" }], databases: [{ name: "shop", owner: "app" }], settings: [] }
}

/** A Postgres that the client programs of this machine can read, if it has both. */
const clientMajor = Number(
  /\) (\d+)/.exec(spawnSync("pg_basebackup", ["--version"], { encoding: "utf8" }).stdout ?? "")?.[1]
)
const older = installs.find(({ embedded, major }) => !embedded && major <= clientMajor)
const newer = installs.find(({ major }) => major === 17 && major > (older?.major ?? 99))

const elsewhere = Effect.gen(function* () {
  return { ...(yield* place), port: yield* freePort, httpPort: yield* freePort }
})

const connect = (at: Place, pgdata: string) => `host=${pgdata} port=${at.port} user=cloud_admin`
const pgdataOf = (at: Place) => path.join(at.directory, "pgdata")
const storageOf = (at: Place) => path.join(at.directory, "storage")

const start = Effect.fnUntraced(function* (at: Place, args: ReadonlyArray<string>) {
  const program = yield* launch(args, at.httpPort)
  yield* Effect.promise(() => program.reaches("running"))
  const stop = Effect.promise(async () => {
    program.signal("SIGTERM")
    assert.deepStrictEqual(await program.exit, { code: 0, signal: null })
  })
  return { program, stop }
})

const onVolume = (args: ReadonlyArray<string>) => args.map((arg) => (arg.startsWith("local:") ? "volume" : arg))

/** `compute_ctl` in the blocks is the program of these tests. */
const shellIn = (folder: string) => {
  const bin = path.join(folder, "bin")
  fs.mkdirSync(bin)
  const quoted = startShipped.map((word) => `'${word}'`).join(" ")
  fs.writeFileSync(path.join(bin, "compute_ctl"), `#!/bin/sh\nexec ${quoted} "$@"\n`, { mode: 0o755 })
  return (name: string, env: Readonly<Record<string, string>>) =>
    execFileSync("sh", ["-euc", block(name)], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, PATH: `${bin}:${process.env["PATH"]}`, ...env }
    })
}

it("every block of commands has a name by which the tests execute it, but for what only looks", () => {
  const blocks = page.match(/```sh\n/g)?.length ?? 0
  const named = page.match(/<!-- run: .* -->\n```sh\n/g)?.length ?? 0
  assert.strictEqual(blocks - named, 1)
})

it.live(
  "a backup of a volume starts beside the original, and a dump becomes another major version that can be moved",
  () =>
    Effect.scoped(
      Effect.gen(function* () {
        if (older === undefined || newer === undefined) {
          process.stdout.write("not tested on this machine: no pg_basebackup with a Postgres that it can read\n")
          return
        }
        const at = yield* place
        const shell = shellIn(at.directory)
        const env = {
          BACKUP: path.join(at.directory, "backup"),
          COMPUTE: connect(at, pgdataOf(at)),
          OWNER: runAs?.name ?? userInfo().username
        }
        const old = ["-b", older.postgres]
        const first = yield* start(at, onVolume(localArguments(at, spec, old)))
        yield* rows(at, "create role hand_made")
        yield* rows(at, "create table kept as select generate_series(1, 1000) n", "shop")
        shell("dump", env)
        shell("volume backup", env)
        assert.match(shell("end a session", env), /^$/)

        // The copy runs while the original does.
        const copy = yield* elsewhere
        shell("restore a volume", { ...env, VOLUME: pgdataOf(copy) })
        const more = [...old, "--require-existing"]
        const second = yield* start(copy, onVolume(localArguments(copy, spec, more)))
        assert.deepStrictEqual(yield* rows(copy, "select count(*) from kept", "shop"), [["1000"]])
        yield* second.stop
        yield* first.stop

        const upgraded = yield* elsewhere
        const target = yield* start(upgraded, localArguments(upgraded, spec, ["-b", newer.postgres]))
        shell("restore a dump", { ...env, COMPUTE: connect(upgraded, pgdataOf(upgraded)) })
        assert.deepStrictEqual(yield* rows(upgraded, "select count(*) from kept", "shop"), [["1000"]])
        assert.deepStrictEqual(
          yield* rows(
            upgraded,
            "select rolname, split_part(version(), '.', 1) from pg_roles where rolname = 'hand_made'"
          ),
          [["hand_made", "PostgreSQL 17"]]
        )
        yield* target.stop
        shell("local backup", { ...env, STORAGE: storageOf(upgraded) })

        const moved = yield* elsewhere
        fs.rmSync(storageOf(moved), { recursive: true, force: true })
        shell("restore local storage", { ...env, STORAGE: storageOf(moved) })
        const there = yield* start(moved, localArguments(moved, spec, ["-b", newer.postgres, "--require-existing"]))
        assert.deepStrictEqual(yield* rows(moved, "select count(*) from kept", "shop"), [["1000"]])
        yield* there.stop
      })
    )
)
