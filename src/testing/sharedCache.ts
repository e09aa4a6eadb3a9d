/**
 * The folder of what computes of tests share, also between processes. Everybody may make folders among the temporary
 * files, so one that is not ours, or that others can write to, is not used.
 */
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"

const onlyOursToWrite = (folder: string, uid: number | undefined): boolean => {
  const stat = fs.lstatSync(folder)
  return stat.isDirectory() && stat.uid === uid && (stat.mode & 0o022) === 0
}

/** Made if need be. `usable`: nobody else writes to it. */
export const sharedCache = (): { readonly folder: string; readonly usable: boolean } => {
  const uid = process.geteuid?.()
  const folder = path.join(os.tmpdir(), `compute-ctl-cache-${uid ?? "user"}`)
  try {
    // Whatever our umask is: who Postgres runs as has to reach what is in it.
    if (fs.mkdirSync(folder, { recursive: true }) !== undefined) fs.chmodSync(folder, 0o755)
    return { folder, usable: onlyOursToWrite(folder, uid) }
  } catch {
    return { folder, usable: false }
  }
}
