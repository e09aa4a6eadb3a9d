/**
 * Files that two trees share by second names, because nobody ever writes to them: the base of a timeline with its seed
 * cluster, and with that of its branches. Where the file system has no second names they are copied.
 *
 * Who writes to a file of a tree makes sure first that it has one name (`treeFiles.ts`).
 */
import * as fs from "node:fs"
import { codeOf } from "../../errors/errno.ts"
import type { RunAs } from "../../platform/Spawn.ts"
import type { Pacer } from "./pacing.ts"

/** False where the file system has no second names, or none for this file. */
const link = (from: string, to: string): boolean => {
  try {
    fs.linkSync(from, to)
    return true
  } catch (cause) {
    if (["EPERM", "EXDEV", "EMLINK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"].includes(codeOf(cause) ?? "")) return false
    throw cause
  }
}

const copyFlushed = async (from: string, to: string, owner: RunAs | null): Promise<void> => {
  await fs.promises.copyFile(from, to, fs.constants.COPYFILE_FICLONE)
  const handle = await fs.promises.open(to, "r+")
  try {
    if (owner !== null) await handle.chown(owner.uid, owner.gid)
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** `names` are relative to both folders; those to put them in are there. What is copied is flushed. */
export const shareFiles = async (
  pacer: Pacer,
  from: string,
  to: string,
  names: Iterable<string>,
  owner: RunAs | null
): Promise<void> => {
  const copies: Array<string> = []
  for (const name of names) {
    if (!link(`${from}/${name}`, `${to}/${name}`)) copies.push(name)
    const rest = pacer.tick()
    if (rest !== null) await rest
  }
  for (const name of copies) await copyFlushed(`${from}/${name}`, `${to}/${name}`, owner)
}
