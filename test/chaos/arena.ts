/**
 * Where a run happens: a file system of its own where the machine allows it, which can then be filled, and whose power
 * can be cut; else a folder. Gone with the scope, with everything in it.
 *
 * A cut of power is the file system's own emergency stop (`EXT4_IOC_SHUTDOWN`, the same number on xfs): from then on
 * nothing reaches the device, and what was only in memory is lost, the journal's last transactions too when it is so
 * drawn. The next mount is of a new boot: computes are shown another boot id. What the device acknowledged is kept, so
 * a missing flush of the device's own cache would not be noticed.
 */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import { execFileSync, spawnSync } from "node:child_process"
import { randomUUID } from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { runAs } from "../support/postgres.ts"
import { apart } from "../support/processes.ts"
import { chance, type Found, until } from "./waiting.ts"

export interface Arena {
  /** The kit's own files; what happens to the disk does not touch them. */
  readonly home: string
  /** Storage and PGDATA are in here. */
  readonly disk: string
  readonly what: string
  /** What starts every program here. */
  readonly under: ReadonlyArray<string>
  /** The same, where it sees no process but its own; `null`: not on this machine. */
  readonly apart: ReadonlyArray<string> | null
  /** `kill` ends everybody who uses the disk. `null`: not on this machine. */
  readonly cutPower: ((kill: Effect.Effect<void>) => Effect.Effect<void, Found>) | null
  /** Takes all room but so many bytes. */
  readonly fill: ((leave: number) => void) | null
  readonly free: () => void
}

const run = (command: string, ...args: ReadonlyArray<string>): string =>
  execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })

const works = (command: string, ...args: ReadonlyArray<string>): boolean =>
  spawnSync(command, args, { stdio: "ignore" }).status === 0

const mebibytes = 1536

/** In each of them the argument after the folder is 1 (the journal is written) or 2 (it is not). */
const emergencyStop: ReadonlyArray<readonly [command: string, ...args: ReadonlyArray<string>]> = [
  [
    "perl",
    "-e",
    'open(D, "<", $ARGV[0]) or die $!; my $how = pack("L", $ARGV[1]); ioctl(D, 0x8004587d, $how) or die $!'
  ],
  [
    "python3",
    "-c",
    "import fcntl, os, struct, sys; " +
      "fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', int(sys.argv[2])))"
  ]
]

const bindBootId = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'

/** Owned by the user that Postgres runs as. */
const giveAway = (folder: string): void => {
  if (runAs !== null) fs.chownSync(folder, runAs.uid, runAs.gid)
  fs.chmodSync(folder, 0o755)
}

const fill = (disk: string) => (leave: number) => {
  const { bavail, bsize } = fs.statfsSync(disk)
  const bytes = bavail * bsize - leave
  if (bytes > 0) spawnSync("fallocate", ["-l", String(bytes), path.join(disk, "filler")], { stdio: "ignore" })
}

const folderArena = (home: string, disk: string): Arena => ({
  home,
  disk,
  what: "a folder",
  under: [],
  apart: works("env", ...apart, "true") ? apart : null,
  cutPower: null,
  fill: null,
  free: () => fs.rmSync(path.join(disk, "filler"), { force: true })
})

const memoryArena = (home: string, disk: string): Arena | null =>
  works("mount", "-t", "tmpfs", "-o", `size=${mebibytes}m`, "tmpfs", disk)
    ? { ...folderArena(home, disk), what: "a file system in memory", fill: fill(disk) }
    : null

const loopArena =
  (fileSystem: string) =>
  (home: string, disk: string): Arena | null => {
    const image = path.join(home, "image")
    fs.writeFileSync(image, "")
    fs.truncateSync(image, mebibytes * 1024 * 1024)
    const mount = () => works("mount", "-o", "loop", image, disk)
    const stop = (how: 1 | 2) => emergencyStop.some(([command, ...args]) => works(command, ...args, disk, String(how)))
    if (!works(`mkfs.${fileSystem}`, "-q", image) || !mount()) return null
    const canStop = stop(1)
    if (canStop && !(works("umount", disk) && mount())) return null
    const bootId = path.join(home, "boot_id")
    const newBoot = () => fs.writeFileSync(bootId, `${randomUUID()}\n`)
    newBoot()
    const rebooted = ["sh", "-c", bindBootId, bootId]
    const folder = folderArena(home, disk)
    const cutPower: Arena["cutPower"] = Effect.fnUntraced(function* (kill) {
      stop((yield* chance(0.5)) ? 1 : 2)
      yield* kill
      yield* until("nobody uses the disk any more", () => works("umount", disk))
      // Mounted while the old one is still attached, it would be the stopped file system again.
      yield* until("the loop device is free", () => run("losetup", "-j", image) === "")
      yield* until("the disk is mounted again", mount)
      newBoot()
    })
    return {
      ...folder,
      what: `${fileSystem} on a loop device`,
      under: ["unshare", "-m", "--", ...rebooted],
      apart: folder.apart === null ? null : [...folder.apart, ...rebooted],
      fill: fill(disk),
      cutPower: canStop ? cutPower : null
    }
  }

const unmount = (disk: string): void => {
  if (works("mountpoint", "-q", disk) && !works("umount", disk)) works("umount", "-l", disk)
}

/** The best that this machine has; only root can mount. */
const firstThatWorks = Effect.fnUntraced(function* (home: string, disk: string) {
  if (process.geteuid?.() !== 0) return folderArena(home, disk)
  for (const attempt of [...(yield* Random.shuffle([loopArena("ext4"), loopArena("xfs")])), memoryArena]) {
    const arena = attempt(home, disk)
    if (arena !== null) return arena
    unmount(disk)
  }
  return folderArena(home, disk)
})

/** `keep`: says at the end whether what is there is to stay for somebody to look at. */
export const makeArena = Effect.fnUntraced(function* (
  keep: () => boolean
): Effect.fn.Return<Arena, never, Scope.Scope> {
  const home = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-chaos-")))
  const disk = path.join(home, "disk")
  fs.chmodSync(home, 0o755)
  fs.mkdirSync(disk)
  yield* Effect.addFinalizer(() =>
    Effect.promise(async () => {
      if (keep()) return
      unmount(disk)
      await fs.promises.rm(home, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
    })
  )
  const arena = yield* firstThatWorks(home, disk)
  giveAway(disk)
  return arena
})
