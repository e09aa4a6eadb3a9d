/**
 * The program's own log lines, on stderr: plain text for people and `grep`, or one JSON object per line.
 *
 * Writes to an injected sink, so that a closed pipe is the sink's business and tests can read what was said.
 */
import * as Cause from "effect/Cause"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import type * as LogLevel from "effect/LogLevel"
import * as References from "effect/References"

export type LogFormat = "text" | "json"
export type Sink = (line: string) => void

const words = (message: unknown): string => {
  const parts = Array.isArray(message) ? message : [message]
  return parts.map((part) => typeof part === "string" ? part : part instanceof Error ? part.message : JSON.stringify(part)).join(" ")
}

const annotationsOf = (fiber: Fiber.Fiber<unknown, unknown>): Record<string, unknown> => fiber.getRef(References.CurrentLogAnnotations)

/** `2026-01-31T12:00:00.000Z  INFO {actor=monitor} message`; a cause follows on the same line, on several for a defect. */
export const textLogger = (sink: Sink): Logger.Logger<unknown, void> =>
  Logger.make((options) => {
    const annotations = Object.entries(annotationsOf(options.fiber)).map(([key, value]) => `${key}=${String(value)}`)
    const context = annotations.length === 0 ? "" : `{${annotations.join(" ")}} `
    const cause = options.cause.reasons.length === 0 ? "" : `: ${Cause.pretty(options.cause)}`
    const level = options.logLevel.toUpperCase().padStart(5)
    sink(`${options.date.toISOString()} ${level} ${context}${words(options.message)}${cause}\n`)
  })

export const jsonLogger = (sink: Sink): Logger.Logger<unknown, void> =>
  Logger.make((options) => {
    const cause = options.cause.reasons.length === 0 ? {} : { cause: Cause.pretty(options.cause) }
    sink(
      `${
        JSON.stringify({
          timestamp: options.date.toISOString(),
          level: options.logLevel.toUpperCase(),
          message: words(options.message),
          ...annotationsOf(options.fiber),
          ...cause
        })
      }\n`
    )
  })

export const logLayer = (format: LogFormat, level: LogLevel.LogLevel, sink: Sink): Layer.Layer<never> =>
  Layer.mergeAll(
    Logger.layer([format === "json" ? jsonLogger(sink) : textLogger(sink)]),
    Layer.succeed(References.MinimumLogLevel, level)
  )
