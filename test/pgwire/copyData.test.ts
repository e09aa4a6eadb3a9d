import { assert, describe, it } from "@effect/vitest"
import { makeSplitter } from "../../src/pgwire/copyData.ts"

const message = (type: string, body: string): Buffer => {
  const bytes = Buffer.alloc(5 + Buffer.byteLength(body))
  bytes.write(type)
  bytes.writeInt32BE(bytes.length - 1, 1)
  bytes.write(body, 5)
  return bytes
}

const others = [message("H", "copy"), message("N", "ddddd"), message("c", ""), message("Z", "I")] as const
const answer = Buffer.concat([
  others[0],
  message("d", "first"),
  message("d", ""),
  others[1],
  message("d", "d\0\0\0\x04second"),
  others[2],
  others[3]
])

const split = (chunks: ReadonlyArray<Buffer>) => {
  const taken = { copy: "", rest: Buffer.alloc(0), pieces: 0 }
  const take = makeSplitter({
    copy: (bytes) => {
      taken.copy += Buffer.from(bytes).toString("latin1")
      taken.pieces++
    },
    rest: (bytes) => (taken.rest = Buffer.concat([taken.rest, bytes]))
  })
  for (const chunk of chunks) take(chunk)
  return taken
}

describe("a copy", () => {
  it("is taken out of what the server sends, wherever that is cut, and everything else is left", () => {
    const rest = Buffer.concat(others)
    for (let one = 0; one < answer.length; one++)
      for (let other = one; other < answer.length; other++) {
        const taken = split([answer.subarray(0, one), answer.subarray(one, other), answer.subarray(other)])
        assert.strictEqual(taken.copy, "firstd\0\0\0\x04second", `cut at ${one} and ${other}`)
        assert.isTrue(taken.rest.equals(rest), `cut at ${one} and ${other}`)
      }
  })

  it("goes on before its message is whole", () => {
    assert.strictEqual(split([message("d", "x".repeat(100)).subarray(0, 50)]).copy, "x".repeat(45))
  })

  it("is not looked for behind what is not the protocol", () => {
    const broken = Buffer.concat([Buffer.from([0x64, 0, 0, 0, 3]), message("d", "x")])
    assert.deepStrictEqual(split([broken]), { copy: "", rest: broken, pieces: 0 })
  })
})
