/**
 * The vm-monitor's arithmetic: usable memory, threshold, file cache size, means of samples (reference section 4).
 *
 * Bytes in, bytes out. The numbers and their rounding are the autoscaler's contract, so none of it may be improved.
 */

export const MiB = 1_048_576

/** The gap between a VM's nominal size and what its kernel calls the total. */
export const systemBuffer = 100 * MiB
/** What must stay free below the threshold after a downscale. */
export const downscaleBuffer = 100 * MiB
const overhead = 0.15
const cacheFraction = 0.75
const leastBesideCache = 256 * MiB
const cacheSpread = 0.1

/** Samples a mean is taken over, and how far apart they are. */
export const meanOver = 5
export const sampleEveryMillis = 100

/** Memory to plan with, given the nominal size of a message. The kernel's own total is used as it is. */
export const usableOf = (nominal: number): number => Math.max(0, nominal - systemBuffer)

/** Anonymous memory at or above this asks for more. */
export const thresholdOf = (total: number): number => Math.trunc(total * (1 - overhead))

/** How large the file cache shall be; whole MiB. */
export const cacheSizeOf = (total: number): number => {
  const available = Math.max(0, total - leastBesideCache)
  if (available === 0) return 0
  const spread = Math.trunc(available / (1 + cacheSpread))
  const normal = Math.trunc(total * cacheFraction)
  return Math.floor(Math.min(spread, normal) / MiB) * MiB
}

/** What can be set, as a count of MiB: more than the cap is an error in Postgres. */
export const cacheLimitMib = (wanted: number, cap: number): number => Math.floor(Math.min(wanted, cap) / MiB)

/** MiB as the shortest decimal that names the same 32-bit float. */
export const printMib = (bytes: number): string => {
  const value = Math.fround(Math.fround(bytes) / MiB)
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits))
    if (Math.fround(short) === value) return String(short)
  }
  return String(Number(value.toPrecision(9)))
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
