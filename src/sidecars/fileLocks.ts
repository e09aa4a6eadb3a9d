/**
 * Reads `/proc/locks` of Linux: who holds a `flock` on a file. Pure.
 *
 * A line is `1: FLOCK  ADVISORY  WRITE 1234 08:01:131 0 EOF`: kind, holder's pid, device (hexadecimal) and inode.
 * Lines with `->` wait for a lock and hold none.
 */

export interface FileIdentity {
  readonly inode: bigint
}

const held = /^\d+:\s+FLOCK\s+\S+\s+\S+\s+(-?\d+)\s+[0-9a-fA-F]+:[0-9a-fA-F]+:(\d+)\s/

/**
 * Pids that hold a flock on the file; 0 for a holder that our pid namespace cannot see. The device is not compared:
 * overlay and btrfs say another one here than `stat` does.
 */
export const flockHolders = (locks: string, file: FileIdentity): ReadonlyArray<number> =>
  locks.split("\n").flatMap((line) => {
    const [, pid, inode] = held.exec(line) ?? []
    return pid !== undefined && inode !== undefined && BigInt(inode) === file.inode ? [Number(pid)] : []
  })
