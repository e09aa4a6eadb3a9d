/**
 * Durations as people write them on a command line and in a query: `30`, `30s`, `500ms`, `2m`, `1.5s`. A file of its
 * own because the HTTP API and `compute_ctl health` must read them alike.
 */

const unitMillis = { ms: 1, s: 1_000, m: 60_000 } as const

/** Milliseconds; a bare number is seconds. `null`: it is no duration. */
export const parseMillis = (text: string): number | null => {
  const found = /^(\d{1,6}(?:\.\d{1,3})?)(ms|s|m)?$/.exec(text)
  if (found === null) return null
  const unit = found[2] === "ms" || found[2] === "m" ? found[2] : "s"
  return Number(found[1]) * unitMillis[unit]
}
