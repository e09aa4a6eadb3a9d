/**
 * What the tar reader lets in beside files and folders, and where it stops. The laws of chunking, truncation and
 * damage are those of `postgres/basebackup.test.ts`.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { makeUntar, TarInvalid, type TarProblem, type UntarOptions } from "../../src/platform/untar.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { type Entry, gzipped, tarOf } from "../support/tars.ts"

const plain = { owner: null, fileMode: 0o644, folderMode: 0o755, links: "sameFolder" } as const

const read = (tar: Buffer, options: Partial<UntarOptions> = {}) =>
  Effect.map(temporaryFolder, (directory) => {
    const untar = makeUntar({ ...plain, directory, ...options })
    untar.write(tar)
    untar.end()
    untar.close()
    const failure = untar.failure()
    return { directory, problem: failure instanceof TarInvalid ? failure.problem : failure, failure }
  })

describe("the tar reader", () => {
  it.effect("writes files and folders with the modes that were asked for", () =>
    Effect.gen(function* () {
      const { directory, failure } = yield* read(tarOf([{ path: "lib/x.so", body: "x" }]))
      assert.isNull(failure)
      const modeOf = (name: string) => fs.statSync(path.join(directory, name)).mode & 0o777 & ~0o022
      assert.deepStrictEqual([modeOf("lib"), modeOf("lib/x.so")], [0o755, 0o644])
    })
  )

  it.effect("makes a link to a name in its own folder, when links are let in", () =>
    Effect.gen(function* () {
      const entries: ReadonlyArray<Entry> = [
        { path: "lib/libx.so", type: "SymbolicLink", linkpath: "libx.so.1" },
        { path: "lib/libx.so.1", body: "x" }
      ]
      const { directory, failure } = yield* read(tarOf(entries))
      assert.isNull(failure)
      assert.strictEqual(fs.readlinkSync(path.join(directory, "lib/libx.so")), "libx.so.1")
      assert.strictEqual((yield* read(tarOf(entries), { links: "refuse" })).problem, "refused")
    })
  )

  const links: ReadonlyArray<readonly [string, Entry, TarProblem]> = [
    ["to another folder", { path: "a/x", type: "SymbolicLink", linkpath: "../b" }, "refused"],
    ["to its own folder", { path: "a/x", type: "SymbolicLink", linkpath: "." }, "refused"],
    ["to the folder above", { path: "x", type: "SymbolicLink", linkpath: ".." }, "escapes"],
    ["to an absolute path", { path: "x", type: "SymbolicLink", linkpath: "/etc" }, "escapes"],
    ["that is hard", { path: "x", type: "Link", linkpath: "y" }, "refused"]
  ]
  for (const [name, entry, problem] of links) {
    it.effect(`refuses a link ${name}, also when links are let in`, () =>
      Effect.gen(function* () {
        const found = yield* read(tarOf([entry]))
        assert.strictEqual(found.problem, problem)
        assert.isUndefined(fs.lstatSync(path.join(found.directory, entry.path), { throwIfNoEntry: false }))
      })
    )
  }

  it.effect("writes nothing through a link that the archive made", () =>
    Effect.gen(function* () {
      const { directory, problem } = yield* read(
        tarOf([
          { path: "target/", type: "Directory" },
          { path: "link", type: "SymbolicLink", linkpath: "target" },
          { path: "link/x", body: "x" }
        ])
      )
      assert.strictEqual(problem, "refused")
      assert.deepStrictEqual(fs.readdirSync(path.join(directory, "target")), [])
    })
  )

  it.effect("takes the later of two entries with one name, and leaves the target of a link alone", () =>
    Effect.gen(function* () {
      const { directory, failure } = yield* read(
        tarOf([
          { path: "a", body: "first" },
          { path: "a", body: "second" },
          { path: "target", body: "kept" },
          { path: "b", type: "SymbolicLink", linkpath: "target" },
          { path: "b", body: "a file" }
        ])
      )
      assert.isNull(failure)
      const textOf = (name: string) => fs.readFileSync(path.join(directory, name), "utf8")
      assert.deepStrictEqual(["a", "b", "target"].map(textOf), ["second", "a file", "kept"])
    })
  )

  it.effect("stops at the limits of entries and bytes", () =>
    Effect.gen(function* () {
      const tar = tarOf([
        { path: "a", body: "1" },
        { path: "b", body: "2" }
      ])
      assert.isNull((yield* read(tar, { mostEntries: 2, mostBytes: tar.length })).failure)
      assert.strictEqual((yield* read(tar, { mostEntries: 1 })).failure?.message, "it has too many entries")
      const large = yield* read(tar, { mostBytes: tar.length - 1 })
      assert.strictEqual(large.failure?.message, `it unpacks to more than ${tar.length - 1} bytes`)
    })
  )

  it.effect("tells an archive that ends early from one that is none", () =>
    Effect.gen(function* () {
      const tar = tarOf([{ path: "a", body: "x".repeat(600) }])
      assert.strictEqual((yield* read(tar.subarray(0, 1000))).problem, "truncated")
      assert.strictEqual((yield* read(Buffer.alloc(1024, "not a tar"))).problem, "damaged")
      assert.strictEqual((yield* read(gzipped(tar))).failure?.message, "it is compressed twice")
    })
  )
})
