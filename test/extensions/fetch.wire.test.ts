/**
 * Extensions from a real HTTP store: what is asked for, what arrives, and what is left behind when it does not.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Schedule from "effect/Schedule"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import * as fs from "node:fs"
import * as path from "node:path"
import { gzipSync, zstdCompressSync, zstdDecompressSync } from "node:zlib"
import { causesOf } from "../../src/errors/policy.ts"
import { blocksOf } from "../support/tars.ts"
import {
  halfThen,
  shortLimits,
  emptyInstall,
  startService,
  listOf,
  never,
  status,
  sha256,
  specWith,
  startStore,
  complete,
  zst
} from "./extensionStore.ts"

const toy = zst([
  { path: "share/extension/toy.control", body: "default_version = '1.0'\n" },
  { path: "share/extension/toy--1.0.sql", body: "select 1;\n" },
  { path: "share/extension/toy/data.txt", body: "x".repeat(300_000) },
  { path: "lib/toy.so", body: "ELF" },
  { path: "lib/toy.so.1", type: "SymbolicLink", linkpath: "toy.so", size: 0 },
  { path: "readme.md", body: "is not ours" }
])
const toyFiles = [
  "lib/postgresql/toy.so",
  "lib/postgresql/toy.so.1",
  "share/postgresql/extension/toy--1.0.sql",
  "share/postgresql/extension/toy.control",
  "share/postgresql/extension/toy/data.txt"
]
const toyPath = "/tag/amd64/v17/extensions/toy.tar.zst"

const setUp = Effect.fnUntraced(function* (digest: string | null = null, limits = shortLimits) {
  const store = yield* startStore
  const install = yield* emptyInstall
  const service = yield* startService(install, store.base, specWith(listOf({ toy: digest }, { toylib: "toy" })), limits)
  return { store, install, ...service }
})

const messageOf = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.map(Effect.flip(effect), (failure) => causesOf(failure).join(": "))

describe("an extension that is asked for", () => {
  it.live("is fetched once, and put where Postgres looks", () =>
    Effect.gen(function* () {
      const { extensions, files, install, store } = yield* setUp(sha256(toy))
      store.answer(toyPath, complete(toy))
      assert.strictEqual(yield* extensions.download("toy", false), toy.length)
      assert.deepStrictEqual(files(), toyFiles)
      assert.strictEqual(fs.statSync(path.join(install, "lib/postgresql/toy.so")).mode & 0o777, 0o644)
      assert.strictEqual(yield* extensions.download("toylib.so.3", true), 0)
      assert.deepStrictEqual(store.requests, [toyPath])
      const counted = yield* PrometheusMetrics.format()
      assert.match(counted, /compute_ctl_remote_ext_requests_total\{.*filename="toy\.tar\.zst".*\} \d/)
      assert.include(counted, 'http_status="200 OK"')
    }).pipe(Effect.scoped)
  )

  it.live("is one download for all who ask at the same time, also when the first of them leaves", () =>
    Effect.gen(function* () {
      const { extensions, store } = yield* setUp()
      let go = (): void => {}
      const gate = new Promise<void>((resolve) => (go = resolve))
      store.answer(toyPath, (_, response) => void gate.then(() => response.writeHead(200).end(toy)))
      const [first, ...others] = yield* Effect.forEach(Array.from({ length: 20 }), () =>
        Effect.forkChild(extensions.download("toy", false), { startImmediately: true })
      )
      yield* Effect.yieldNow
      if (first !== undefined) yield* Fiber.interrupt(first)
      go()
      assert.deepStrictEqual(
        yield* Effect.forEach(others, Fiber.join),
        others.map(() => toy.length)
      )
      assert.deepStrictEqual(store.requests, [toyPath])
    }).pipe(Effect.scoped)
  )

  const transient = {
    "answers 503": status(503),
    "answers 500": status(500),
    "hangs up in the middle": halfThen(toy, "hang up"),
    "sends nothing more": halfThen(toy, "silence"),
    "ends too soon": halfThen(toy, "end"),
    "never answers": never,
    "sends something else": complete(Buffer.from("<html>proxy</html>")),
    "sends an archive without an end": complete(zstdCompressSync(blocksOf([{ path: "lib/toy.so", body: "ELF" }])))
  }
  for (const [name, fault] of Object.entries(transient)) {
    it.live(`is tried again when the store ${name}`, () =>
      Effect.gen(function* () {
        const { extensions, files, store } = yield* setUp()
        store.answer(toyPath, fault, complete(toy))
        assert.strictEqual(yield* extensions.download("toy", false), toy.length)
        assert.deepStrictEqual(files(), toyFiles)
        assert.lengthOf(store.requests, 2)
      }).pipe(Effect.scoped)
    )
  }

  it.live("leaves nothing when it fails, and is tried afresh by the next who asks", () =>
    Effect.gen(function* () {
      const { extensions, files, install, store } = yield* setUp(null, { ...shortLimits, attempts: 2 })
      store.answer(toyPath, halfThen(toy, "hang up"))
      const message = yield* messageOf(extensions.download("toy", false))
      assert.match(message, /^the extension toy could not be had from http:.*\(2 attempts\)/)
      assert.deepStrictEqual(files(), [])
      assert.isFalse(fs.existsSync(path.join(install, "download_extensions")))
      store.answer(toyPath, complete(toy))
      assert.strictEqual(yield* extensions.download("toy", false), toy.length)
    }).pipe(Effect.scoped)
  )

  it.live("sweeps what a compute that was killed left behind, and nothing of one that lives", () =>
    Effect.gen(function* () {
      const { extensions, files, install, store } = yield* setUp()
      const dead = path.join(install, "download_extensions", `${2 ** 22 - 1}.dead/unpacked/lib`)
      fs.mkdirSync(dead, { recursive: true })
      fs.writeFileSync(path.join(dead, "half.so"), "half")
      fs.mkdirSync(path.join(install, "download_extensions", `${process.ppid}.alive`))
      store.answer(toyPath, complete(toy))
      yield* extensions.download("toy", false)
      assert.deepStrictEqual(files(), toyFiles)
      assert.deepStrictEqual(fs.readdirSync(path.join(install, "download_extensions")).sort(), [
        `${process.ppid}.alive`,
        "placed"
      ])
    }).pipe(Effect.scoped)
  )

  it.live("is not tried again when the store does not have it", () =>
    Effect.gen(function* () {
      const { extensions, store } = yield* setUp()
      assert.include(yield* messageOf(extensions.download("toy", false)), "(1 attempts): it answered 404 Not Found")
      assert.lengthOf(store.requests, 1)
    }).pipe(Effect.scoped)
  )

  it.live("leaves nothing when the compute ends in the middle of it", () =>
    Effect.gen(function* () {
      const store = yield* startStore
      const install = yield* emptyInstall
      let half = (): void => {}
      const under = new Promise<void>((resolve) => (half = resolve))
      store.answer(toyPath, (request, response) => {
        halfThen(toy, "silence")(request, response)
        half()
      })
      const files = yield* Effect.scoped(
        Effect.gen(function* () {
          const service = yield* startService(install, store.base, specWith(listOf({ toy: null })))
          yield* Effect.forkChild(service.extensions.download("toy", false), { startImmediately: true })
          yield* Effect.promise(() => under)
          return service.files
        })
      )
      assert.deepStrictEqual(files(), [])
      assert.isFalse(fs.existsSync(path.join(install, "download_extensions")))
    }).pipe(Effect.scoped)
  )

  it.live("does not get into the way of another one", () =>
    Effect.gen(function* () {
      const store = yield* startStore
      const names = Array.from({ length: 12 }, (_, at) => `toy${at}`)
      for (const name of names) {
        const archive = zst([
          { path: "share/extension/shared.txt", body: "same" },
          { path: `lib/${name}.so`, body: name.repeat(50_000) }
        ])
        store.answer(`/tag/amd64/v17/extensions/${name}.tar.zst`, halfThen(archive, "hang up"), complete(archive))
      }
      const list = listOf(Object.fromEntries(names.map((name) => [name, null])))
      const { extensions, files } = yield* startService(yield* emptyInstall, store.base, specWith(list))
      yield* Effect.forEach(names, (name) => extensions.download(name, false), { concurrency: "unbounded" })
      assert.deepStrictEqual(
        files(),
        [...names.map((name) => `lib/postgresql/${name}.so`), "share/postgresql/extension/shared.txt"].sort()
      )
    }).pipe(Effect.scoped)
  )

  it.live("is never in memory as a whole", () =>
    Effect.gen(function* () {
      const { extensions, install, store } = yield* setUp()
      const mebibytes = 192
      const archive = zst([{ path: "lib/big.so", body: Buffer.alloc(mebibytes * 1024 ** 2, "large") }])
      store.answer(toyPath, complete(archive))
      globalThis.gc?.()
      const held = () => process.memoryUsage().arrayBuffers
      const before = held()
      let most = 0
      const watching = yield* Effect.forkChild(
        Effect.repeat(
          Effect.sync(() => (most = Math.max(most, held()))),
          Schedule.spaced("2 millis")
        )
      )
      yield* extensions.download("toy", false)
      yield* Fiber.interrupt(watching)
      assert.strictEqual(fs.statSync(path.join(install, "lib/postgresql/big.so")).size, mebibytes * 1024 ** 2)
      assert.isAbove(most, 0)
      assert.isBelow(most - before, 64 * 1024 ** 2)
    }).pipe(Effect.scoped)
  )

  it.live("is refused when its digest is another one", () =>
    Effect.gen(function* () {
      const { extensions, files, store } = yield* setUp("0".repeat(64), { ...shortLimits, attempts: 2 })
      store.answer(toyPath, complete(toy))
      assert.include(yield* messageOf(extensions.download("toy", false)), "its digest is")
      assert.deepStrictEqual(files(), [])
    }).pipe(Effect.scoped)
  )

  it.live("is refused when it is too large, packed or unpacked", () =>
    Effect.gen(function* () {
      for (const [limits, word] of [
        [{ mostCompressedBytes: 100 }, "larger than 100"],
        [{ mostBytes: 1000 }, "more than 1000"]
      ] as const) {
        const { extensions, files, store } = yield* setUp(null, { ...shortLimits, ...limits })
        store.answer(toyPath, complete(toy))
        const message = yield* messageOf(extensions.download("toy", false))
        assert.include(message, "(1 attempts)")
        assert.include(message, word)
        assert.deepStrictEqual(files(), [])
      }
    }).pipe(Effect.scoped)
  )

  const hostile = {
    "an absolute path": [{ path: "/tmp/compute-ctl-escaped", body: "x" }],
    "a path upwards": [{ path: "lib/../../../escaped", body: "x" }],
    "a link out": [
      { path: "lib/out", type: "SymbolicLink", linkpath: "/etc", size: 0 },
      { path: "lib/out/x", body: "x" }
    ],
    "a relative link out": [{ path: "lib/out", type: "SymbolicLink", linkpath: "..", size: 0 }],
    "a way through a link": [
      { path: "lib/a", type: "Directory", size: 0 },
      { path: "lib/b", type: "SymbolicLink", linkpath: "a", size: 0 },
      { path: "lib/b/x", body: "x" }
    ],
    "a hard link": [{ path: "lib/passwd", type: "Link", linkpath: "/etc/passwd", size: 0 }],
    "a device": [{ path: "lib/null", type: "CharacterDevice", size: 0 }]
  } as const
  for (const [name, entries] of Object.entries(hostile)) {
    it.live(`is refused at once when it has ${name}`, () =>
      Effect.gen(function* () {
        const { extensions, files, install, store } = yield* setUp()
        store.answer(toyPath, complete(zst([{ path: "lib/good.so", body: "x" }, ...entries])))
        assert.include(yield* messageOf(extensions.download("toy", false)), "(1 attempts)")
        assert.deepStrictEqual(files(), [])
        assert.isFalse(fs.existsSync(path.join(install, "../escaped")) || fs.existsSync("/tmp/compute-ctl-escaped"))
      }).pipe(Effect.scoped)
    )
  }

  const later = zst([
    { path: "share/extension/toy.control", body: "default_version = '2.0'\n" },
    { path: "lib/toy.so", body: "ELF 2" }
  ])

  it.live("replaces its own files with those of a later archive, and puts them back when one finds no place", () =>
    Effect.gen(function* () {
      const { extensions, files, install, state, store } = yield* setUp()
      const [library, control] = ["lib/postgresql/toy.so", "share/postgresql/extension/toy.control"].map((name) =>
        path.join(install, name)
      )
      const contents = () => [library, control].map((file) => fs.readFileSync(file ?? "", "utf8"))
      store.answer(toyPath, complete(toy))
      yield* extensions.download("toy", false)
      fs.rmSync(control ?? "")
      fs.mkdirSync(control ?? "")
      store.answer(toyPath, complete(later))
      yield* state.note({ spec: specWith(listOf({ toy: sha256(later) })) })
      assert.include(yield* messageOf(extensions.download("toy", false)), "toy.control is a folder")
      assert.deepStrictEqual(
        files(),
        toyFiles.filter((name) => !name.endsWith(".control"))
      )
      assert.strictEqual(fs.readFileSync(library ?? "", "utf8"), "ELF")
      fs.rmdirSync(control ?? "")
      // Also by a program that was started again.
      const again = yield* startService(install, store.base, specWith(listOf({ toy: sha256(later) })))
      yield* again.extensions.download("toy", false)
      assert.deepStrictEqual(contents(), ["ELF 2", "default_version = '2.0'\n"])
    }).pipe(Effect.scoped)
  )

  it.live("replaces a control file that was written before it, and no file that came with the image", () =>
    Effect.gen(function* () {
      const { extensions, files, install, store } = yield* setUp()
      yield* extensions.prepare(specWith(listOf({ toy: null })))
      const hostile = zst([
        { path: "share/extension/toy.control", body: "default_version = '3.0'\n" },
        { path: "lib/toy.so", body: "ELF" },
        { path: "lib/plpgsql.so", body: "broken" }
      ])
      store.answer(toyPath, complete(hostile))
      const refused = yield* messageOf(extensions.download("toy", false))
      const image = path.join(install, "lib/postgresql/plpgsql.so")
      assert.include(refused, "(1 attempts)")
      assert.include(refused, `it may not overwrite ${image}: not placed by this extension before`)
      assert.strictEqual(fs.readFileSync(image, "utf8"), "")
      assert.deepStrictEqual(files(), ["share/postgresql/extension/toy.control"])
      store.answer(toyPath, complete(toy))
      yield* extensions.download("toy", false)
      assert.deepStrictEqual(files(), toyFiles)

      // The same file again is nobody's loss; another one of another extension is.
      const other = (body: string) => complete(zst([{ path: "lib/toy.so", body }]))
      const path2 = toyPath.replace("toy", "other")
      const second = yield* startService(install, store.base, specWith(listOf({ other: null })))
      store.answer(path2, other("FLE"))
      assert.include(yield* messageOf(second.extensions.download("other", false)), "it may not overwrite")
      store.answer(path2, other("ELF"))
      yield* second.extensions.download("other", false)
    }).pipe(Effect.scoped)
  )

  it.live("is a failure when nothing of it has a place", () =>
    Effect.gen(function* () {
      for (const entries of [[], [{ path: "toy-1.0/lib/toy.so", body: "ELF" }]]) {
        const { extensions, files, store } = yield* setUp()
        store.answer(toyPath, complete(zst(entries)))
        const message = yield* messageOf(extensions.download("toy", false))
        assert.include(message, "(1 attempts)")
        assert.include(message, `it places nothing: it has no file below lib or share/extension, and ${entries.length}`)
        assert.deepStrictEqual(files(), [])
      }
    }).pipe(Effect.scoped)
  )

  it.live("may be packed by gzip or not at all; packed otherwise it is refused with what is needed", () =>
    Effect.gen(function* () {
      const plain = zstdDecompressSync(toy)
      for (const archive of [plain, gzipSync(plain)]) {
        const { extensions, files, store } = yield* setUp(sha256(archive))
        // In small pieces, the first of them shorter than what tells the kind.
        store.answer(toyPath, (_, response) => {
          response.writeHead(200)
          response.write(archive.subarray(0, 1), () => response.end(archive.subarray(1)))
        })
        assert.strictEqual(yield* extensions.download("toy", false), archive.length)
        assert.deepStrictEqual(files(), toyFiles)
      }
      const { extensions, store } = yield* setUp()
      store.answer(toyPath, complete(Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 0, 4])))
      const message = yield* messageOf(extensions.download("toy", false))
      assert.include(message, "(1 attempts)")
      assert.include(message, "it is packed by xz; pack it by zstd or gzip, or not at all")
    }).pipe(Effect.scoped)
  )
})

describe("what cannot be asked for", () => {
  it.live("an extension without a store, without a list, or without permission", () =>
    Effect.gen(function* () {
      const install = yield* emptyInstall
      const spec = specWith({ ...listOf({ toy: null, other: null }), public: new Set(["toy"]) })
      const storeless = yield* startService(install, null, spec)
      assert.strictEqual(
        yield* messageOf(storeless.extensions.download("toy", false)),
        "remote storage is not configured"
      )
      const store = yield* startStore
      const early = yield* startService(install, store.base, null)
      assert.strictEqual(
        yield* messageOf(early.extensions.download("toy", false)),
        "information about remote extensions is unavailable"
      )
      const { extensions } = yield* startService(install, store.base, spec)
      assert.strictEqual(yield* messageOf(extensions.download("other", false)), "extension other is not found")
      assert.strictEqual(yield* messageOf(extensions.download("no.so", true)), "library no is not found")
      assert.lengthOf(store.requests, 0)
    }).pipe(Effect.scoped)
  )
})

describe("before Postgres starts", () => {
  const preload = (names: string) => ({ settings: [{ name: "shared_preload_libraries", value: names, quoted: true }] })

  it.live("allowed control files are written, and libraries to preload are fetched", () =>
    Effect.gen(function* () {
      const store = yield* startStore
      const install = yield* emptyInstall
      store.answer(toyPath, complete(toy))
      const list = listOf(
        { toy: null, late: null, broken: null, forbidden: null },
        { toylib: "toy", brokenlib: "broken" }
      )
      const spec = specWith(
        { ...list, public: new Set(["toy", "late", "broken"]) },
        preload("neon, toylib,brokenlib, pg_stat_statements")
      )
      fs.writeFileSync(path.join(install, "share/postgresql/extension/late.control"), "somebody's")
      const { extensions, files, state } = yield* startService(install, store.base, spec)
      const loaded = yield* extensions.prepare(spec)
      assert.deepInclude(loaded, { downloaded: 1, largest: toy.length, total: toy.length })
      assert.deepInclude((yield* state.now).metrics, { num_ext_downloaded: 1, total_ext_download_size: toy.length })
      assert.deepStrictEqual(
        files(),
        [...toyFiles, "share/postgresql/extension/broken.control", "share/postgresql/extension/late.control"].sort()
      )
      assert.strictEqual(
        fs.readFileSync(path.join(install, "share/postgresql/extension/late.control"), "utf8"),
        "somebody's"
      )
      assert.deepStrictEqual([...store.requests].sort(), ["/tag/amd64/v17/extensions/broken.tar.zst", toyPath])
    }).pipe(Effect.scoped)
  )

  it.live("a library that the spec indexes but does not allow is fatal", () =>
    Effect.gen(function* () {
      const spec = specWith({ ...listOf({ toy: null }, { toylib: "toy" }), public: new Set() }, preload("toylib"))
      const { extensions } = yield* startService(yield* emptyInstall, "http://127.0.0.1:1/", spec)
      assert.strictEqual(yield* messageOf(extensions.prepare(spec)), "extension toy is not found")
    }).pipe(Effect.scoped)
  )

  it.live("without a store only control files are written, and without a list nothing happens", () =>
    Effect.gen(function* () {
      const spec = specWith(listOf({ toy: null }, { toylib: "toy" }), preload("toylib"))
      const { extensions, files } = yield* startService(yield* emptyInstall, null, spec)
      assert.deepStrictEqual(yield* extensions.prepare({ ...spec, remoteExtensions: null }), {
        millis: 0,
        downloaded: 0,
        largest: 0,
        total: 0
      })
      assert.deepStrictEqual(files(), [])
      assert.strictEqual((yield* extensions.prepare(spec)).millis, 0)
      assert.deepStrictEqual(files(), ["share/postgresql/extension/toy.control"])
    }).pipe(Effect.scoped)
  )
})
