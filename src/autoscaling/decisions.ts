/**
 * What the vm-monitor decides: ask for more memory or not, grant a downscale or not, and in which words.
 *
 * Status texts reach the autoscaler's log and are compared byte for byte (reference section 4.5). Sets nothing.
 */
import { cacheSizeOf, downscaleBuffer, printMib, type Samples, thresholdOf, usableOf } from "./vmMemory.ts"

/** A mean older than this says nothing about a downscale. */
export const staleAfterMillis = 5_000
export const upscaleGapMillis = 1_000
/** The agent reads messages before it can bear them, so the first request waits (reference section 6.4). */
export const firstUpscaleAfterMillis = 1_000

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
  mean >= threshold && now - greetedAt >= firstUpscaleAfterMillis && (askedAt === null || now - askedAt >= upscaleGapMillis)

/** How far the memory of the cgroup is known. */
export type Watch =
  | { readonly _tag: "Off" }
  /** It should be known and cannot be: nothing may shrink. */
  | { readonly _tag: "Blind"; readonly because: string }
  | { readonly _tag: "Seen"; readonly samples: Samples; readonly threshold: number }

/** What is set when more or less memory was granted. `null`: not managed. */
export interface Target {
  readonly usable: number
  readonly cacheBytes: number | null
  readonly threshold: number | null
}

export const targetOf = (nominal: number, watch: Watch, managesCache: boolean): Target => {
  const usable = usableOf(nominal)
  return {
    usable,
    cacheBytes: managesCache ? cacheSizeOf(usable) : null,
    threshold: watch._tag === "Seen" ? thresholdOf(usable) : null
  }
}

export type Downscale =
  /** Nothing to do, and nothing against it. */
  | { readonly _tag: "Idle"; readonly status: string }
  | { readonly _tag: "Deny"; readonly status: string }
  /** There is no answer: the sampler has been silent. */
  | { readonly _tag: "Unknown"; readonly because: string }
  | { readonly _tag: "Grant"; readonly target: Target }

const deny = (status: string): Downscale => ({ _tag: "Deny", status })

export const judgeDownscale = (nominal: number, watch: Watch, managesCache: boolean, now: number): Downscale => {
  if (watch._tag === "Blind") return deny(`the cgroup cannot be watched: ${watch.because}`)
  if (watch._tag === "Off" && !managesCache) return { _tag: "Idle", status: "monitor is not managing cgroup or file cache" }
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
  const cgroup = target.threshold === null || before === null ? [] : [
    `set cgroup memory threshold from ${printMib(before)} MiB to ${printMib(target.threshold)} MiB, ` +
      `of new total ${printMib(target.usable)} MiB`
  ]
  return [...cache, ...cgroup].join("; ")
}
