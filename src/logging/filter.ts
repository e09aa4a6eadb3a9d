/**
 * Which log lines are wanted, in the words of `RUST_LOG`: `info,monitor=debug,hyper=off`. Pure.
 *
 * A module is an actor (`monitor`, `certificate watch`) or a span, with or without the verb (`Applier`,
 * `applier.execute`). Names that we do not have match nothing, so a filter written for the reference does no harm.
 */

const logLevels = ["trace", "debug", "info", "warn", "error", "off"] as const
export type FilterLevel = (typeof logLevels)[number]

export interface LogFilter {
  /** For everything that no module names. */
  readonly level: FilterLevel
  /** Module names in lower case. */
  readonly modules: ReadonlyMap<string, FilterLevel>
}

const levelOf = (text: string): FilterLevel | undefined => logLevels.find((level) => level === text)

export interface LogFilterReading {
  readonly filter: LogFilter
  /** Something in the text was a level or a module with a level. */
  readonly understood: boolean
  /** Parts that were not, and are left out. */
  readonly unread: number
}

export const parseLogFilter = (text: string, fallback: FilterLevel): LogFilterReading => {
  let level: FilterLevel | undefined
  let unread = 0
  const modules = new Map<string, FilterLevel>()
  for (const part of text
    .split(",")
    .map((one) => one.trim().toLowerCase())
    .filter((one) => one !== "")) {
    const [, name = "", threshold] = /^([^=[\]{}]+?)(?:\s*=\s*([a-z]+))?$/.exec(part) ?? []
    const wanted = levelOf(threshold ?? name)
    if (wanted === undefined) unread++
    else if (threshold === undefined) level = wanted
    else modules.set(name, wanted)
  }
  return { filter: { level: level ?? fallback, modules }, understood: level !== undefined || modules.size > 0, unread }
}

/** The loosest level of all: what has to reach the logger at all. */
export const loosest = ({ level, modules }: LogFilter): FilterLevel =>
  logLevels[Math.min(...[level, ...modules.values()].map((one) => logLevels.indexOf(one)))] ?? "off"

/** `names`: of the line's actor and spans, nearest first; the first that the filter knows decides. */
export const isWanted = (
  filter: LogFilter,
  level: Exclude<FilterLevel, "off">,
  names: () => Iterable<string>
): boolean => {
  const passes = (threshold: FilterLevel) => logLevels.indexOf(level) >= logLevels.indexOf(threshold)
  if (filter.modules.size === 0) return passes(filter.level)
  for (const name of names()) {
    const whole = name.toLowerCase()
    const found = filter.modules.get(whole) ?? filter.modules.get(whole.split(".")[0] ?? whole)
    if (found !== undefined) return passes(found)
  }
  return passes(filter.level)
}
