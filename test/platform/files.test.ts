/**
 * A file that is replaced: what a reader finds, whose it is afterwards, and what is not touched.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { attempt, replaceFile } from "../../src/platform/files.ts"

const folder = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "files-"))),
  (made) => Effect.sync(() => fs.rmSync(made, { recursive: true, force: true }))
)
const modeOf = (file: string): number => fs.statSync(file).mode & 0o777

describe("replaceFile", () => {
  for (const flush of [true, false]) {
    it.effect(`makes a file and leaves nothing beside it (${flush ? "flushed" : "not flushed"})`, () =>
      Effect.gen(function* () {
        const at = path.join(yield* folder, "f")
        assert.isTrue(yield* replaceFile({ path: at, content: "one", owner: null, flush }))
        assert.strictEqual(fs.readFileSync(at, "utf8"), "one")
        assert.strictEqual(modeOf(at), 0o600)
        assert.deepStrictEqual(fs.readdirSync(path.dirname(at)), ["f"])
      })
    )
  }

  it.effect("leaves a file that holds the content already as it is", () =>
    Effect.gen(function* () {
      const at = path.join(yield* folder, "f")
      yield* replaceFile({ path: at, content: "one", owner: null })
      const before = fs.statSync(at).ino
      assert.isFalse(yield* replaceFile({ path: at, content: Buffer.from("one"), owner: null }))
      assert.strictEqual(fs.statSync(at).ino, before)
    })
  )

  it.effect("keeps the mode of the old file when no owner is given", () =>
    Effect.gen(function* () {
      const at = path.join(yield* folder, "f")
      fs.writeFileSync(at, "one")
      fs.chmodSync(at, 0o640)
      yield* replaceFile({ path: at, content: "two", mode: 0o644, owner: null })
      assert.strictEqual(modeOf(at), 0o640)
    })
  )

  it.effect("gives the file the mode asked for together with an owner", () =>
    Effect.gen(function* () {
      const at = path.join(yield* folder, "f")
      fs.writeFileSync(at, "one")
      fs.chmodSync(at, 0o644)
      const { gid, uid } = fs.statSync(at)
      yield* replaceFile({ path: at, content: "two", mode: 0o600, owner: { uid, gid } })
      assert.strictEqual(modeOf(at), 0o600)
    })
  )

  it.effect("replaces a link and a file with a second name, and touches neither's other end", () =>
    Effect.gen(function* () {
      const inside = yield* folder
      const at = (name: string) => path.join(inside, name)
      fs.writeFileSync(at("target"), "same")
      fs.symlinkSync(at("target"), at("link"))
      fs.writeFileSync(at("first"), "old")
      fs.linkSync(at("first"), at("second"))
      assert.isTrue(yield* replaceFile({ path: at("link"), content: "same", owner: null }))
      assert.isTrue(yield* replaceFile({ path: at("second"), content: "new", owner: null }))
      assert.isTrue(fs.lstatSync(at("link")).isFile())
      assert.strictEqual(fs.readFileSync(at("first"), "utf8"), "old")
      assert.strictEqual(fs.readFileSync(at("target"), "utf8"), "same")
    })
  )

  it.effect("fails with the path and leaves no temporary file where it cannot write", () =>
    Effect.gen(function* () {
      const inside = yield* folder
      fs.mkdirSync(path.join(inside, "taken"))
      const failure = yield* Effect.flip(replaceFile({ path: path.join(inside, "taken"), content: "x", owner: null }))
      assert.strictEqual(failure.message, `cannot write ${path.join(inside, "taken")}`)
      assert.deepStrictEqual(fs.readdirSync(inside), ["taken"])
    })
  )
})

describe("attempt", () => {
  it.effect("names the operation, the path and the system's error", () =>
    Effect.gen(function* () {
      const failure = yield* Effect.flip(attempt("read", "/nowhere/f", () => fs.readFileSync("/nowhere/f")))
      assert.strictEqual(failure.message, "cannot read /nowhere/f")
      assert.include(String(failure.cause), "ENOENT")
    })
  )
})
