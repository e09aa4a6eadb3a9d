/**
 * Swap and disk quota of the VM, set by its own tools as the spec wants (reference section 4.4). Once, at the first
 * start; the tools need root, so they go through sudo.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import type { CommandFailed, SpawnFailed, TimedOut } from "../errors/Failure.ts"
import { causesOf } from "../errors/explain.ts"
import { runCommand } from "./run.ts"
import type { Spawn } from "./Spawn.ts"

export interface VmTools {
  readonly sudo: string
  readonly resizeSwap: string
  readonly setDiskQuota: string
}

export const vmTools: VmTools = {
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
 * swap is as that use left it, and its failure is only told.
 */
export const resizeSwap = Effect.fn("Host.resizeSwap")(function*(
  bytes: number,
  tools: VmTools = vmTools
): Effect.fn.Return<void, ToolFailed, Spawn> {
  // `--once` has to be the first argument.
  const resizing = runCommand({ command: tools.sudo, args: [tools.resizeSwap, "--once", String(bytes)], runAs: null }, swapWithin)
  const failure = yield* Effect.match(resizing, { onFailure: (failure) => failure, onSuccess: () => null })
  if (failure === null) return yield* Effect.logInfo(`swap was resized to ${bytes} bytes`)
  if (failure._tag !== "CommandFailed" || fs.existsSync(tools.resizeSwap)) return yield* failure
  yield* Effect.logWarning(`swap was not resized, because the tool for it is gone: ${causesOf(failure).join(": ")}`)
})

/** `mount`: where the file system is mounted. The tool counts in KiB. */
export const setDiskQuota = Effect.fn("Host.setDiskQuota")(function*(
  bytes: number,
  mount: string,
  tools: VmTools = vmTools
): Effect.fn.Return<void, ToolFailed, Spawn> {
  const args = [tools.setDiskQuota, String(Math.floor(bytes / 1024)), mount]
  yield* runCommand({ command: tools.sudo, args, runAs: null }, quotaWithin)
  yield* Effect.logInfo(`the disk quota of ${mount} was set to ${bytes} bytes`)
})
