/**
 * The header block of the tars that an older version kept bases in. Pure.
 *
 * Not node-tar's `Header`, which `platform/untar.ts` reads foreign archives with: a first decode of a thousand headers
 * takes it 59 ms, and this one 12, which a start would wait for; and here every header is one that this program wrote.
 */

export const tarBlock = 512

/** What is thrown about the bytes of a tar that is being unpacked; `paced` makes it the cause of its failure. */
export class TarInvalid extends Error {}

export interface Header {
  readonly name: string
  readonly size: number
  /** `0` a file, `5` a folder, `L` the name of the next entry. */
  readonly kind: string
}

/** `null`: the block of zeros that ends a tar. */
export const parseHeader = (bytes: Buffer): Header | null => {
  let sum = 0
  for (let index = 0; index < tarBlock; index++) sum += index >= 148 && index < 156 ? 32 : (bytes[index] ?? 0)
  if (sum === 256) return null
  if (Number.parseInt(bytes.toString("latin1", 148, 156), 8) !== sum)
    throw new TarInvalid("a header's checksum is wrong")
  const name = bytes.toString("utf8", 0, 100)
  return {
    name: name.includes("\0") ? name.slice(0, name.indexOf("\0")) : name,
    size: Number.parseInt(bytes.toString("latin1", 124, 136), 8),
    kind: String.fromCharCode(bytes[156] ?? 0)
  }
}
