/**
 * The bounded output over a stream whose reader the test is.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import { Writable } from "node:stream"
import { boundedOutput } from "../../src/platform/boundedOutput.ts"

const limits = { buffer: 1000, reserve: 200, patience: "1 second" } as const

/** Takes everything at once while it is open, and one chunk per `read` while it is not. */
const reader = () => {
  const taken: Array<string> = []
  let open = false
  const held: Array<() => void> = []
  const stream = new Writable({
    write: (chunk: Buffer, _, done) => {
      const take = () => {
        taken.push(chunk.toString("utf8"))
        done()
      }
      if (open) take()
      else held.push(take)
    }
  })
  const read = () => {
    const take = held.shift()
    take?.()
    return new Promise<void>((resolve) => setImmediate(resolve))
  }
  return {
    output: boundedOutput(() => stream, limits),
    text: () => taken.join(""),
    read,
    readOn: () => {
      open = true
      return read()
    }
  }
}

const line = (name: string) => `${name.padEnd(99, ".")}\n`
const offerMany = (output: ReturnType<typeof reader>["output"], count: number, from = 0) =>
  Effect.forEach(
    Array.from({ length: count }, (_, index) => line(`r${from + index}`)),
    output.offer,
    { discard: true }
  )

describe("the bounded output", () => {
  it("hands on at once what a reader takes at once, so that an exit right after loses nothing", () => {
    const { output, readOn, text } = reader()
    void readOn()
    output.write("last words\n")
    assert.strictEqual(text(), "last words\n")
    assert.deepStrictEqual(output.state(), { droppedOffers: 0, droppedWrites: 0, stalled: false })
  })

  it.effect("a slow reader loses nothing: who offers waits for it", () =>
    Effect.gen(function* () {
      const { output, read, readOn, text } = reader()
      const offering = yield* Effect.forkChild(offerMany(output, 30), { startImmediately: true })
      for (let portions = 0; portions < 2; portions++) {
        yield* TestClock.adjust("900 millis")
        assert.isUndefined(offering.pollUnsafe())
        yield* Effect.promise(read)
      }
      yield* Effect.promise(readOn)
      yield* Fiber.join(offering)
      yield* output.flush
      assert.strictEqual(text().split("\n").length - 1, 30)
      assert.strictEqual(output.state().droppedOffers, 0)
    })
  )

  it.effect(
    "a reader that has stopped costs what does not fit, counted, and after one wait nobody waits any more",
    () =>
      Effect.gen(function* () {
        const { output, readOn, text } = reader()
        const offering = yield* Effect.forkChild(offerMany(output, 25), { startImmediately: true })
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(offering)
        assert.deepStrictEqual(output.state(), { droppedOffers: 15, droppedWrites: 0, stalled: true })
        // An exit does not wait for it, either.
        yield* output.flush
        // The program's own lines have a reserve, which ends as well.
        for (let own = 0; own < 3; own++) output.write(line(`own${own}`))
        assert.strictEqual(output.state().droppedWrites, 1)

        yield* Effect.promise(readOn)
        yield* output.flush
        assert.isFalse(output.state().stalled)
        yield* offerMany(output, 1, 99)
        const names = text()
          .split("\n")
          .map((written) => written.replaceAll(".", ""))
        assert.deepStrictEqual(names, [
          ...Array.from({ length: 10 }, (_, index) => `r${index}`),
          "own0",
          "own1",
          "r99",
          ""
        ])
      })
  )

  it.effect("text larger than the buffer is taken when there is nothing before it", () =>
    Effect.gen(function* () {
      const { output, readOn, text } = reader()
      yield* output.offer(`${"x".repeat(5000)}\n`)
      yield* Effect.promise(readOn)
      assert.lengthOf(text(), 5001)
    })
  )
})
