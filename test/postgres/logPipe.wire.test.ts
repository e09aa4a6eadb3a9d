/**
 * The log pipe over real processes: floods, broken bytes, endless lines, silence, a slow reader, orphans.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { helperStages } from "../../src/platform/shutdownStages.ts"
import { Spawn, type SpawnRequest } from "../../src/platform/Spawn.ts"
import { type LogSink, openLogPipe } from "../../src/postgres/LogPipe.ts"
import { eventually } from "../support/waiting.ts"

const node = (script: string): SpawnRequest => ({
  command: process.execPath,
  args: ["-e", script],
  runAs: null,
  stages: helperStages
})

const pipeOf = Effect.fnUntraced(function* (request: SpawnRequest, sink: LogSink) {
  const { spawn } = yield* Spawn
  const child = yield* spawn(request)
  const pipe = yield* openLogPipe([child.stderr, child.stdout], sink)
  return { child, pipe }
})

const collector = () => {
  const writes: Array<string> = []
  return { writes, sink: (text: string) => Effect.sync(() => void writes.push(text)) }
}

describe("the log pipe", () => {
  it.live("passes a flood on both outputs whole", () =>
    Effect.gen(function* () {
      const { sink, writes } = collector()
      const script = `for (let i = 0; i < 200000; i++) { process.stderr.write("2026-01-01 00:00:00 e" + i + "\\n")
        if (i % 2 === 0) process.stdout.write("2026-01-01 00:00:00 o" + i + "\\n") }`
      const { child, pipe } = yield* pipeOf(node(script), sink)
      yield* pipe.drained
      assert.deepStrictEqual(yield* child.exit, { _tag: "Code", code: 0 })
      const lines = writes.join("").trimEnd().split("\n")
      assert.strictEqual(lines.length, 300_000)
      const errors = lines.filter((line) => line.startsWith("PG:2026-01-01 00:00:00 e"))
      assert.deepStrictEqual(
        [errors.length, errors[0], errors.at(-1)],
        [200_000, "PG:2026-01-01 00:00:00 e0", "PG:2026-01-01 00:00:00 e199999"]
      )
      for (const write of writes)
        assert.isTrue(write.startsWith("PG:") && write.endsWith("\n"), "no record is split over two writes")
      assert.strictEqual((yield* pipe.recent).length, 30)
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("survives bytes that are not UTF-8, and keeps characters that were torn apart", () =>
    Effect.gen(function* () {
      const { sink, writes } = collector()
      const script = `const b = Buffer.from("2026-01-01 00:00:00 \u{1f418}\\n")
        const w = (x) => new Promise((r) => process.stderr.write(x, r))
        const turn = () => new Promise((r) => setImmediate(r))
        for (const byte of b) { await w(Buffer.from([byte])); await turn() }
        await w(Buffer.from([0x32, 0xff, 0xfe, 0x0a, 0xc3])); await w("\\n2026-01-01 00:00:00 end\\n")`
      const { pipe } = yield* pipeOf({ ...node(script), args: ["--input-type=module", "-e", script] }, sink)
      yield* pipe.drained
      assert.strictEqual(
        writes.join(""),
        "PG:2026-01-01 00:00:00 \u{1f418}\u200b2\ufffd\ufffd\u200b\ufffd\nPG:2026-01-01 00:00:00 end\n"
      )
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live(
    "passes a line of 3 MiB on whole, though no pipe takes it in one piece, and one of 9 MiB in marked pieces",
    () =>
      Effect.gen(function* () {
        const { sink, writes } = collector()
        const line = (mebibytes: number) =>
          node(`process.stderr.write("2026-01-01 00:00:00 " + "x".repeat(${mebibytes} << 20) + "\\n")`)
        yield* (yield* pipeOf(line(3), sink)).pipe.drained
        assert.deepStrictEqual(writes.splice(0), [`PG:2026-01-01 00:00:00 ${"x".repeat(3 << 20)}\n`])
        const { pipe } = yield* pipeOf(line(9), sink)
        yield* pipe.drained
        const pieces = writes.join("").trimEnd().split("\n")
        assert.strictEqual(pieces.length, 3)
        assert.isTrue(pieces.slice(0, -1).every((piece) => piece.endsWith(" [continues]")))
        assert.isTrue(pieces.slice(1).every((piece) => piece.startsWith("PG:[continued] ")))
        assert.strictEqual(writes.join("").replaceAll(/[^x]/g, "").length, 9 << 20)
        for (const record of yield* pipe.recent) assert.isAtMost(record.length, 2000)
      }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("lets go of a record after a silence, while the writer lives", () =>
    Effect.gen(function* () {
      const { sink, writes } = collector()
      const { child } = yield* pipeOf(
        node(`process.stderr.write("2026-01-01 00:00:00 one\\n\\ttwo\\n"); setTimeout(() => {}, 60000)`),
        sink
      )
      yield* eventually("the record came", () => writes.length === 1)
      assert.deepStrictEqual(writes, ["PG:2026-01-01 00:00:00 one\u200b\ttwo\n"])
      yield* child.signal("SIGKILL")
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("slows the writer down when its own reader is slow", () =>
    Effect.gen(function* () {
      const open = yield* Deferred.make<void>()
      let passed = 0
      const sink = (text: string) =>
        Effect.andThen(
          Deferred.await(open),
          Effect.sync(() => void (passed += text.length))
        )
      // Writes synchronously for as long as the pipe takes it, and says on stdout that it is done.
      const script = `const { writeSync } = require("fs")
        writeSync(1, "started\\n")
        for (let i = 0; i < 4000; i++) writeSync(2, "2026-01-01 00:00:00 " + "y".repeat(1000) + "\\n")`
      const { spawn } = yield* Spawn
      const child = yield* spawn(node(script))
      const pipe = yield* openLogPipe([child.stderr], sink)
      yield* Stream.runHead(child.stdout)
      // 4 MB do not fit into a pipe and a reader's buffer: it cannot have finished.
      assert.strictEqual((yield* Effect.timeoutOption(child.exit, "500 millis"))._tag, "None")
      assert.strictEqual(passed, 0)
      yield* Deferred.succeed(open, undefined)
      yield* pipe.drained
      assert.deepStrictEqual(yield* child.exit, { _tag: "Code", code: 0 })
      assert.strictEqual(passed, 4000 * (1000 + "PG:2026-01-01 00:00:00 \n".length))
    }).pipe(Effect.provide(Spawn.layer))
  )
})
