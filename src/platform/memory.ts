/**
 * Memory and disk of the machine: the postmaster is protected from the OOM killer, and the VM's swap and disk quota are
 * set as the spec wants.
 *
 * Nothing is undone at the end: a score ends with its process, and a VM is used once.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import type { CommandFailed, SpawnFailed, TimedOut } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { runCommand } from "./processes.ts"
import type { Spawn } from "./Spawn.ts"

// The OOM killer shall not choose the postmaster when memory runs out: a backend that dies costs its session, a
// postmaster costs the compute. Backends would inherit the protection, so Postgres is told (by its own variables) to
// give it back in each of them. Lowering a score takes CAP_SYS_RESOURCE; without it, or without Linux, nothing changes.

/** As distributions' service files protect it; -1000 would mean never, even if it is the one that grows. */
const protectedScore = -900

const file = (pid: number | "self"): string => `/proc/${pid}/oom_score_adj`

const readScore = (pid: number | "self"): string | null => {
  try {
    return fs.readFileSync(file(pid), "utf8").trim()
  } catch {
    return null
  }
}

/** For the postmaster's environment: its backends take the score that we have ourselves. */
export const oomEnvironment: Effect.Effect<Readonly<Record<string, string>>> = Effect.sync(
  (): Readonly<Record<string, string>> => {
    const ours = readScore("self")
    return ours === null ? {} : { PG_OOM_ADJUST_FILE: file("self"), PG_OOM_ADJUST_VALUE: ours }
  }
)

/** Whether the process is protected now. Only for a process that was started with `oomEnvironment`. */
export const protectFromOom = Effect.fnUntraced(function* (pid: number, score = protectedScore) {
  const before = readScore(pid)
  if (before === null) return false
  if (Number(before) <= score) return true
  const refused = yield* Effect.sync(() => {
    try {
      fs.writeFileSync(file(pid), String(score))
      return null
    } catch (cause) {
      return cause instanceof Error ? cause.message : String(cause)
    }
  })
  if (refused !== null) yield* Effect.logDebug(`the postmaster is not protected from the OOM killer: ${refused}`)
  return refused === null
})

// The VM's own tools (docs/reference/compute_ctl.md#swap-and-disk-quota), used once, at the first start. They need
// root, so they go through sudo.

interface VmTools {
  readonly sudo: string
  readonly resizeSwap: string
  readonly setDiskQuota: string
}

const vmTools: VmTools = {
  sudo: "/usr/bin/sudo",
  resizeSwap: "/neonvm/bin/resize-swap",
  setDiskQuota: "/neonvm/bin/set-disk-quota"
}

/** Making swap on a slow disk takes a while. */
const swapWithin = Duration.seconds(60)
const quotaWithin = Duration.seconds(60)

type ToolFailed = SpawnFailed | CommandFailed | TimedOut

/**
 * The tool removes itself after its one use, so that a compute in a VM which was used before finds none: then the
 * swap is as that use left it, and the failure is only logged.
 */
export const resizeSwap = Effect.fn("Host.resizeSwap")(function* (
  bytes: number,
  tools: VmTools = vmTools
): Effect.fn.Return<void, ToolFailed, Spawn> {
  // `--once` has to be the first argument.
  const resizing = runCommand(
    { command: tools.sudo, args: [tools.resizeSwap, "--once", String(bytes)], runAs: null },
    swapWithin
  )
  const failure = yield* Effect.match(resizing, { onFailure: (failure) => failure, onSuccess: () => null })
  if (failure === null) return yield* Effect.logInfo(`swap was resized to ${bytes} bytes`)
  if (failure._tag !== "CommandFailed" || fs.existsSync(tools.resizeSwap)) return yield* failure
  yield* Effect.logWarning(`swap was not resized, because the tool for it is gone: ${causesOf(failure).join(": ")}`)
})

/** `mount`: where the file system is mounted. The tool counts in KiB. */
export const setDiskQuota = Effect.fn("Host.setDiskQuota")(function* (
  bytes: number,
  mount: string,
  tools: VmTools = vmTools
): Effect.fn.Return<void, ToolFailed, Spawn> {
  const args = [tools.setDiskQuota, String(Math.floor(bytes / 1024)), mount]
  yield* runCommand({ command: tools.sudo, args, runAs: null }, quotaWithin)
  yield* Effect.logInfo(`the disk quota of ${mount} was set to ${bytes} bytes`)
})
