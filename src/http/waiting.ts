/**
 * What a watching caller may ask to wait for, and for how long. Waits for nothing itself.
 */
import * as Result from "effect/Result"
import { type Status, statuses } from "../compute/Status.ts"
import { type Dialect, type Refusal, refusal, wireStatus } from "./httpAnswer.ts"

/** Longer than this nobody waits on one request; proxies give up sooner. */
export const maxWaitMillis = 300_000
export const defaultWaitMillis = 30_000

const units = { ms: 1, s: 1_000, m: 60_000 } as const

/** `30`, `30s`, `500ms`, `2m`; a bare number is seconds, and more than the most is the most. */
export const readTimeout = (text: string | undefined): number => {
  const found = /^(\d{1,6}(?:\.\d{1,3})?)(ms|s|m)?$/.exec(text ?? "")
  if (found === null) return defaultWaitMillis
  const unit = found[2] === "ms" || found[2] === "m" ? found[2] : "s"
  return Math.min(maxWaitMillis, Number(found[1]) * units[unit])
}

/** Names of the dialect spoken, divided by commas; the 2024 dialect's `termination_pending` is both of HEAD's. */
export const readWaitFor = (dialect: Dialect, text: string): Result.Result<ReadonlyArray<Status>, Refusal> => {
  const names = text.split(",").map((name) => name.trim())
  const known = new Set(statuses.map((status) => wireStatus(dialect, status)))
  return names.every((name) => known.has(name))
    ? Result.succeed(statuses.filter((status) => names.includes(wireStatus(dialect, status))))
    : Result.fail(refusal(
      400,
      "status_unknown",
      "wait_for names a status that does not exist",
      `the statuses are ${[...known].join(", ")}`
    ))
}
