/**
 * Makes a folder hold exactly what a base of an older version holds, which is a tar, reusing the files that are there.
 *
 * Not `platform/untar.ts`, which reads a stream into an empty folder and trusts nobody: here the tar is our own, lies
 * on this disk and is read by position. Bases are folders now; a tar is read until the next base is made, which the
 * archiver does at once.
 */
import * as fs from "node:fs"
import type { RunAs } from "../../platform/Spawn.ts"
import type { Pacer } from "./pacing.ts"
import { parseHeader, tarBlock, TarInvalid } from "./tarHeader.ts"
import { newBuffer, type Piece, putFolders, readPiece, sweep, writeDifference, writeOver } from "./treeFiles.ts"

class TarReader {
  readonly window: Piece
  readonly pacer: Pacer
  readonly fd: number
  start = 0
  filled = 0
  constructor(pacer: Pacer, fd: number) {
    this.pacer = pacer
    this.window = newBuffer(pacer)
    this.fd = fd
  }
  /** Up to `want` bytes from `position`, at least `least`. Valid until the next call. */
  async at(position: number, want: number, least: number): Promise<Buffer> {
    const inside = position - this.start
    if (inside < 0 || inside + least > this.filled) {
      this.start = position
      this.filled = (await readPiece(this.pacer, this.fd, this.window, position, this.window.length)).length
      if (this.filled < least) throw new TarInvalid("the base ends early")
    }
    const from = position - this.start
    return this.window.subarray(from, Math.min(from + want, this.filled))
  }
}

const safeName = (name: string): string => {
  const plain = name.endsWith("/") ? name.slice(0, -1) : name
  if (plain === "" || plain.split("/").some((part) => part === "" || part === "." || part === "..")) {
    throw new TarInvalid(`the base holds a name that is not ours: ${name}`)
  }
  return plain
}

const nothing = Buffer.alloc(0)

const writeFile = (
  pacer: Pacer,
  tar: TarReader,
  position: number,
  size: number,
  path: string,
  owner: RunAs | null
): Promise<{ readonly size: number }> =>
  writeOver(pacer, path, owner, async (fd) => {
    for (let done = 0; done < size;) {
      const bytes = await tar.at(position + done, size - done, 1)
      await writeDifference(pacer, fd, done, bytes, nothing)
      done += bytes.length
      const rest = pacer.tick()
      if (rest !== null) await rest
    }
    return { size }
  })

/** `root` must exist. It keeps its inode, which is what Postgres's own interlock goes by. */
export const unpackTar = async (pacer: Pacer, tarPath: string, root: string, owner: RunAs | null): Promise<void> => {
  const fd = fs.openSync(tarPath, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW)
  try {
    const tar = new TarReader(pacer, fd)
    const kept = new Set<string>()
    let longName: string | null = null
    for (let position = 0; ;) {
      const entry = parseHeader(await tar.at(position, tarBlock, tarBlock))
      if (entry === null) break
      position += tarBlock
      if (entry.kind === "L") {
        if (entry.size > 8192) throw new TarInvalid("a long name is too long")
        longName = Buffer.from(await tar.at(position, entry.size, entry.size))
          .toString("utf8")
          .replace(/\0.*$/s, "")
      } else {
        const name = safeName(longName ?? entry.name)
        longName = null
        kept.add(name)
        if (entry.kind === "5") await putFolders(pacer, root, [name], owner)
        else await writeFile(pacer, tar, position, entry.size, `${root}/${name}`, owner)
      }
      position += Math.ceil(entry.size / tarBlock) * tarBlock
      const rest = pacer.tick()
      if (rest !== null) await rest
    }
    if (!kept.has("global/pg_control") || !kept.has("PG_VERSION"))
      throw new TarInvalid("the base is not a whole cluster")
    await sweep(pacer, root, (name) => kept.has(name))
  } finally {
    fs.closeSync(fd)
  }
}
