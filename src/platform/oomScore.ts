/**
 * Keeps the kernel from choosing the postmaster when memory runs out: a backend that dies costs its session, a
 * postmaster costs the compute.
 *
 * Backends would inherit the protection, so Postgres is told (by its own variables) to give it back in each of
 * them. Lowering a score takes CAP_SYS_RESOURCE; without it, or without Linux, nothing changes.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"

/** As distributions' service files protect it; -1000 would mean never, even if it is the one that grows. */
export const protectedScore = -900

const file = (pid: number | "self"): string => `/proc/${pid}/oom_score_adj`

const readScore = (pid: number | "self"): string | null => {
  try {
    return fs.readFileSync(file(pid), "utf8").trim()
  } catch {
    return null
  }
}

/** For the postmaster's environment: its backends take the score that we have ourselves. */
export const oomEnvironment: Effect.Effect<Readonly<Record<string, string>>> = Effect.sync((): Readonly<Record<string, string>> => {
  const ours = readScore("self")
  return ours === null ? {} : { PG_OOM_ADJUST_FILE: file("self"), PG_OOM_ADJUST_VALUE: ours }
})

/** Whether the process is protected now. Only for a process that was started with `oomEnvironment`. */
export const protectFromOom = Effect.fnUntraced(function*(pid: number, score = protectedScore) {
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
