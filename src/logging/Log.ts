/**
 * The program's own log lines, on stderr: plain text for people and `grep`, or one JSON object per line.
 *
 * Writes to an injected sink, so that a closed pipe is the sink's business and tests can read the lines. One line
 * is one line, whatever is in it.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import type * as LogLevel from "effect/LogLevel"
import * as References from "effect/References"
import * as Stream from "effect/Stream"
import type * as Tracer from "effect/Tracer"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { redactUrls } from "../errors/redactUrls.ts"
import { nearestSpan, spanIn } from "../platform/tracing.ts"
import { levelOfSeverity, parseRecord } from "../postgres/logRecords.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { type FilterLevel, isWanted, type LogFilter, loosest } from "./filter.ts"

export type LogFormat = "text" | "json"
/** The level is that of the line, in capitals. */
type Sink = (line: string, level: string) => void

/** Who we are, on every line: known only once there is a spec, and another with the next. Mutable on purpose. */
export interface LogContext {
  ids: Readonly<Record<string, string>>
}

export const newLogContext = (): LogContext => ({ ids: {} })

/** Ids that a spec has, by the names they are logged under. */
export const idsOf = (spec: ParsedSpec | null): LogContext["ids"] => {
  const known = {
    endpoint_id: spec?.endpointId,
    branch_id: spec?.branchId,
    project_id: spec?.projectId,
    operation_id: spec?.operationId
  }
  return Object.fromEntries(Object.entries(known).flatMap(([name, id]) => (id == null ? [] : [[name, id]])))
}

const words = (message: unknown): string => {
  const parts = Array.isArray(message) ? message : [message]
  return redactUrls(
    parts
      .map((part) => (typeof part === "string" ? part : part instanceof Error ? part.message : JSON.stringify(part)))
      .join(" ")
  )
}

const annotationsOf = (fiber: Fiber.Fiber<unknown, unknown>): Record<string, unknown> =>
  fiber.getRef(References.CurrentLogAnnotations)

const traceOf = (fiber: Fiber.Fiber<unknown, unknown>): Record<string, string> => {
  const span = spanIn(fiber.context)
  return span === undefined ? {} : { trace_id: span.traceId, span_id: span.spanId }
}

/** A tenant's text must not begin a line of its own. */
const onOneLine = (text: string): string => text.replaceAll("\r", "\\r").replaceAll("\n", "\\n")

/**
 * `2026-01-31T12:00:00.000Z  INFO message {actor=monitor}`: the message first, because that is what is read and
 * searched for. A cause follows, on several lines for a defect. The operation is left to JSON: it is long, and says
 * little here.
 */
const textLogger = (sink: Sink, context: LogContext): Logger.Logger<unknown, void> =>
  Logger.make((options) => {
    const about = Object.entries({ ...annotationsOf(options.fiber), ...context.ids, ...traceOf(options.fiber) }).filter(
      ([key]) => key !== "operation_id"
    )
    const suffix =
      about.length === 0 ? "" : ` {${about.map(([key, value]) => `${key}=${onOneLine(String(value))}`).join(" ")}}`
    const cause = options.cause.reasons.length === 0 ? "" : `: ${redactUrls(Cause.pretty(options.cause))}`
    const level = options.logLevel.toUpperCase()
    const begin = `${options.date.toISOString()} ${level.padStart(5)}`
    sink(`${begin} ${onOneLine(words(options.message))}${suffix}${cause}\n`, level)
  })

const jsonLogger = (sink: Sink, context: LogContext): Logger.Logger<unknown, void> =>
  Logger.make((options) => {
    const cause = options.cause.reasons.length === 0 ? {} : { cause: redactUrls(Cause.pretty(options.cause)) }
    sink(
      `${JSON.stringify({
        ...annotationsOf(options.fiber),
        ...context.ids,
        ...traceOf(options.fiber),
        timestamp: options.date.toISOString(),
        level: options.logLevel.toUpperCase(),
        message: words(options.message),
        ...cause
      })}\n`,
      options.logLevel.toUpperCase()
    )
  })

/** Effect's words for levels, and the filter's. */
const toLogLevel: Record<FilterLevel, LogLevel.LogLevel> = {
  trace: "Trace",
  debug: "Debug",
  info: "Info",
  warn: "Warn",
  error: "Error",
  off: "None"
}
const fromLogLevel: Record<LogLevel.LogLevel, Exclude<FilterLevel, "off">> = {
  All: "trace",
  Trace: "trace",
  Debug: "debug",
  Info: "info",
  Warn: "warn",
  Error: "error",
  Fatal: "error",
  None: "error"
}

/** The line's actor, then its spans from the nearest on; endless nesting is not followed. */
function* namesOf(fiber: Fiber.Fiber<unknown, unknown>): Iterable<string> {
  const actor = annotationsOf(fiber)["actor"]
  if (typeof actor === "string") yield actor
  let span: Tracer.AnySpan | undefined = nearestSpan(fiber.context)
  for (let depth = 0; depth < 32 && span?._tag === "Span"; depth++) {
    yield span.name
    span = span.parent._tag === "Some" ? span.parent.value : undefined
  }
}

const filtered = (filter: LogFilter, logger: Logger.Logger<unknown, void>): Logger.Logger<unknown, void> =>
  filter.modules.size === 0
    ? logger
    : Logger.make((options) => {
        if (isWanted(filter, fromLogLevel[options.logLevel], () => namesOf(options.fiber))) logger.log(options)
      })

export interface LogOptions {
  readonly format: LogFormat
  readonly filter: LogFilter
  readonly sink: Sink
  readonly context: LogContext
}

/** What a command that comes to an end has to say besides its answer: a sentence a line, to whoever typed it. */
export const commandLog = (print: (text: string) => void): Layer.Layer<never> =>
  Logger.layer([
    Logger.make((options) => {
      const cause = options.cause.reasons.length === 0 ? "" : `: ${redactUrls(Cause.pretty(options.cause))}`
      print(`${onOneLine(words(options.message))}${cause}\n`)
    })
  ])

export const logLayer = ({ context, filter, format, sink }: LogOptions): Layer.Layer<never> =>
  Layer.mergeAll(
    Logger.layer([filtered(filter, format === "json" ? jsonLogger(sink, context) : textLogger(sink, context))]),
    Layer.succeed(References.MinimumLogLevel, toLogLevel[loosest(filter)])
  )

/** Says who we are on every line, with every new spec. */
export const logNameActor = (context: LogContext): Actor<ComputeState> => ({
  name: "log name keeper",
  kind: "auxiliary",
  run: Effect.flatMap(ComputeState, (state) =>
    Stream.runForEach(
      Stream.changesWith(state.changes, (one, other) => one.spec === other.spec),
      ({ spec }) => Effect.sync(() => void (context.ids = spec === null ? context.ids : idsOf(spec)))
    )
  )
})

/**
 * Turns Postgres's records (`PG:` and one line each) into JSON objects of the same stream, on their way to `sink`. The
 * text of a record is always there, and the fields that could be read from it.
 */
export const postgresRecordsAsJson =
  (context: LogContext, sink: (text: string) => Effect.Effect<void>) => (text: string) =>
    Effect.flatMap(Clock.currentTimeMillis, (now) => {
      const timestamp = DateTime.formatIso(DateTime.makeUnsafe(now))
      const lines = text
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => {
          const { database, message, pid, severity, user } = parseRecord(line.replace(/^PG:/, ""))
          const read = Object.entries({ severity, pid, user, database }).filter(([, value]) => value !== null)
          const level = levelOfSeverity(severity)
          const fields = { source: "postgres", ...context.ids, ...Object.fromEntries(read), timestamp, level, message }
          return `${JSON.stringify(fields)}\n`
        })
      return sink(lines.join(""))
    })
