/**
 * What the vm-monitor decides: ask for more memory or not, grant a downscale or not, and in which words.
 *
 * Bytes in, bytes out: usable memory, threshold, file cache size, means of samples
 * (docs/reference/vm_monitor.md#decisions). The numbers and their rounding are the autoscaler's contract, so none of it
 * may be improved. Status texts reach the autoscaler's log and are compared byte for byte
 * (docs/reference/vm_monitor.md#downscale). Sets nothing.
 */

// -- arithmetic

export const MiB = 1_048_576

/** The gap between a VM's nominal size and what its kernel calls the total. */
const systemBuffer = 100 * MiB
/** What must stay free below the threshold after a downscale. */
const downscaleBuffer = 100 * MiB
const overhead = 0.15
const cacheFraction = 0.75
const minBesideCache = 256 * MiB
const cacheSpread = 0.1

/** Samples a mean is taken over, and how far apart they are. */
const meanOver = 5
const sampleEveryMillis = 100

/** Memory to plan with, given the nominal size of a message. The kernel's own total is used as it is. */
export const usableOf = (nominal: number): number => Math.max(0, nominal - systemBuffer)

/** Anonymous memory at or above this asks for more. */
export const thresholdOf = (total: number): number => Math.trunc(total * (1 - overhead))

/** How large the file cache shall be; whole MiB. */
export const cacheSizeOf = (total: number): number => {
  const available = Math.max(0, total - minBesideCache)
  if (available === 0) return 0
  const spread = Math.trunc(available / (1 + cacheSpread))
  const normal = Math.trunc(total * cacheFraction)
  return Math.floor(Math.min(spread, normal) / MiB) * MiB
}

/** What can be set, as a count of MiB: more than the cap is an error in Postgres. */
export const cacheLimitMib = (wanted: number, cap: number): number => Math.floor(Math.min(wanted, cap) / MiB)

/** `1.5e-7` as `0.00000015`. What is printed has few digits, and is far from where a large number gets an exponent. */
const withoutExponent = (text: string): string => {
  const [, digits = "", exponent] = /^(\d(?:\.\d+)?)e-(\d+)$/.exec(text) ?? []
  return exponent === undefined ? text : `0.${"0".repeat(Number(exponent) - 1)}${digits.replace(".", "")}`
}

/** MiB as the shortest decimal that names the same 32-bit float. */
export const printMib = (bytes: number): string => {
  const value = Math.fround(Math.fround(bytes) / MiB)
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits))
    if (Math.fround(short) === value) return withoutExponent(String(short))
  }
  return withoutExponent(String(Number(value.toPrecision(9))))
}

/** The last samples of one connection, oldest first, and how many there ever were. */
export interface Samples {
  readonly recent: ReadonlyArray<number>
  /** Of the last samples, rounded down. */
  readonly mean: number
  /** Milliseconds: when the last one was taken; before the first, when the sampling began. */
  readonly at: number
}

export const noSamples = (at: number): Samples => ({ recent: [], mean: 0, at })

export const addSample = ({ recent }: Samples, bytes: number, at: number): Samples => {
  const now = [...recent.slice(-(meanOver - 1)), bytes]
  return { recent: now, mean: Math.floor(now.reduce((sum, one) => sum + one, 0) / now.length), at }
}

/** Until the next sample is due; a tick that was missed is left out. */
export const untilNextSample = (startedAt: number, now: number): number =>
  sampleEveryMillis - (Math.max(0, now - startedAt) % sampleEveryMillis)

// -- decisions

/** A mean older than this says nothing about a downscale. */
const staleAfterMillis = 5_000
const upscaleGapMillis = 1_000
/**
 * The agent reads messages before it can handle them, so the first request waits
 * (docs/reference/vm_monitor.md#reconnecting).
 */
const firstUpscaleAfterMillis = 1_000

export interface Pressure {
  readonly mean: number
  readonly threshold: number
  /** All in milliseconds; `askedAt` is `null` before the first request of the connection. */
  readonly now: number
  readonly greetedAt: number
  readonly askedAt: number | null
}

/** One sample suffices; it repeats for as long as it is true. */
export const wantsMore = ({ askedAt, greetedAt, mean, now, threshold }: Pressure): boolean =>
  mean >= threshold &&
  now - greetedAt >= firstUpscaleAfterMillis &&
  (askedAt === null || now - askedAt >= upscaleGapMillis)

/** How far the memory of the cgroup is known. */
export type MemoryWatch =
  | { readonly _tag: "Off" }
  /** It should be known and cannot be: nothing may shrink. */
  | { readonly _tag: "Unwatchable"; readonly because: string }
  | { readonly _tag: "Watched"; readonly samples: Samples; readonly threshold: number }

/** What is set when more or less memory was granted. `null`: not managed. */
export interface Target {
  readonly usable: number
  readonly cacheBytes: number | null
  readonly threshold: number | null
}

export const targetOf = (nominal: number, watch: MemoryWatch, managesCache: boolean): Target => {
  const usable = usableOf(nominal)
  return {
    usable,
    cacheBytes: managesCache ? cacheSizeOf(usable) : null,
    threshold: watch._tag === "Watched" ? thresholdOf(usable) : null
  }
}

export type DownscaleDecision =
  /** Nothing to do, and nothing against it. */
  | { readonly _tag: "Idle"; readonly status: string }
  | { readonly _tag: "Deny"; readonly status: string }
  /** There is no answer: the sampler has failed for too long. */
  | { readonly _tag: "Unknown"; readonly because: string }
  | { readonly _tag: "Grant"; readonly target: Target }

const deny = (status: string): DownscaleDecision => ({ _tag: "Deny", status })

export const decideDownscale = (
  nominal: number,
  watch: MemoryWatch,
  managesCache: boolean,
  now: number
): DownscaleDecision => {
  if (watch._tag === "Unwatchable") return deny(`the cgroup cannot be watched: ${watch.because}`)
  if (watch._tag === "Off" && !managesCache)
    return { _tag: "Idle", status: "monitor is not managing cgroup or file cache" }
  const target = targetOf(nominal, watch, managesCache)
  if (watch._tag === "Off") return { _tag: "Grant", target }
  const { samples } = watch
  if (now - samples.at > staleAfterMillis) {
    return { _tag: "Unknown", because: `its last memory sample is ${now - samples.at} ms old` }
  }
  if (samples.recent.length <= 1) return deny("haven't received enough cgroup memory stats yet")
  const threshold = thresholdOf(target.usable)
  if (threshold < samples.mean + downscaleBuffer) {
    return deny(
      `calculated memory threshold too low: ${printMib(threshold)} MiB (new threshold) < ` +
        `${printMib(samples.mean)} (current usage) + ${printMib(downscaleBuffer)} (downscale buffer)`
    )
  }
  return { _tag: "Grant", target }
}

/** `cacheBytes` is what was really set, `before` the threshold that was. */
export const grantedStatus = (target: Target, cacheBytes: number | null, before: number | null): string => {
  const cache = cacheBytes === null ? [] : [`set file cache size to ${printMib(cacheBytes)} MiB`]
  const cgroup =
    target.threshold === null || before === null
      ? []
      : [
          `set cgroup memory threshold from ${printMib(before)} MiB to ${printMib(target.threshold)} MiB, ` +
            `of new total ${printMib(target.usable)} MiB`
        ]
  return [...cache, ...cgroup].join("; ")
}
