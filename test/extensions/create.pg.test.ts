/**
 * Real archives of real extensions, taken out of a private copy of Postgres first, and CREATE EXTENSION afterwards.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { causesOf } from "../../src/errors/policy.ts"
import { faultOfControlFile } from "../../src/extensions/controlText.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import { shutdownStages } from "../../src/platform/shutdownStages.ts"
import { Spawn } from "../../src/platform/Spawn.ts"
import { type Cluster, configOf, installOf, makeCluster, runAs, temporaryFolder } from "../support/postgres.ts"
import { badTexts, goodTexts } from "./controlTexts.ts"
import { halfThen, startService, listOf, sha256, specWith, startStore, complete, zst } from "./extensionStore.ts"

const native = path.resolve(installOf(17).postgres, "../..")
const share = "share/postgresql/extension"
const library = "lib/postgresql"

/** A copy of Postgres without these extensions, and their archives. Never touches node_modules. */
const without = Effect.fnUntraced(function* (...names: ReadonlyArray<string>) {
  const folder = yield* temporaryFolder
  const install = path.join(folder, "install")
  execFileSync("cp", ["-a", native, install])
  execFileSync("chmod", ["-R", "a+rX", install])
  const archives = names.map((name) => {
    const taken = [
      ...fs
        .readdirSync(path.join(install, share))
        .filter((file) => new RegExp(`^${name}(--.*\\.sql|\\.control)$`).test(file))
        .map((file) => ({ at: path.join(install, share, file), path: `share/extension/${file}` })),
      ...fs
        .readdirSync(path.join(install, library))
        .filter((file) => file === `${name}.so`)
        .map((file) => ({ at: path.join(install, library, file), path: `lib/${file}` }))
    ]
    const entries = taken.map((one) => ({ path: one.path, body: fs.readFileSync(one.at) }))
    for (const one of taken) fs.rmSync(one.at)
    return zst(entries)
  })
  return { install, archives }
})

const started = Effect.fnUntraced(function* (install: string, cluster: Cluster) {
  const { spawn } = yield* Spawn
  const child = yield* spawn({
    command: path.join(install, "bin/postgres"),
    args: ["-D", cluster.pgdata],
    cwd: "/",
    runAs,
    stages: shutdownStages
  })
  yield* Effect.forkScoped(Stream.runDrain(child.stdout))
  yield* Effect.forkScoped(Stream.runDrain(child.stderr))
  return yield* connect(configOf(cluster)()).pipe(
    Effect.retry(Schedule.upTo(Schedule.spaced(Duration.millis(50)), { duration: "20 seconds" }))
  )
})

describe("an extension that the image lacks", () => {
  it.live("is offered from the start, and created once it was fetched; a control file with a fault is left out", () =>
    Effect.gen(function* () {
      const {
        archives: [citext = Buffer.alloc(0)],
        install
      } = yield* without("citext")
      const store = yield* startStore
      store.answer("/tag/amd64/v17/extensions/citext.tar.zst", halfThen(citext, "hang up"), complete(citext))
      const toy = zst([
        { path: "share/extension/toy.control", body: "default_version = '1.0'\n" },
        {
          path: "share/extension/toy--1.0.sql",
          body: "create function toy_answer() returns int language sql return 42;\n"
        }
      ])
      store.answer("/tag/amd64/v17/extensions/toy.tar.zst", complete(toy))
      const list = listOf({ citext: sha256(citext), toy: sha256(toy), bad: null }, { citext: "citext" })
      const spec = specWith({
        ...list,
        extensions: new Map([
          ...list.extensions,
          ["bad", { controlFiles: new Map([["bad.control", "default_version = '1.0\n"]]), sha256: null }],
          [
            "citext",
            {
              controlFiles: new Map([
                ["citext.control", "default_version = '1.6'\nmodule_pathname = '$libdir/citext'\nrelocatable = true\n"]
              ]),
              sha256: sha256(citext)
            }
          ]
        ])
      })
      const { extensions, state } = yield* startService(install, store.base, spec)
      yield* extensions.prepare(spec)
      assert.deepInclude((yield* state.now).degraded, {
        code: "extension_unusable",
        about: "bad.control",
        message: "bad.control, a control file of the spec's remote extensions, is left out: line 1: it is no setting"
      })

      const wire = yield* started(install, yield* makeCluster())
      const offered = yield* wire.rows(
        "select name from pg_available_extensions where name in ('citext', 'toy', 'bad') order by 1"
      )
      assert.deepStrictEqual(offered, [["citext"], ["toy"]])
      const early = yield* Effect.flip(wire.simple("create extension citext"))
      assert.match(causesOf(early).join(": "), /citext/)

      assert.strictEqual(yield* extensions.download("citext", false), citext.length)
      yield* wire.simple("create extension citext")
      assert.deepStrictEqual(yield* wire.rows("select 'ABC'::citext = 'abc'::citext"), [["t"]])
      yield* extensions.download("toy", false)
      yield* wire.simple("create extension toy")
      assert.deepStrictEqual(yield* wire.rows("select toy_answer()"), [["42"]])

      const taken = Effect.fnUntraced(function* (text: string) {
        fs.writeFileSync(path.join(install, share, "text.control"), text)
        return Result.isSuccess(yield* Effect.result(wire.rows("select from pg_extension_update_paths('text')")))
      })
      for (const text of [...goodTexts, ...badTexts])
        assert.strictEqual(yield* taken(text), faultOfControlFile("text.control", text, 17) === null, text)
    }).pipe(Effect.provide(Spawn.layer), Effect.scoped)
  )

  it.live("is there before Postgres starts when Postgres shall preload it", () =>
    Effect.gen(function* () {
      const {
        archives: [archive = Buffer.alloc(0)],
        install
      } = yield* without("auto_explain")
      assert.isFalse(fs.existsSync(path.join(install, library, "auto_explain.so")))
      const store = yield* startStore
      store.answer("/tag/amd64/v17/extensions/explaining.tar.zst", complete(archive))
      const list = listOf({ explaining: null }, { auto_explain: "explaining" })
      const spec = specWith(list, {
        settings: [{ name: "shared_preload_libraries", value: "neon,auto_explain", quoted: true }]
      })
      const { extensions } = yield* startService(install, store.base, spec)
      assert.strictEqual((yield* extensions.prepare(spec)).downloaded, 1)
      const wire = yield* started(
        install,
        yield* makeCluster({ settings: { shared_preload_libraries: "'auto_explain'" } })
      )
      assert.deepStrictEqual(
        yield* wire.rows("select setting from pg_settings where name = 'auto_explain.log_min_duration'"),
        [["-1"]]
      )
    }).pipe(Effect.provide(Spawn.layer), Effect.scoped)
  )
})
