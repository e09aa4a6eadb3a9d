/**
 * How fast a basebackup is unpacked beside `tar -xz` on the same archive, and how much memory it takes.
 *
 * `node test/bench/basebackup.ts [MEGABYTES…]` (default 10 100 1000, of tar). Each archive is unpacked by turns, in
 * processes of their own: by tar from a file, by our unpacker from the same file, and by our unpacker from an imitation
 * pageserver over libpq and over gRPC, as a start does it. One machine, few rounds: read ratios.
 */
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { create } from "tar/create"
import { execFile, spawn } from "node:child_process"
import { randomFillSync } from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { pipeline } from "node:stream/promises"
import { promisify } from "node:util"
import { createGzip } from "node:zlib"
import { FileFailed } from "../../src/errors/Failure.ts"
import { unpack } from "../../src/postgres/basebackup.ts"
import type { TenantId, TimelineId } from "../../src/spec/identifiers.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { NeonDeadlines } from "../../src/storage/neon/deadlines.ts"
import { openBasebackup } from "../../src/storage/neon/shards.ts"
import { makeFakePageserver } from "../../src/testing/peers/FakePageserver.ts"
import { makeFakePageService } from "../../src/testing/peers/FakePageService.ts"
import { emptySpec } from "../support/specs.ts"

const tenant = "a".repeat(32) as TenantId
const timeline = "b".repeat(32) as TimelineId
const run = promisify(execFile)

type Way = "file" | "libpq" | "grpc"

const specAt = (way: Way, url: string): ParsedSpec => ({
  ...emptySpec,
  tenant,
  timeline,
  neon: {
    pageservers: {
      shardCount: 0,
      stripeSize: null,
      shards: [
        { number: 0, pageservers: [{ libpqUrl: way === "libpq" ? url : null, grpcUrl: way === "grpc" ? url : null }] }
      ],
      preferProtocol: way === "grpc" ? "grpc" : "libpq"
    },
    safekeepers: [],
    safekeepersGeneration: null,
    token: Redacted.make("t0ken"),
    fromSettings: new Set()
  }
})

const archiveFile = (from: string) =>
  Stream.fromAsyncIterable<Uint8Array, FileFailed>(
    fs.createReadStream(from, { highWaterMark: 64 * 1024 }),
    (cause) => new FileFailed({ operation: "read", path: from, cause })
  )

/** Since the exec; `maxRSS` would begin with what the parent had at the fork. */
const peakOf = (status: string): number => Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? NaN) / 1024

/** In a process of its own: unpacks once, and says how long it took and the most memory it had. */
const child = (way: Way, from: string, into: string) =>
  Effect.gen(function* () {
    const spec = specAt(way, from)
    const deadlines = yield* NeonDeadlines
    const before = performance.now()
    yield* Effect.scoped(
      Effect.gen(function* () {
        const bytes =
          way === "file" || spec.neon === null
            ? archiveFile(from)
            : (yield* openBasebackup(spec, spec.neon, 0n, deadlines)).bytes
        yield* unpack(bytes, into, null)
      })
    )
    yield* Console.log(
      JSON.stringify({ millis: performance.now() - before, peak: peakOf(fs.readFileSync("/proc/self/status", "utf8")) })
    )
  })

interface Outcome {
  readonly millis: number
  /** MiB. */
  readonly peak: number
}

const emptyFolder = (at: string): string => {
  fs.rmSync(at, { recursive: true, force: true })
  fs.mkdirSync(at)
  return at
}

const ours = async (way: Way, from: string, into: string): Promise<Outcome> => {
  const self = spawn(process.execPath, [import.meta.filename, "child", way, from, emptyFolder(into)], {
    stdio: ["ignore", "pipe", "inherit"]
  })
  let said = ""
  for await (const piece of self.stdout) said += String(piece)
  // Before it are lines of the log.
  return JSON.parse(said.trim().split("\n").at(-1) ?? "") as Outcome
}

const theirs = async (from: string, into: string): Promise<Outcome> => {
  emptyFolder(into)
  const before = performance.now()
  await run("tar", ["-xzf", from, "-C", into])
  return { millis: performance.now() - before, peak: NaN }
}

/**
 * Pages that compress about as relation pages do: a third of each is noise. Small files, middling ones, and whole
 * segments.
 */
const fill = async (folder: string, megabytes: number): Promise<number> => {
  const page = Buffer.alloc(8192, "a tuple that resembles the one before; ")
  let files = 0
  const write = async (bytes: number) => {
    const file = fs.createWriteStream(path.join(folder, `base/${files % 40}/${files++}`))
    for (let at = 0; at < bytes; at += page.length) {
      randomFillSync(page, 0, 2700)
      if (!file.write(Buffer.from(page))) await new Promise((resolve) => file.once("drain", resolve))
    }
    await new Promise((resolve) => file.end(resolve))
  }
  for (let at = 0; at < 40; at++) fs.mkdirSync(path.join(folder, `base/${at}`), { recursive: true })
  for (let left = megabytes * 2 ** 20; left > 0;) {
    const bytes = Math.min(
      left,
      files % 4 === 3 && left > 32 * 2 ** 20 ? 16 * 2 ** 20 : files % 2 === 0 ? 8192 : 256 * 1024
    )
    await write(bytes)
    left -= bytes
  }
  return files
}

const median = (values: ReadonlyArray<number>): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN

const measure = (megabytes: number, home: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      const source = path.join(home, "source")
      const archive = path.join(home, "archive.tar.gz")
      const into = path.join(home, "into")
      const files = yield* Effect.promise(async () => {
        const count = await fill(emptyFolder(source), megabytes)
        await pipeline(
          create({ cwd: source, portable: true }, ["base"]),
          createGzip({ level: 1 }),
          fs.createWriteStream(archive)
        )
        fs.rmSync(source, { recursive: true })
        return count
      })
      const bytes = fs.readFileSync(archive)
      const options = { tenant, timeline, token: "t0ken", archive: bytes }
      const pageserver = yield* makeFakePageserver(options)
      const service = yield* makeFakePageService(options)
      const rounds = megabytes > 500 ? 3 : 5
      const seen = new Map<string, Array<Outcome>>()
      for (let round = 0; round < rounds; round++) {
        for (const [name, once] of [
          ["tar -xz", () => theirs(archive, into)],
          ["ours, from the file", () => ours("file", archive, into)],
          ["ours, over libpq", () => ours("libpq", pageserver.url, into)],
          ["ours, over gRPC", () => ours("grpc", service.url, into)]
        ] as const) {
          seen.set(name, [...(seen.get(name) ?? []), yield* Effect.promise(once)])
        }
      }
      yield* Console.log(
        `\n${megabytes} MB of tar in ${files} files, ${Math.round(bytes.length / 2 ** 20)} MB compressed, ` +
          `${rounds} rounds`
      )
      const base = median((seen.get("tar -xz") ?? []).map(({ millis }) => millis))
      for (const [name, outcomes] of seen) {
        const millis = median(outcomes.map((outcome) => outcome.millis))
        const peak = Math.max(...outcomes.map((outcome) => outcome.peak))
        const rate = `${Math.round(megabytes / (millis / 1000))} MB/s`
        const memory = Number.isNaN(peak) ? "" : `, at most ${Math.round(peak)} MiB of memory`
        yield* Console.log(
          `${name.padEnd(20)} ${String(Math.round(millis)).padStart(6)} ms  ${rate.padStart(9)}  ` +
            `${(millis / base).toFixed(2)} of tar${memory}`
        )
      }
    })
  )

const [, , first, way, from, into] = process.argv
if (first === "child") await Effect.runPromise(child(way as Way, from ?? "", into ?? ""))
else {
  const sizes = process.argv.slice(2).map(Number)
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "compute-bench-"))
  try {
    for (const megabytes of sizes.length > 0 ? sizes : [10, 100, 1000])
      await Effect.runPromise(measure(megabytes, home))
  } finally {
    fs.rmSync(home, { recursive: true, force: true })
  }
}
