/**
 * Counts of values by size, as Prometheus wants them. Labels and names are the caller's.
 *
 * A histogram is counted up in place: it is the one thing in `plan/` that changes, because it is counted up per request.
 */
import type { Sample } from "./prometheus.ts"

export interface Histogram {
  /** Upper ends, rising; what is larger than all is counted beyond them. */
  readonly bounds: ReadonlyArray<number>
  /** One more than `bounds`; not cumulative. */
  readonly counts: Array<number>
  sum: number
}

export const emptyHistogram = (bounds: ReadonlyArray<number>): Histogram => ({
  bounds,
  counts: Array.from({ length: bounds.length + 1 }, () => 0),
  sum: 0
})

export const observe = (histogram: Histogram, value: number): void => {
  const found = histogram.bounds.findIndex((bound) => value <= bound)
  const index = found === -1 ? histogram.bounds.length : found
  histogram.counts[index] = (histogram.counts[index] ?? 0) + 1
  histogram.sum += value
}

export const histogramOf = (bounds: ReadonlyArray<number>, values: ReadonlyArray<number>): Histogram => {
  const histogram = emptyHistogram(bounds)
  for (const value of values) observe(histogram, value)
  return histogram
}

/** Cumulative buckets, then the sum and the count. */
export const histogramSamples = (labels: Sample["labels"], { bounds, counts, sum }: Histogram): ReadonlyArray<Sample> => {
  let below = 0
  const buckets = counts.map((count, index): Sample => {
    below += count
    const bound = bounds[index]
    return { suffix: "_bucket", labels: { ...labels, le: bound === undefined ? "+Inf" : String(bound) }, value: below }
  })
  return [...buckets, { suffix: "_sum", labels, value: sum }, { suffix: "_count", labels, value: below }]
}
