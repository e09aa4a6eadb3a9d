/**
 * A tar stream, unpacked into a folder of its own by node-tar; what could lead out of it is refused, not skipped.
 *
 * Takes nothing for whole that has no end marker. Owners, times and special modes of the archive do not count.
 */
import { once } from "node:events"
import * as path from "node:path"
import type { ReadEntry } from "tar/read-entry"
import { Unpack } from "tar/unpack"

/** Entries of one archive; the largest extensions have some thousands. */
const mostEntries = 200_000

const fileTypes = new Set(["File", "OldFile", "ContiguousFile"])

const shown = (name: string): string => JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}…` : name)

const leadsUp = (name: string): boolean => name.split("/").includes("..")

/** Why an entry is refused; `null`: it is not. */
const refusal = (name: string, entry: { readonly type?: string; readonly linkpath?: string }): string | null => {
  if (name.includes("\0")) return `${shown(name)} has a zero byte in its name`
  if (name.startsWith("/") || leadsUp(name)) return `${shown(name)} is outside of the archive's folder`
  const type = entry.type ?? ""
  if (fileTypes.has(type) || type === "Directory") return null
  const target = entry.linkpath ?? ""
  // `libx.so -> libx.so.1`: within one folder, so that it means the same wherever the folder's content is moved.
  if (type === "SymbolicLink" && target !== "" && !target.includes("/") && target !== "..") return null
  if (type === "Link" && target !== "" && !path.isAbsolute(target) && !leadsUp(target)) return null
  return `${shown(name)} is a ${type}${target === "" ? "" : ` to ${shown(target)}`}`
}

/** Something about the bytes: it would be the same the next time they are the same. */
export class ArchiveRefused extends Error {
  override readonly name = "ArchiveRefused"
}

/** Writes below `directory`, which is empty and ours. Rejects at the first thing that is wrong. */
export const untar = async (pieces: AsyncIterable<Uint8Array>, directory: string, mostBytes: number): Promise<void> => {
  let wrong: unknown
  let whole = false
  let entries = 0
  const fail = (reason: unknown) => void (wrong ??= reason)
  const unpack = new Unpack({
    cwd: directory,
    strict: true,
    preserveOwner: false,
    noMtime: true,
    zstd: false,
    filter: (name, entry) => {
      entries += 1
      const refused = entries > mostEntries ? "it has too many entries" : refusal(name, entry as ReadEntry)
      if (refused !== null) fail(new ArchiveRefused(refused))
      return wrong === undefined
    }
  })
  unpack.on("error", fail)
  unpack.on("ignoredEntry", () => fail(new ArchiveRefused("it has an entry of an unknown kind")))
  unpack.on("eof", () => {
    whole = true
  })
  const finished = new Promise<void>((resolve) => {
    unpack.once("finish", () => resolve())
    unpack.once("error", () => resolve())
  })
  let bytes = 0
  for await (const piece of pieces) {
    if (wrong !== undefined) throw wrong
    bytes += piece.length
    if (bytes > mostBytes) throw new ArchiveRefused(`it unpacks to more than ${mostBytes} bytes`)
    if (!whole && !unpack.write(Buffer.from(piece.buffer, piece.byteOffset, piece.length))) await Promise.race([once(unpack, "drain"), finished])
  }
  if (wrong === undefined) {
    unpack.end()
    await finished
  }
  if (wrong !== undefined) throw wrong
  if (!whole) throw new Error("the archive ends before its end marker")
}
