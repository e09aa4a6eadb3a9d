/**
 * Writes a base: a plain tar of PGDATA that any tar program can read, while Postgres may be writing to the files.
 *
 * Files that vanish are left out, files that shrink are padded with zeros, files that grow are cut: replay puts
 * all of it right. pg_control comes last, as the backup protocol asks. Links are never followed or stored.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import { FileFailed } from "../../errors/Failure.ts"
import { controlFileBytes, parseControlFile } from "../../postgres/controlFile.ts"
import { codeOf } from "./disk.ts"
import { contentRule } from "./walArchiver.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Long runs of small synchronous file operations, done a few milliseconds at a time.
//
// Thousands of small files are several times faster to handle synchronously than through the thread pool, but must
// not hold up the event loop: work is a generator that yields between steps, and between slices the loop runs.
// ---------------------------------------------------------------------------------------------------------------------

export type Steps<A> = Generator<void, A, void>

/** `urgent`: somebody waits. `quiet`: in the background, at most half of the time. */
export type Pace = "urgent" | "quiet"

const sliceMillis: Record<Pace, number> = { urgent: 8, quiet: 4 }

const letLoopRun = Effect.callback<void>((resume) => {
  const turn = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(turn))
})

const rest: Record<Pace, Effect.Effect<void>> = { urgent: letLoopRun, quiet: Effect.sleep(Duration.millis(4)) }

export const inSlices = <A>(
  operation: string,
  path: string,
  pace: Pace,
  work: () => Steps<A>
): Effect.Effect<A, FileFailed> =>
  Effect.suspend(() => {
    const steps = work()
    const slice = Effect.try({
      try: (): Option.Option<A> => {
        const until = performance.now() + sliceMillis[pace]
        do {
          const step = steps.next()
          if (step.done === true) return Option.some(step.value)
        } while (performance.now() < until)
        return Option.none()
      },
      catch: (cause) => new FileFailed({ operation, path, cause })
    })
    return Effect.gen(function* () {
      while (true) {
        const done = yield* slice
        if (Option.isSome(done)) return done.value
        yield* rest[pace]
      }
    }).pipe(
      // Closes the generator's files when we are interrupted between slices.
      Effect.ensuring(
        Effect.sync(() => {
          // oxlint-disable-next-line no-unsafe-type-assertion
          steps.return(undefined as never)
        })
      )
    )
  })

// ---------------------------------------------------------------------------------------------------------------------

export interface Packed {
  readonly bytes: number
  /** Where in the tar pg_control's content begins. */
  readonly controlOffset: number
}

const block = 512
const bufferBytes = 1024 * 1024
const controlPath = "global/pg_control"

/** Thrown inside the generator; `inSlices` makes it the cause of its failure. */
class PackFailed extends Error {}

const header = (name: string, size: number, kind: "0" | "5" | "L"): Buffer => {
  const bytes = Buffer.alloc(block)
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
      if (encoded.length > 4096) throw new PackFailed(`the name is too long: ${name}`)
      this.put(header("././@LongLink", encoded.length + 1, "L"))
      this.put(Buffer.concat([encoded, Buffer.alloc(block - (encoded.length % block))]))
    }
    this.put(header(name, size, kind))
  }
  pad(): void {
    const rest = this.position % block
    if (rest !== 0) this.put(Buffer.alloc(block - rest))
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
    if (stat.size > mostFileBytes) throw new PackFailed(`${name} has ${stat.size} bytes, more than a tar can say`)
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

/** A read can meet a write in the middle; the checksum tells, and the write is over by the next look. */
const readControl = (root: string): Buffer => {
  let problem = ""
  for (let look = 0; look < 20; look++) {
    const bytes = fs.readFileSync(`${root}/${controlPath}`)
    const parsed = parseControlFile(bytes)
    if (Result.isSuccess(parsed) && bytes.length === controlFileBytes) return bytes
    problem = Result.isFailure(parsed) ? parsed.failure : `pg_control has ${bytes.length} bytes`
  }
  throw new PackFailed(problem)
}

/** `tarPath` is made anew, and not flushLsn: the caller publishes. */
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
    tar.put(Buffer.alloc(2 * block))
    tar.flush()
    return { bytes: tar.written, controlOffset }
  } finally {
    fs.closeSync(fd)
  }
}
