/**
 * Takes CopyData out of what a server sends, before the parser sees it. Pure.
 *
 * The parser holds a message until it is whole, in a buffer of its own: of a basebackup each byte would be copied
 * twice. The bytes of a copy are a stream, so that they go on as they come, and everything else goes to the parser in
 * runs that are as long as they can be.
 */

const copyData = 0x64
/** Type and length; the length counts itself. */
const headerBytes = 5

export interface Takers {
  /** A part of a message, never empty. Shares the memory of what was read. */
  readonly copy: (bytes: Uint8Array) => void
  /** All other messages, in any pieces. */
  readonly rest: (bytes: Uint8Array) => void
}

/** Answers what is to be called with each chunk of the socket's. */
export const makeSplitter = ({ copy, rest }: Takers): ((chunk: Buffer) => void) => {
  let begun: Buffer | null = null
  /** Of the message that is under way. */
  let left = 0
  let isCopy = false
  return (chunk) => {
    const bytes = begun === null ? chunk : Buffer.concat([begun, chunk])
    begun = null
    let from = 0
    let at = 0
    const hand = (to: number, take: (bytes: Uint8Array) => void): void => {
      if (to > from) take(bytes.subarray(from, to))
      from = to
    }
    while (at < bytes.length) {
      if (left === 0) {
        if (bytes.length - at < headerBytes) {
          hand(at, rest)
          begun = bytes.subarray(at)
          return
        }
        const length = bytes.readInt32BE(at + 1)
        // Not the protocol: the parser says so.
        if (length < 4) return hand(bytes.length, rest)
        isCopy = bytes[at] === copyData
        left = length - 4
        if (isCopy) hand(at, rest)
        at += headerBytes
        if (isCopy) from = at
      }
      const end = Math.min(at + left, bytes.length)
      left -= end - at
      at = end
      if (isCopy) hand(at, copy)
    }
    hand(at, rest)
  }
}
