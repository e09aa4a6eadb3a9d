/**
 * The header block of the tars that bases are kept in, written and read. Pure.
 *
 * Not node-tar's `Header`, which `platform/untar.ts` reads foreign archives with: a first decode of a thousand headers
 * takes it 59 ms, and this one 12, which a start would wait for; and here every header is one that `printHeader` wrote.
 */

export const tarBlock = 512

/** What is thrown about the bytes of a tar inside a generator; `inSlices` makes it the cause of its failure. */
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

/** At most 100 bytes of name: a longer one goes before, as the content of an entry of kind `L`. */
export const printHeader = (name: string, size: number, kind: "0" | "5" | "L"): Buffer => {
  const bytes = Buffer.alloc(tarBlock)
  bytes.write(name, 0, 100, "utf8")
  bytes.write(kind === "5" ? "0000700\0" : "0000600\0", 100, "latin1")
  bytes.write("0000000\0" + "0000000\0", 108, "latin1")
  bytes.write(`${size.toString(8).padStart(11, "0")}\0`, 124, "latin1")
  bytes.write("00000000000\0", 136, "latin1")
  bytes.write("        ", 148, "latin1")
  bytes.write(kind, 156, "latin1")
  bytes.write("ustar\0" + "00", 257, "latin1")
  let sum = 0
  for (const byte of bytes) sum += byte
  bytes.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1")
  return bytes
}
