/**
 * What Effect's metrics have counted, in the Prometheus text format.
 *
 * Printing costs fifteen times as much as a look at the numbers, and scrapes are more frequent than events: the text is
 * kept for as long as the numbers are the same.
 */
import type * as Context from "effect/Context"
import * as Metric from "effect/Metric"
import * as PrometheusMetrics from "effect/observability/PrometheusMetrics"

/** Changes with every event. */
const numberOf = (metric: Metric.Metric.Snapshot): number | bigint => {
  switch (metric.type) {
    case "Gauge":
      return metric.state.value
    case "Frequency":
      return metric.state.occurrences.values().reduce((sum, one) => sum + one, 0)
    default:
      return metric.state.count
  }
}

export const countedText = (context: Context.Context<never>): (() => string) => {
  let text = ""
  let printed: string | null = null
  return () => {
    const numbers = Metric.snapshotUnsafe(context).map(numberOf).join()
    if (numbers !== printed) {
      text = PrometheusMetrics.formatUnsafe(context)
      printed = numbers
    }
    return text
  }
}
