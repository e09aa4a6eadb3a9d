/**
 * Writes a base: a plain tar of PGDATA that any tar program can read, while Postgres may be writing to the files.
 *
 * Files that vanish are left out, files that shrink are padded with zeros, files that grow are cut: replay puts
 * all of it right. pg_control comes last, as the backup protocol asks. Links are never followed or stored.
 */
import * as Result from "effect/Result"
import * as fs from "node:fs"
import { codeOf } from "../../errors/errno.ts"
import { controlFileBytes, parseControlFile } from "../../postgres/controlFile.ts"
import { contentRule } from "./basePolicy.ts"
import type { Steps } from "./slices.ts"
import { printHeader, tarBlock, TarInvalid } from "./tarHeader.ts"

export interface Packed {
  readonly bytes: number
  /** Where in the tar pg_control's content begins. */
  readonly controlOffset: number
}

const bufferBytes = 1024 * 1024
const controlPath = "global/pg_control"

/** Octal in eleven digits ends here; Postgres splits relations into files of 1 GiB. */
const mostFileBytes = 8 * 1024 * 1024 * 1024 - 1

class TarWriter {
  readonly buffer = Buffer.allocUnsafe(bufferBytes)
  readonly fd: number
  filled = 0
  written = 0
  constructor(fd: number) {
    this.fd = fd
  }
  get position(): number {
    return this.written + this.filled
  }
  flush(): void {
    for (let at = 0; at < this.filled;) at += fs.writeSync(this.fd, this.buffer, at, this.filled - at)
    this.written += this.filled
    this.filled = 0
  }
  put(bytes: Buffer): void {
    if (this.filled + bytes.length > bufferBytes) this.flush()
    bytes.copy(this.buffer, this.filled)
    this.filled += bytes.length
  }
  name(name: string, size: number, kind: "0" | "5"): void {
    const encoded = Buffer.from(name, "utf8")
    if (encoded.length > 100) {
      if (encoded.length > 4096) throw new TarInvalid(`the name is too long: ${name}`)
      this.put(printHeader("././@LongLink", encoded.length + 1, "L"))
      this.put(Buffer.concat([encoded, Buffer.alloc(tarBlock - (encoded.length % tarBlock))]))
    }
    this.put(printHeader(name, size, kind))
  }
  pad(): void {
    const rest = this.position % tarBlock
    if (rest !== 0) this.put(Buffer.alloc(tarBlock - rest))
  }
}

const openOrNull = (path: string): number | null => {
  try {
    return fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK)
  } catch (cause) {
    if (codeOf(cause) === "ENOENT") return null
    throw cause
  }
}

function* packFile(tar: TarWriter, root: string, name: string): Steps<void> {
  const fd = openOrNull(`${root}/${name}`)
  if (fd === null) return
  try {
    const stat = fs.fstatSync(fd)
    if (!stat.isFile()) return
    if (stat.size > mostFileBytes) throw new TarInvalid(`${name} has ${stat.size} bytes, more than a tar can say`)
    tar.name(name, stat.size, "0")
    for (let left = stat.size; left > 0;) {
      if (tar.filled === bufferBytes) {
        tar.flush()
        yield
      }
      const want = Math.min(left, bufferBytes - tar.filled)
      const got = fs.readSync(fd, tar.buffer, tar.filled, want, null)
      // Shrunk since we looked: the header has promised a size, so zeros take the place.
      if (got === 0) tar.buffer.fill(0, tar.filled, tar.filled + want)
      tar.filled += got === 0 ? want : got
      left -= got === 0 ? want : got
    }
    tar.pad()
  } finally {
    fs.closeSync(fd)
  }
}

function* packFolder(tar: TarWriter, root: string, folder: string): Steps<void> {
  let entries: ReadonlyArray<fs.Dirent>
  try {
    entries = fs.readdirSync(`${root}/${folder}`, { withFileTypes: true })
  } catch (cause) {
    if (codeOf(cause) === "ENOENT" && folder !== "") return
    throw cause
  }
  for (const entry of entries) {
    const name = folder === "" ? entry.name : `${folder}/${entry.name}`
    // pg_wal is a link, and yet belongs into a base as an empty folder: readers of the tar expect one.
    const isFolder = entry.isDirectory() || name === "pg_wal"
    if (name === controlPath || !(isFolder || entry.isFile())) continue
    const rule = contentRule(name, isFolder ? "directory" : "file")
    if (rule === "skip") continue
    if (isFolder) {
      tar.name(`${name}/`, 0, "5")
      if (rule === "copy") yield* packFolder(tar, root, name)
    } else {
      yield* packFile(tar, root, name)
    }
    yield
  }
}

/** A read can meet a write in the middle; the checksum shows it, and the write is over by the next look. */
const readControl = (root: string): Buffer => {
  let problem = ""
  for (let look = 0; look < 20; look++) {
    const bytes = fs.readFileSync(`${root}/${controlPath}`)
    const parsed = parseControlFile(bytes)
    if (Result.isSuccess(parsed) && bytes.length === controlFileBytes) return bytes
    problem = Result.isFailure(parsed) ? parsed.failure : `pg_control has ${bytes.length} bytes`
  }
  throw new TarInvalid(problem)
}

/** `tarPath` is made anew, and not flushed: the caller publishes. */
export function* packTar(root: string, tarPath: string): Steps<Packed> {
  const { O_CREAT, O_NOFOLLOW, O_TRUNC, O_WRONLY } = fs.constants
  const fd = fs.openSync(tarPath, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o600)
  try {
    const tar = new TarWriter(fd)
    yield* packFolder(tar, root, "")
    const control = readControl(root)
    tar.name(controlPath, control.length, "0")
    const controlOffset = tar.position
    tar.put(control)
    tar.pad()
    tar.put(Buffer.alloc(2 * tarBlock))
    tar.flush()
    return { bytes: tar.written, controlOffset }
  } finally {
    fs.closeSync(fd)
  }
}
