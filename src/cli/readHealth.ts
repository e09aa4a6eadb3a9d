/**
 * What `compute_ctl health` is told: whom to ask, what to wait for, and for how long. Asks nobody.
 */
import * as Result from "effect/Result"
import { defaults } from "./flags.ts"
import type { Given } from "./Given.ts"
import { readPort } from "./readPorts.ts"
import { type UsageError, usageError } from "./usage.ts"

export interface HealthSettings {
  readonly host: string
  readonly port: number
  /** `null`: ask once whether it lives. */
  readonly wait: "ready" | "running" | null
  readonly timeoutMillis: number
}

const units = { ms: 1, s: 1_000, m: 60_000 } as const

const readTime = (given: Given): Result.Result<number, UsageError> => {
  const text = given.get("timeout")?.value ?? "30s"
  const found = /^(\d{1,6})(ms|s|m)?$/.exec(text)
  if (found === null) return usageError("--timeout", "--timeout expects a time such as 30s, 500ms or 2m")
  const unit = found[2] === "ms" || found[2] === "m" ? found[2] : "s"
  return Result.succeed(Number(found[1]) * units[unit])
}

export const readHealth = (given: Given): Result.Result<HealthSettings, UsageError> =>
  Result.gen(function*() {
    const wait = given.get("wait")?.value ?? null
    if (wait !== null && wait !== "ready" && wait !== "running") {
      return yield* usageError("--wait", "--wait expects ready or running")
    }
    if (wait === null && given.has("timeout")) return yield* usageError("--timeout", "--timeout goes with --wait only")
    return {
      host: given.get("http-host")?.value ?? "127.0.0.1",
      port: (yield* readPort(given, "http-port")) ?? defaults.externalHttpPort,
      wait,
      timeoutMillis: yield* readTime(given)
    }
  })
