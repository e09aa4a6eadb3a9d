/**
 * The paths that are answered before the API is declared, and the types of answers that are no JSON.
 *
 * `Api.ts` declares its routes with these very words.
 */

export const paths = {
  livez: "/livez",
  readyz: "/readyz",
  startupz: "/startupz",
  metrics: "/metrics",
  status: "/status"
} as const

export const metricsType = "text/plain; version=0.0.4"
export const eventsType = "text/event-stream"
export const sqlType = "text/plain; charset=utf-8"
