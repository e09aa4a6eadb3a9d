/**
 * What one run of the real tests shares between its files: templates of clusters, compiled sources, a place for
 * temporary files in memory.
 *
 * Vitest makes it before the first file and removes it after the last; a run that was killed leaves it to the next
 * one to sweep. Without it (a bench, one file by hand) everything works, only slower.
 */
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"

const prefix = "compute-ctl-run-"
const GiB = 1024 ** 3
/** Three files at a time, each with a few clusters and their WAL, use a fourth of it. */
const roomy = 6 * GiB

/** Where a mount point is, with its kind and its options; `null`: not there, or this system does not say. */
const mountAt = (at: string) => {
  const mounts = fs.existsSync("/proc/self/mounts") ? fs.readFileSync("/proc/self/mounts", "utf8").split("\n") : []
  const [, , kind, options] = mounts.map((line) => line.split(" ")).findLast(([, point]) => point === at) ?? []
  return kind === undefined || options === undefined ? null : { kind, options: options.split(",") }
}

/** A memory disk with room, on which programs may be run; `null` on a machine without one. */
const memoryDisk = (): string | null => {
  const at = "/dev/shm"
  const mount = mountAt(at)
  if (mount === null || mount.kind !== "tmpfs" || mount.options.includes("noexec") || mount.options.includes("ro"))
    return null
  const { bavail, bsize } = fs.statfsSync(at)
  return bavail * bsize > roomy && process.availableMemory() > roomy ? at : null
}

export interface RunFolder {
  /** Belongs to this process of vitest; not there yet. */
  readonly folder: string
  /** For the tests: where the run's folder is, and where temporary files go. */
  readonly env: Readonly<Record<string, string>>
  /** The same for those that must meet a real disk: temporary files stay where the machine has them. */
  readonly diskEnv: Readonly<Record<string, string>>
}

/** Decided when vitest starts. */
export const runFolder = (): RunFolder => {
  const memory = memoryDisk()
  const folder = path.join(memory ?? os.tmpdir(), `${prefix}${process.pid}`)
  const diskEnv = { COMPUTE_CTL_TEST_RUN: folder }
  return { folder, env: memory === null ? diskEnv : { ...diskEnv, TMPDIR: path.join(folder, "tmp") }, diskEnv }
}

/** The run's folder for a file of tests, if it was made. */
export const sharedFolder = (): string | undefined => {
  const at = process.env["COMPUTE_CTL_TEST_RUN"]
  return at !== undefined && fs.existsSync(at) ? at : undefined
}

/** Into the environment of our program when it is started from its sources: they are compiled once per run. */
export const compiledOnce = (): Readonly<Record<string, string>> => {
  const at = sharedFolder()
  return at === undefined ? {} : { NODE_COMPILE_CACHE: path.join(at, "compiled") }
}

export const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === "EPERM"
  }
}

const remove = (at: string): void => fs.rmSync(at, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })

/**
 * Shared memory that a Postgres made since then and that no process has mapped any more: a killed one leaves it, and
 * its next start, which would remove it, may be none. Whose we may not remove stays.
 */
const sweepSharedMemory = (since: number): void => {
  const at = "/dev/shm"
  if (!fs.existsSync(at)) return
  const left = fs.readdirSync(at).filter((name) => {
    const stat = fs.statSync(path.join(at, name), { throwIfNoEntry: false })
    return name.startsWith("PostgreSQL.") && stat !== undefined && stat.ctimeMs >= since
  })
  if (left.length === 0) return
  const mapped = new Set<string>()
  for (const pid of fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      for (const [, name = ""] of fs.readFileSync(`/proc/${pid}/maps`, "utf8").matchAll(/\/dev\/shm\/(\S+)/g))
        mapped.add(name)
    } catch {
      // It has left, or is somebody else's, whose shared memory we could not remove either.
    }
  }
  for (const name of left.filter((one) => !mapped.has(one))) {
    try {
      fs.rmSync(path.join(at, name), { force: true })
    } catch {
      // Another user's.
    }
  }
}

/** Vitest's global setup; the projects that use the folder name it, and the second one finds it made. */
export default function makeRunFolder(project: {
  readonly config: { readonly env: Readonly<Record<string, unknown>> }
}): () => void {
  const folder = String(project.config.env["COMPUTE_CTL_TEST_RUN"])
  for (const parent of new Set([path.dirname(folder), os.tmpdir()])) {
    for (const name of fs.readdirSync(parent)) {
      const pid = name.startsWith(prefix) ? Number(name.slice(prefix.length)) : NaN
      if (Number.isInteger(pid) && !isAlive(pid)) remove(path.join(parent, name))
    }
  }
  for (const [at, mode] of [
    [folder, 0o755],
    [path.join(folder, "tmp"), 0o1777]
  ] as const) {
    fs.mkdirSync(at, { recursive: true })
    fs.chmodSync(at, mode)
  }
  const began = Date.now()
  const end = () => {
    remove(folder)
    sweepSharedMemory(began)
  }
  process.once("exit", end)
  return end
}
