/**
 * The folder of our own socket on a real file system: whose it is, and what is never taken for it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { explain } from "../../src/errors/policy.ts"
import { makeSocketFolder, removeSocketFolder } from "../../src/postgres/socketFolder.ts"
import { runAs, temporaryFolder } from "../support/postgres.ts"

describe("the socket folder", () => {
  it.effect("is made 0700 for the run-as user, closed again when it was open, and loses what a kill left in it", () =>
    Effect.gen(function* () {
      const folder = path.join(yield* temporaryFolder, "sockets", "one")
      yield* makeSocketFolder(folder, runAs)
      fs.chmodSync(folder, 0o777)
      for (const name of [".s.PGSQL.5432", ".s.PGSQL.5432.lock", "other"]) fs.writeFileSync(path.join(folder, name), "")
      yield* makeSocketFolder(folder, runAs)
      const { mode, uid } = fs.statSync(folder)
      assert.deepStrictEqual([mode & 0o777, uid], [0o700, runAs?.uid ?? process.getuid?.()])
      assert.deepStrictEqual(fs.readdirSync(folder), ["other"])
      yield* removeSocketFolder(folder)
      assert.isTrue(fs.existsSync(folder), "what is not ours stays")
      fs.unlinkSync(path.join(folder, "other"))
      yield* removeSocketFolder(folder)
      assert.isFalse(fs.existsSync(folder))
    })
  )

  it.effect("is refused when somebody else made it, or put a link there", () =>
    Effect.gen(function* () {
      const parent = yield* temporaryFolder
      const link = path.join(parent, "link")
      fs.mkdirSync(path.join(parent, "elsewhere"))
      fs.symlinkSync(path.join(parent, "elsewhere"), link)
      assert.match(
        explain(yield* Effect.flip(makeSocketFolder(link, runAs))),
        /cannot use for the socket .*: it is not a folder/
      )
      if (runAs === null) return void process.stdout.write("not tested: only root can make another user's folder\n")
      const foreign = path.join(parent, "foreign")
      fs.mkdirSync(foreign)
      fs.chownSync(foreign, 1, 1)
      assert.match(explain(yield* Effect.flip(makeSocketFolder(foreign, runAs))), /it belongs to the user with id 1/)
    })
  )
})
