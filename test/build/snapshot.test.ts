import { assert, describe, it } from "@effect/vitest"
import { withoutUnusedCode } from "../../.ci/snapshot.ts"

const lengthOf = (bytes: number): Buffer => {
  const length = Buffer.alloc(8)
  length.writeUInt32LE(bytes)
  return length
}
const part = (bytes: Buffer): Buffer => Buffer.concat([lengthOf(bytes.length), bytes])
const cache = (name: string): Buffer => Buffer.concat([part(Buffer.from(name)), part(Buffer.from(`code of ${name}`))])

/** What Node 24 and 26 write: the heap, then the code of their modules. */
const heap = Buffer.from("the heap, with the word internal/repl in it and numbers: \0\x01\0\0\0\0\0\0\0\0")
const snapshotOf = (names: ReadonlyArray<string>): Buffer =>
  Buffer.concat([heap, lengthOf(names.length), ...names.map(cache)])

describe("the snapshot", () => {
  const names = [
    "http",
    ...Array.from({ length: 300 }, (_, n) => `internal/test_runner/part-${n}`),
    "internal/http2/core"
  ]

  it("is left with the code of those of Node's modules that the program loads", () => {
    const kept = withoutUnusedCode(snapshotOf(names), new Set(["http", "internal/http2/core", "of another Node"]))
    assert.deepStrictEqual(kept, snapshotOf(["http", "internal/http2/core"]))
  })

  it("stays as it is where a Node writes it in another way", () => {
    for (const other of [
      Buffer.concat([snapshotOf(names), Buffer.from("more")]),
      snapshotOf(names).subarray(0, -1),
      heap,
      Buffer.alloc(0)
    ])
      assert.isNull(withoutUnusedCode(other, new Set(names)))
  })
})
