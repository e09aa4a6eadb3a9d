/**
 * What is wrong with a command line: one sentence that names the flag, and maybe the flag that was meant.
 *
 * The caller prints it on stderr and exits with 2. Values are not repeated: they may be specs or URLs with passwords.
 */
import * as Result from "effect/Result"
import { flags } from "./flags.ts"

export interface UsageError {
  /** As typed: `-D`, `--pgdata`; `null` when it is about the whole line. */
  readonly flag: string | null
  readonly message: string
}

export const usageError = (flag: string | null, message: string): Result.Result<never, UsageError> =>
  Result.fail({ flag, message })

export const printUsageError = (error: UsageError): string =>
  `compute_ctl: ${error.message}; try compute_ctl --help\n`

/** The nearest known long flag, when it is near enough to have been meant. */
export const meant = (name: string): string | null => {
  const known = [...new Set<string>(flags.map((flag) => flag.name))]
  const whole = name.toLowerCase().replaceAll("_", "-")
  const starts = known.filter((flag) => whole.length >= 3 && flag.startsWith(whole))
  if (starts.length === 1) return starts[0] ?? null
  const near = known
    .map((flag) => ({ flag, steps: editDistance(whole, flag) }))
    .filter(({ flag, steps }) => steps <= Math.min(Math.max(2, flag.length / 4), flag.length / 2))
    .sort((a, b) => a.steps - b.steps)
  return near[0]?.flag ?? null
}

/** Letters to add, drop or change. */
const editDistance = (from: string, to: string): number => {
  if (from.length > 64) return from.length
  let row = Array.from({ length: to.length + 1 }, (_, index) => index)
  for (let i = 1; i <= from.length; i += 1) {
    const next = [i]
    for (let j = 1; j <= to.length; j += 1) {
      const change = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1)
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[to.length] ?? 0
}
