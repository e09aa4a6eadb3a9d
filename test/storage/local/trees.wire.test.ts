/**
 * Laws of copying a cluster into a base and laying it out again, on real files: whatever was there before, the result
 * is the same; only what differs is written; and no changed byte passes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { monitorEventLoopDelay } from "node:perf_hooks"
import { copyNew, copyOver } from "../../../src/storage/local/baseFolder.ts"
import type { KnownFiles } from "../../../src/storage/local/copyTree.ts"
import { FileDamaged, layTree, verifyTree } from "../../../src/storage/local/layTree.ts"
import { type Manifest, parseManifest, pieceBytes, printManifest } from "../../../src/storage/local/manifest.ts"
import { forEachItem, paced, type Pace, runSteps } from "../../../src/storage/local/pacing.ts"
import { controlFileBytes, crc32c } from "../../../src/postgres/controlFile.ts"
import { temporaryFolder } from "../../support/postgres.ts"

const page = 8192

const control = (() => {
  const bytes = Buffer.alloc(controlFileBytes, 1)
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, 288)), 288)
  return bytes
})()

const write = (root: string, name: string, bytes: Uint8Array): void => {
  fs.mkdirSync(path.dirname(`${root}/${name}`), { recursive: true })
  fs.writeFileSync(`${root}/${name}`, bytes)
}

const clusterIn = (root: string): void => {
  write(root, "PG_VERSION", Buffer.from("17\n"))
  write(root, "global/pg_control", control)
  write(root, "base/5/empty", Buffer.alloc(0))
  write(root, "base/5/small", randomBytes(3 * page))
  write(root, "base/5/border", randomBytes(pieceBytes))
  write(root, "base/5/large", randomBytes(5 * pieceBytes + page))
  write(root, "base/5/pgsql_tmp1.2", randomBytes(page))
  write(root, "postgresql.conf", Buffer.from("port = 1\n"))
  fs.mkdirSync(`${root}/pg_wal`)
  write(root, "pg_wal/000000010000000000000001", randomBytes(page))
}

/** Every file below a folder that belongs into a base, with its content. */
const contentOf = (root: string) =>
  new Map(
    fs
      .readdirSync(root, { recursive: true, encoding: "utf8" })
      .filter((name) => fs.lstatSync(`${root}/${name}`).isFile())
      .filter((name) => !/pgsql_tmp|postgresql\.conf|pg_wal\//.test(name))
      .sort()
      .map((name) => [name, fs.readFileSync(`${root}/${name}`).toString("base64")])
  )

const lay = (manifest: Manifest, source: string, target: string) =>
  paced("write", target, "background", (pacer) => layTree(pacer, manifest, source, target, null))

/** Bytes that this process has written to files, as the kernel counts them (in whole pages of memory). */
const writtenBytes = (): number =>
  Number(/^write_bytes: (\d+)$/m.exec(fs.readFileSync("/proc/self/io", "utf8"))?.[1] ?? Number.NaN)

const folders = Effect.map(temporaryFolder, (folder) => {
  const source = `${folder}/pgdata`
  fs.mkdirSync(source)
  clusterIn(source)
  return { folder, source, base: `${folder}/base-1`, target: `${folder}/target` }
})

describe("a base", () => {
  it.live("holds what belongs into one, and is laid out over anything, byte for byte", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { base, source, target } = yield* folders
        const { manifest } = yield* copyNew(source, base, null)
        assert.deepStrictEqual(contentOf(`${base}/pgdata`), contentOf(source))
        assert.deepStrictEqual([...fs.readdirSync(`${base}/pgdata/pg_wal`)], [])
        for (const before of ["nothing", "another cluster", "links, folders and long files"]) {
          fs.rmSync(target, { recursive: true, force: true })
          fs.mkdirSync(target)
          const outside = `${path.dirname(target)}/outside`
          fs.writeFileSync(outside, "keep")
          if (before === "another cluster") clusterIn(target)
          if (before.startsWith("links")) {
            fs.mkdirSync(`${target}/base/5`, { recursive: true })
            fs.mkdirSync(`${target}/base/5/small`)
            fs.symlinkSync(outside, `${target}/base/5/large`)
            fs.linkSync(outside, `${target}/base/5/border`)
            fs.writeFileSync(`${target}/PG_VERSION`, randomBytes(99_999))
            fs.symlinkSync(path.dirname(target), `${target}/pg_wal`)
          }
          yield* lay(manifest, `${base}/pgdata`, target)
          assert.deepStrictEqual(contentOf(target), contentOf(source), before)
          assert.strictEqual(fs.readFileSync(outside, "utf8"), "keep")
          assert.isTrue(fs.lstatSync(`${target}/pg_wal`).isDirectory())
        }
      })
    )
  )

  it.live("is copied again by the pages that changed, and a file that did not change is not written at all", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { base, source, target } = yield* folders
        const known: KnownFiles = new Map()
        const { manifest } = yield* copyNew(source, base, null)
        fs.mkdirSync(target)
        yield* lay(manifest, `${base}/pgdata`, target)
        const untouched = fs.statSync(`${base}/pgdata/base/5/small`).mtimeMs
        const fd = fs.openSync(`${source}/base/5/large`, "r+")
        for (const at of [0, pieceBytes + page, 5 * pieceBytes]) fs.writeSync(fd, randomBytes(page), 0, page, at)
        fs.closeSync(fd)
        fs.appendFileSync(`${source}/base/5/empty`, randomBytes(page))
        const before = writtenBytes()
        const next = yield* copyOver({ source, target: `${base}/pgdata`, owner: null, before: manifest, known })
        yield* lay(next, `${base}/pgdata`, target)
        assert.isAtMost(writtenBytes() - before, 2 * (4 + 2) * page)
        assert.deepStrictEqual(contentOf(`${base}/pgdata`), contentOf(source))
        assert.deepStrictEqual(contentOf(target), contentOf(source))
        assert.strictEqual(fs.statSync(`${base}/pgdata/base/5/small`).mtimeMs, untouched)
      })
    )
  )

  it.live("takes a file for unchanged only when it had come to rest before it was copied", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { base, source } = yield* folders
        const known: KnownFiles = new Map()
        const old = new Date(1_700_000_000_000)
        fs.utimesSync(`${source}/base/5/small`, old, old)
        // Its time of change is of now, whatever its time of modification says.
        const copy = { source, target: `${base}/pgdata`, owner: null, known }
        fs.mkdirSync(copy.target, { recursive: true })
        const manifest = yield* copyOver({ ...copy, before: null })
        assert.isFalse(known.has("base/5/small"))
        const fd = fs.openSync(`${source}/base/5/small`, "r+")
        fs.writeSync(fd, randomBytes(page), 0, page, 0)
        fs.closeSync(fd)
        fs.utimesSync(`${source}/base/5/small`, old, old)
        yield* copyOver({ ...copy, before: manifest })
        assert.deepStrictEqual(contentOf(copy.target), contentOf(source))
      })
    )
  )

  it.live("with any byte changed, cut or missing is not laid out, and each is named by verifying", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { base, source, target } = yield* folders
        const { manifest } = yield* copyNew(source, base, null)
        for (const name of manifest.files.keys()) {
          const file = `${base}/pgdata/${name}`
          const bytes = fs.readFileSync(file)
          const changes: ReadonlyArray<() => void> = [
            () =>
              fs.writeFileSync(
                file,
                bytes.map((byte, at) => (at === bytes.length - 1 ? byte ^ 1 : byte))
              ),
            () => fs.truncateSync(file, Math.max(0, bytes.length - 1)),
            () => fs.rmSync(file)
          ]
          for (const [index, change] of changes.entries()) {
            if (bytes.length === 0 && index < 2) continue
            change()
            fs.rmSync(target, { recursive: true, force: true })
            fs.mkdirSync(target)
            if (bytes.length > 0) {
              const failure = yield* Effect.flip(lay(manifest, `${base}/pgdata`, target))
              assert.instanceOf(failure.cause, FileDamaged)
              assert.include(String(failure.cause), name)
            }
            const problems = yield* paced("verify", base, "urgent", (pacer) =>
              verifyTree(pacer, manifest, `${base}/pgdata`)
            )
            assert.lengthOf(problems, 1)
            assert.include(problems[0] ?? "", name)
            fs.writeFileSync(file, bytes)
          }
        }
      })
    )
  )

  it.live("is not written to any more once its making was interrupted", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { base, source, target } = yield* folders
        const { manifest } = yield* copyNew(source, base, null)
        fs.mkdirSync(target)
        const fiber = yield* Effect.forkChild(lay(manifest, `${base}/pgdata`, target))
        yield* Effect.yieldNow
        const exit = yield* Effect.andThen(Fiber.interrupt(fiber), Fiber.await(fiber))
        assert.isTrue(Exit.isFailure(exit))
        const there = contentOf(target)
        for (let turn = 0; turn < 100; turn++) yield* Effect.promise(() => new Promise((done) => setImmediate(done)))
        assert.deepStrictEqual(contentOf(target), there)
      })
    )
  )
})

describe("work beside the event loop", () => {
  for (const [pace, most] of [
    ["urgent", 3],
    ["background", 5],
    ["hurried", 5]
  ] as const satisfies ReadonlyArray<readonly [Pace, number]>) {
    it.live(`${pace}: all lanes together take one slice of each of its turns`, () =>
      Effect.gen(function* () {
        let turn = 0
        let running = true
        const count = () => {
          turn++
          if (running) setImmediate(count)
        }
        setImmediate(count)
        const perTurn = new Map<number, number>()
        // Half a millisecond each: on a busy machine fewer of them fit into a turn, never more.
        const item = () => {
          for (const from = performance.now(); performance.now() - from < 0.5;);
          perTurn.set(turn, (perTurn.get(turn) ?? 0) + 1)
          return Promise.resolve()
        }
        yield* paced("work", "", pace, (pacer) => forEachItem(pacer, Array.from({ length: 100 }), () => item))
        running = false
        assert.strictEqual(
          [...perTurn.values()].reduce((a, b) => a + b, 0),
          100
        )
        assert.isAtMost(Math.max(...perTurn.values()), most)
      })
    )
  }

  for (const [how, work] of [
    ["done", () => Promise.resolve()],
    ["failed", () => Promise.reject(new Error("no"))]
  ] as const) {
    it.live(`gives the memory of its buffers back once it has ${how}, without a garbage collection`, () =>
      Effect.gen(function* () {
        const megabytes = 64
        const seen = { buffer: Buffer.alloc(0), arrayBuffers: 0 }
        const outcome = yield* Effect.exit(
          paced("work", "", "urgent", (pacer) => {
            seen.buffer = pacer.buffer(megabytes * 2 ** 20)
            seen.arrayBuffers = process.memoryUsage().arrayBuffers
            return work()
          })
        )
        assert.strictEqual(outcome._tag, how === "done" ? "Success" : "Failure")
        // Held here all the time, so that no collection could have taken it.
        assert.strictEqual(seen.buffer.length, 0)
        assert.isBelow(process.memoryUsage().arrayBuffers, seen.arrayBuffers - (megabytes / 2) * 2 ** 20)
      })
    )
  }
})

describe("a manifest", () => {
  const print = (manifest: Manifest) =>
    Effect.orDie(paced("print", "", "urgent", (pacer) => runSteps(pacer, printManifest(manifest))))
  const parse = (bytes: Buffer) =>
    Effect.orDie(paced("parse", "", "urgent", (pacer) => runSteps(pacer, parseManifest(bytes))))

  it.live("is read as it was written, and with any byte changed not at all", () =>
    Effect.gen(function* () {
      const digest = "0123456789abcdef".repeat(2)
      const manifest: Manifest = {
        folders: ["base", 'base/a "quoted"\nname'],
        files: new Map([
          ["PG_VERSION", { size: 3, digests: digest }],
          ["base/empty", { size: 0, digests: "" }],
          ["global/pg_control", { size: pieceBytes + 1, digests: digest + digest }]
        ])
      }
      const bytes = yield* print(manifest)
      assert.deepStrictEqual(yield* parse(bytes), Option.some(manifest))
      for (let at = 0; at < bytes.length; at++) {
        const changed = Buffer.from(bytes)
        changed[at] = (changed[at] ?? 0) ^ 1
        assert.deepStrictEqual(yield* parse(changed), Option.none(), `byte ${at}`)
        assert.deepStrictEqual(yield* parse(bytes.subarray(0, at)), Option.none(), `cut to ${at}`)
      }
    })
  )

  it.live("of fifty thousand files does not hold up the event loop", () =>
    Effect.gen(function* () {
      const entry = { size: 3, digests: "0".repeat(32) }
      const files = new Map<string, typeof entry>(
        Array.from({ length: 50_000 }, (_, n) => [`base/${n % 200}/${n}`, entry] as const)
      )
      files.set("PG_VERSION", entry).set("global/pg_control", entry)
      const delay = monitorEventLoopDelay({ resolution: 1 })
      delay.enable()
      const bytes = yield* print({ folders: [], files })
      assert.isTrue(Option.isSome(yield* parse(bytes)))
      delay.disable()
      if (process.env["MEASURE"] !== undefined) {
        process.stderr.write(`manifest: ${bytes.length} bytes, loop delay max ${(delay.max / 1e6).toFixed(1)} ms\n`)
      }
    })
  )
})
