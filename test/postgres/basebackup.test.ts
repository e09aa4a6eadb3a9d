/**
 * Laws of unpacking: chunking changes nothing, every truncation is noticed, and nothing gets out of the folder.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { createGzip, gzipSync } from "node:zlib"
import { type ArchiveInvalid, type Failure, WireFailed } from "../../src/errors/Failure.ts"
import { unpack } from "../../src/postgres/basebackup.ts"
import { runAs, temporaryFolder } from "../support/postgres.ts"
import { blocksOf, contentOf, endOfArchive, type Entry, gzipped, tarOf, unpacked } from "../support/tars.ts"

const long = `base/${"long-folder-name-".repeat(5)}/${"n".repeat(90)}`
const tree: ReadonlyArray<Entry> = [
  { path: "PG_VERSION", body: "17\n" },
  { path: "base/", type: "Directory" },
  { path: "base/1/112", body: Buffer.alloc(1300, "page") },
  { path: "./global/pg_control", body: "control" },
  { path: "empty", body: "" },
  { path: long, body: "deep" }
]
const expected = {
  PG_VERSION: "17\n",
  base: null,
  "base/1": null,
  "base/1/112": Buffer.alloc(1300, "page").toString("latin1"),
  empty: "",
  global: null,
  "global/pg_control": "control",
  [path.dirname(long)]: null,
  [long]: "deep"
}
const sorted = (content: Record<string, string | null>) =>
  Object.fromEntries(Object.entries(content).sort(([a], [b]) => (a < b ? -1 : 1)))

const failureOf = (exit: Exit.Exit<number, Failure>): Failure => {
  const reason = Exit.isFailure(exit) ? exit.cause.reasons.find((one) => one._tag === "Fail") : undefined
  return reason === undefined ? assert.fail(`it did not fail: ${JSON.stringify(exit)}`) : reason.error
}
const refusedAs = (exit: Exit.Exit<number, Failure>, kind: ArchiveInvalid["kind"], detail: RegExp): void => {
  const failure = failureOf(exit)
  if (failure._tag !== "ArchiveInvalid") return assert.fail(`it failed with ${failure._tag}: ${failure.message}`)
  assert.strictEqual(failure.kind, kind, failure.message)
  assert.match(failure.detail, detail)
}

describe("unpacking a basebackup", () => {
  it.effect("files and folders arrive, closed to others, and the bytes are counted", () =>
    Effect.gen(function* () {
      const gzip = gzipped(tarOf(tree))
      const { exit, pgdata } = yield* unpacked(gzip)
      assert.deepStrictEqual(exit, Exit.succeed(gzip.length))
      assert.deepStrictEqual(contentOf(pgdata), sorted(expected))
      for (const entry of fs.readdirSync(pgdata, { recursive: true, withFileTypes: true })) {
        const mode = fs.statSync(path.join(entry.parentPath, entry.name)).mode & 0o7777
        assert.strictEqual(mode, entry.isDirectory() ? 0o700 : 0o600, entry.name)
      }
    })
  )

  it.effect("all of it belongs to the owner, when we may give it away", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const owner = runAs ?? { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
      yield* unpack(Stream.make(gzipped(tarOf(tree))), folder, owner)
      for (const name of Object.keys(expected)) {
        const { gid, uid } = fs.statSync(path.join(folder, name))
        assert.deepStrictEqual({ uid, gid }, { uid: owner.uid, gid: owner.gid })
      }
    })
  )

  it.effect.prop(
    "any chunking of the same bytes gives the same files",
    { sizes: Schema.NonEmptyArray(Schema.Literals([1, 2, 3, 7, 10, 64, 511, 512, 513, 1000])) },
    ({ sizes }) =>
      Effect.scoped(
        Effect.gen(function* () {
          const { exit, pgdata } = yield* unpacked(gzipped(tarOf(tree)), sizes)
          assert.isTrue(Exit.isSuccess(exit))
          assert.deepStrictEqual(contentOf(pgdata), sorted(expected))
        })
      ),
    { arbitrary: { runs: 40 } }
  )

  it.effect("stored, not compressed, in one-byte chunks: the tar reader sees every boundary", () =>
    Effect.gen(function* () {
      const { exit, pgdata } = yield* unpacked(gzipSync(tarOf(tree), { level: 0 }), [1])
      assert.isTrue(Exit.isSuccess(exit))
      assert.deepStrictEqual(contentOf(pgdata), sorted(expected))
    })
  )

  it.effect("no truncation of the gzip goes unnoticed", () =>
    Effect.gen(function* () {
      const gzip = gzipped(tarOf(tree))
      for (let length = 0; length < gzip.length; length++) {
        const { exit } = yield* Effect.scoped(unpacked(gzip.subarray(0, length)))
        refusedAs(exit, "truncated", /stops early|ends before/)
      }
    })
  )

  it.effect("no truncation of the tar goes unnoticed, also not between two entries", () =>
    Effect.gen(function* () {
      const tar = tarOf(tree)
      for (let length = 0; length < tar.length; length += 64) {
        const { exit } = yield* Effect.scoped(unpacked(gzipped(tar.subarray(0, length))))
        assert.strictEqual(failureOf(exit)._tag, "ArchiveInvalid", `${length} of ${tar.length}`)
      }
    })
  )

  it.effect("one bit turned over anywhere in the gzip is noticed, or changes no file", () =>
    Effect.gen(function* () {
      const gzip = gzipped(tarOf(tree))
      // The header's time, flags of the compressor and system say nothing about the content.
      for (let at = 10; at < gzip.length; at++) {
        const spoiled = Buffer.from(gzip)
        spoiled[at] = (spoiled[at] ?? 0) ^ 0x10
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { exit, pgdata } = yield* unpacked(spoiled)
            // Some bits only choose between two equal places to copy from.
            if (Exit.isSuccess(exit)) assert.deepStrictEqual(contentOf(pgdata), sorted(expected), `byte ${at}`)
            else assert.strictEqual(failureOf(exit)._tag, "ArchiveInvalid", `byte ${at}`)
          })
        )
      }
    })
  )

  it.effect("a damaged tar in a sound gzip is noticed by its checksum", () =>
    Effect.gen(function* () {
      const tar = tarOf(tree)
      tar[0] = 0x51
      const { exit } = yield* unpacked(gzipped(tar))
      refusedAs(exit, "corrupt", /not a tar archive/)
    })
  )

  it.effect("reads to the end: an error that comes after a whole archive counts", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const late = new WireFailed({ operation: "copy out", peer: "pageserver", detail: "shut down" })
      const bytes = Stream.concat(Stream.make(gzipped(tarOf(tree))), Stream.fail(late))
      assert.strictEqual(yield* Effect.flip(unpack(bytes, folder, null)), late)
    })
  )

  it.effect("what follows the end marker is padding, however it is chunked; what follows the gzip is not", () =>
    Effect.gen(function* () {
      const more = Buffer.concat([tarOf(tree), blocksOf([{ path: "more", body: "x" }]), endOfArchive])
      for (const sizes of [[100_000], [50], [1]]) {
        for (const tar of [more, Buffer.concat([tarOf(tree), Buffer.alloc(8192)])]) {
          const { exit, pgdata } = yield* unpacked(gzipSync(tar, { level: 0 }), sizes)
          assert.isTrue(Exit.isSuccess(exit))
          assert.deepStrictEqual(contentOf(pgdata), sorted(expected))
        }
        const { exit } = yield* unpacked(Buffer.concat([gzipped(tarOf(tree)), Buffer.alloc(600)]), sizes)
        refusedAs(exit, "corrupt", /after the end of the gzip stream/)
      }
    })
  )

  const hostile: ReadonlyArray<readonly [string, ReadonlyArray<Entry>, ArchiveInvalid["kind"], RegExp]> = [
    ["an absolute path", [{ path: "/etc/evil", body: "x" }], "escapes", /"\/etc\/evil" is an absolute path/],
    ["a path upwards", [{ path: "../evil", body: "x" }], "escapes", /leads upwards/],
    ["a path upwards in the middle", [{ path: "base/../../evil", body: "x" }], "escapes", /leads upwards/],
    ["a folder upwards", [{ path: "../evil/", type: "Directory" }], "escapes", /leads upwards/],
    [
      "a symbolic link out, absolute",
      [{ path: "pg_wal", type: "SymbolicLink", linkpath: "/etc" }],
      "escapes",
      /link to "\/etc"/
    ],
    [
      "a symbolic link out, relative",
      [{ path: "base/x", type: "SymbolicLink", linkpath: "../../neighbour" }],
      "escapes",
      /link to/
    ],
    ["a hard link out", [{ path: "x", type: "Link", linkpath: "../neighbour" }], "escapes", /link to "..\/neighbour"/],
    [
      "a link within",
      [{ path: "x", type: "SymbolicLink", linkpath: "PG_VERSION" }],
      "corrupt",
      /is a link to "PG_VERSION", which is not unpacked/
    ],
    [
      "a file through a symbolic link",
      [
        { path: "out", type: "SymbolicLink", linkpath: ".." },
        { path: "out/neighbour", body: "overwritten" }
      ],
      "escapes",
      /link to "\.\."/
    ],
    ["a device", [{ path: "null", type: "CharacterDevice", devmaj: 1, devmin: 3 }], "corrupt", /CharacterDevice/],
    ["a named pipe", [{ path: "pipe", type: "FIFO" }], "corrupt", /FIFO/],
    [
      "a file below a file",
      [
        { path: "a", body: "x" },
        { path: "a/b", body: "x" }
      ],
      "corrupt",
      /cannot be written where it says/
    ],
    [
      "a file where a folder is",
      [
        { path: "a/", type: "Directory" },
        { path: "a", body: "x" }
      ],
      "corrupt",
      /cannot be written where it says/
    ]
  ]
  for (const [name, entries, kind, detail] of hostile) {
    it.effect(`refuses ${name}`, () =>
      Effect.gen(function* () {
        const { around, exit, pgdata } = yield* unpacked(gzipped(tarOf([...entries, { path: "later", body: "x" }])))
        refusedAs(exit, kind, detail)
        assert.deepStrictEqual(fs.readdirSync(around).sort(), ["neighbour", "pgdata"])
        assert.strictEqual(fs.readFileSync(path.join(around, "neighbour"), "utf8"), "untouched")
        assert.isFalse(fs.existsSync(path.join(pgdata, "later")))
        for (const entry of fs.readdirSync(pgdata, { withFileTypes: true }))
          assert.isTrue(entry.isFile() || entry.isDirectory())
      })
    )
  }

  it.effect("refuses an entry of an unknown kind", () =>
    Effect.gen(function* () {
      const tar = tarOf([{ path: "odd", body: "x" }])
      // The type byte, and the checksum that goes with it (octal, six digits).
      tar[156] = "Z".charCodeAt(0)
      const sum = tar.subarray(0, 512).reduce((all, byte, at) => all + (at >= 148 && at < 156 ? 32 : byte), 0)
      tar.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1")
      const { exit } = yield* unpacked(gzipped(tar))
      refusedAs(exit, "corrupt", /"odd" is of an unknown kind/)
    })
  )

  it.effect("an archive inside an archive's gzip is not unpacked twice", () =>
    Effect.gen(function* () {
      const { exit, pgdata } = yield* unpacked(gzipped(gzipped(tarOf(tree))))
      assert.strictEqual(failureOf(exit)._tag, "ArchiveInvalid")
      assert.deepStrictEqual(contentOf(pgdata), {})
    })
  )

  it.effect(
    "memory stays flat: 200 MB go through",
    () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder
        const piece = Buffer.alloc(1024 * 1024, Array.from({ length: 997 }, (_, at) => (at * 7919) % 251).join(","))
        const files = 20
        const perFile = 10
        const tar = async function* () {
          for (let file = 0; file < files; file++) {
            const block = Buffer.alloc(512)
            blocksOf([{ path: `base/${file}`, size: perFile * piece.length }]).copy(block)
            yield block
            for (let at = 0; at < perFile; at++) yield piece
          }
          yield endOfArchive
        }
        const gzip = async function* () {
          const zip = createGzip({ level: 0 })
          const feed = (async () => {
            for await (const bytes of tar())
              if (!zip.write(bytes)) await new Promise((resolve) => zip.once("drain", resolve))
            zip.end()
          })()
          yield* zip as AsyncIterable<Uint8Array>
          await feed
        }
        let highest = 0
        const before = process.memoryUsage().rss
        const bytes = Stream.fromAsyncIterable(
          gzip(),
          (cause) => new WireFailed({ operation: "test", peer: "", detail: String(cause) })
        ).pipe(Stream.tap(() => Effect.sync(() => (highest = Math.max(highest, process.memoryUsage().rss)))))
        const arrived = yield* unpack(bytes, folder, null)
        assert.isAbove(arrived, files * perFile * piece.length)
        assert.strictEqual(fs.statSync(path.join(folder, "base/19")).size, perFile * piece.length)
        assert.isBelow((highest - before) / piece.length, 100, "megabytes of growth")
      }),
    60_000
  )
})
