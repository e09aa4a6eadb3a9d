/**
 * Lets child processes leave core dumps (reference section 1.3): raises our own limit, which they inherit.
 *
 * Node has no call for it, so `prlimit` does it to our pid. Where that is missing or not allowed it is told, and
 * nothing else happens: a compute without core dumps is still a compute.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { causesOf } from "../errors/explain.ts"
import { runCommand } from "../platform/run.ts"
import type { Spawn } from "../platform/Spawn.ts"

const prlimit = (pid: number, ...args: ReadonlyArray<string>) =>
  Effect.result(runCommand({ command: "prlimit", args: ["--pid", String(pid), ...args], runAs: null }, "5 seconds"))

/** Soft and hard limit to unlimited; where only root may, the soft limit to the hard one. */
export const liftCoreLimit: (pid: number) => Effect.Effect<void, never, Spawn> = Effect.fn("Host.liftCoreLimit")(function*(pid) {
  const lifted = yield* prlimit(pid, "--core=unlimited:unlimited")
  if (Result.isSuccess(lifted)) return
  const asked = yield* prlimit(pid, "--core", "--output=HARD", "--noheadings", "--raw")
  const hard = Result.isSuccess(asked) ? asked.success.stdout.trim() : "0"
  const raised = hard === "0" ? lifted : yield* prlimit(pid, `--core=${hard}:`)
  if (Result.isFailure(raised)) {
    yield* Effect.logWarning(`core dumps stay limited as they were: ${causesOf(raised.failure).join(": ")}`)
  } else {
    yield* Effect.logInfo(`core dumps may have ${hard} bytes; only root can allow more`)
  }
})
