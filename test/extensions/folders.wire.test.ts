/**
 * Where every Postgres of this machine keeps its extensions, asked of its pg_config or seen from its folder.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { locateFolders } from "../../src/extensions/folders.ts"
import { Spawn } from "../../src/platform/Spawn.ts"
import { PostgresInstall } from "../../src/postgres/PostgresInstall.ts"
import { installs, temporaryFolder } from "../support/postgres.ts"
import { emptyInstall } from "./extensionStore.ts"

const located = (postgres: string, major: number) =>
  Effect.provide(
    locateFolders(
      PostgresInstall.of({ postgres, initdb: null, pgDump: null, major, version: String(major), runAs: null })
    ),
    Spawn.layer
  )

describe("the folders of extensions", () => {
  it.live.each(installs.map((install) => [install.major, install] as const))(
    "of Postgres %s",
    ([, { major, postgres }]) =>
      Effect.gen(function* () {
        const folders = yield* located(postgres, major)
        assert.isTrue(fs.existsSync(path.join(folders.extension, "plpgsql.control")))
        assert.isTrue(fs.existsSync(path.join(folders.library, "plpgsql.so")))
      })
  )

  it.live("are what pg_config status, if it status something", () =>
    Effect.gen(function* () {
      const install = yield* emptyInstall
      const postgres = path.join(install, "bin/postgres")
      const elsewhere = yield* temporaryFolder
      fs.mkdirSync(path.join(elsewhere, "share/extension"), { recursive: true })
      fs.mkdirSync(path.join(elsewhere, "lib"))
      const say = (script: string) =>
        fs.writeFileSync(path.join(install, "bin/pg_config"), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
      say(`echo ${elsewhere}/share; echo ${elsewhere}/lib`)
      assert.strictEqual((yield* located(postgres, 17)).library, path.join(elsewhere, "lib"))
      say("exit 1")
      assert.strictEqual((yield* located(postgres, 17)).library, path.join(install, "lib/postgresql"))
    }).pipe(Effect.scoped)
  )

  it.live("are missed when nothing shows them", () =>
    Effect.gen(function* () {
      const install = yield* emptyInstall
      fs.rmSync(path.join(install, "lib"), { recursive: true })
      const failure = yield* Effect.flip(located(path.join(install, "bin/postgres"), 17))
      assert.include(failure.message, "where its libraries are")
    }).pipe(Effect.scoped)
  )
})
