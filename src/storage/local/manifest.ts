/**
 * The list of what a base holds: every folder, and every file with its size and the digests of its pieces. Pure.
 *
 * Digests are of pieces and not of whole files, so that a file of a gigabyte in which ten pages changed is compared,
 * copied and verified by what changed. 128 bits of SHA-256 are enough against decay, which is all they are for. The
 * last line is a digest of all before it; `current.json` has a digest of the whole text.
 */
import * as Option from "effect/Option"
import { createHash, hash } from "node:crypto"

/** Digests are of pieces of this size; the last one of a file may be shorter. */
export const pieceBytes = 256 * 1024

/** Hexadecimal digits of one digest. */
const digestLength = 32

export interface FileEntry {
  readonly size: number
  /** The pieces' digests, one after the other. */
  readonly digests: string
}

export interface Manifest {
  /** Relative to the base's `pgdata/`, parents first. */
  readonly folders: ReadonlyArray<string>
  readonly files: ReadonlyMap<string, FileEntry>
}

export const digestOf = (bytes: Uint8Array): string => hash("sha256", bytes, "hex").slice(0, digestLength)

/** From here on a thread of the pool is worth the way to it. */
const longBytes = 128 * 1024

/** Of a piece; a long one off the main thread. */
export const pieceDigest = async (bytes: Buffer<ArrayBuffer>): Promise<string> =>
  bytes.length < longBytes
    ? digestOf(bytes)
    : Buffer.from(await crypto.subtle.digest("SHA-256", bytes), 0, digestLength / 2).toString("hex")

export const digestAt = (entry: FileEntry, piece: number): string =>
  entry.digests.slice(piece * digestLength, (piece + 1) * digestLength)

/** Of a whole file of ours, however long: yields between pieces of it. */
export function* textDigest(bytes: Uint8Array): Generator<void, string, void> {
  const whole = createHash("sha256")
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    whole.update(bytes.subarray(at, at + pieceBytes))
    yield
  }
  return whole.digest("hex")
}

export const sameFile = (one: FileEntry | undefined, other: FileEntry | undefined): boolean =>
  one !== undefined && other !== undefined && one.size === other.size && one.digests === other.digests

export const totalBytes = ({ files }: Manifest): number => {
  let bytes = 0
  for (const { size } of files.values()) bytes += size
  return bytes
}

const title = "compute-ctl base 1"

export function* printManifest({ files, folders }: Manifest): Generator<void, Buffer, void> {
  const parts: Array<Buffer> = []
  let text = `${title}\n`
  for (const name of folders) {
    text += `d ${JSON.stringify(name)}\n`
    yield
  }
  for (const [name, { digests, size }] of files) {
    text += `f ${size} ${digests || "-"} ${JSON.stringify(name)}\n`
    if (text.length > pieceBytes) {
      parts.push(Buffer.from(text))
      text = ""
    }
    yield
  }
  const bytes = Buffer.concat([...parts, Buffer.from(text)])
  return Buffer.concat([bytes, Buffer.from(`end ${yield* textDigest(bytes)}\n`)])
}

const nameOf = (json: string): string | null => {
  try {
    const name: unknown = JSON.parse(json)
    if (typeof name !== "string") return null
    return name.split("/").some((part) => part === "" || part === "." || part === "..") ? null : name
  } catch {
    return null
  }
}

const piecesOf = (size: number): number => Math.ceil(size / pieceBytes)

/**
 * `none`: not a whole manifest, or not ours. A generator, because a cluster of many databases has tens of thousands
 * of files: it yields between lines.
 */
export function* parseManifest(bytes: Buffer): Generator<void, Option.Option<Manifest>, void> {
  const end = bytes.lastIndexOf("\nend ")
  const body = bytes.subarray(0, end + 1)
  if (end === -1 || bytes.toString("latin1", end + 1) !== `end ${yield* textDigest(body)}\n`) return Option.none()
  const folders: Array<string> = []
  const files = new Map<string, FileEntry>()
  for (let at = 0, first = true; at < body.length; first = false) {
    const next = body.indexOf("\n", at)
    const line = body.toString("utf8", at, next)
    at = next + 1
    if (first) {
      if (line !== title) return Option.none()
      continue
    }
    const match = /^(?:d|f (\d+) (-|[0-9a-f]+)) (".*")$/.exec(line)
    const name = nameOf(match?.[3] ?? "")
    if (match === null || name === null) return Option.none()
    if (match[1] === undefined) folders.push(name)
    else {
      const size = Number(match[1])
      const digests = match[2] === "-" ? "" : (match[2] ?? "")
      if (digests.length !== piecesOf(size) * digestLength) return Option.none()
      files.set(name, { size, digests })
    }
    yield
  }
  if (!files.has("global/pg_control") || !files.has("PG_VERSION")) return Option.none()
  return Option.some({ folders, files })
}
