/**
 * Gives a file new content, in one piece where the folder lets us.
 *
 * The new file has the old one's mode and owner, unless others are asked for. In a folder that is not ours to write
 * to, a file that is ours is written in place.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import { FileFailed } from "../errors/Failure.ts"

export interface Replacement {
  readonly path: string
  readonly content: string | Uint8Array
  /** Of a file that is new; also of one that is replaced, when `owner` is given. */
  readonly mode: number
  /** `null`: whoever had it, or we ourselves. */
  readonly owner: { readonly uid: number; readonly gid: number } | null
}

/** Folders that we may not write to, or that cannot be written to at all. */
const locked = new Set(["EACCES", "EPERM", "EROFS", "EBUSY"])
const codeOf = (cause: unknown): string => (cause instanceof Error && "code" in cause ? String(cause.code) : "")

const writeBeside = async ({ content, mode, owner, path }: Replacement): Promise<void> => {
  const before = await fs.stat(path).catch(() => null)
  const beside = `${path}.new`
  await fs.rm(beside, { force: true })
  const file = await fs.open(beside, "wx", 0o600)
  try {
    await file.writeFile(content)
    const keeper = owner ?? before
    if (keeper !== null && process.geteuid?.() === 0) await file.chown(keeper.uid, keeper.gid)
    await file.chmod(owner === null && before !== null ? before.mode & 0o7777 : mode)
    await file.datasync()
  } finally {
    await file.close()
  }
  await fs.rename(beside, path).catch(async (cause: unknown) => {
    await fs.rm(beside, { force: true })
    throw cause
  })
}

const replace = async (wanted: Replacement): Promise<boolean> => {
  const content = Buffer.from(wanted.content)
  const before = await fs.readFile(wanted.path).catch(() => null)
  if (before !== null && before.equals(content)) return false
  try {
    await writeBeside(wanted)
  } catch (cause) {
    if (before === null || !locked.has(codeOf(cause))) throw cause
    await fs.writeFile(wanted.path, content)
  }
  return true
}

/** Was there anything to change? */
export const replaceFile = (wanted: Replacement): Effect.Effect<boolean, FileFailed> =>
  Effect.tryPromise({
    try: () => replace(wanted),
    catch: (cause) => new FileFailed({ operation: "write", path: wanted.path, cause })
  })
