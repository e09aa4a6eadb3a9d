/**
 * Whether anybody follows our trace, and the span that logs and child processes are given then.
 *
 * Without a collector and without a caller's trace, ids of spans are noise: they are neither logged nor handed on.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Tracer from "effect/Tracer"

export const Tracing: Context.Reference<boolean> = Context.Reference<boolean>("compute/host/Tracing", {
  defaultValue: () => false
})

/** The span around, whether anybody follows it or not. */
export const nearestSpan = (context: Context.Context<never>): Tracer.AnySpan | undefined =>
  Context.getOrUndefined(context, Tracer.ParentSpan)

/** The span around, when it is followed. */
export const spanIn = (context: Context.Context<never>): Tracer.AnySpan | undefined =>
  Context.get(context, Tracing) ? nearestSpan(context) : undefined

/** W3C trace context: version, trace, parent, flags. */
const traceparentOf = (span: Tracer.AnySpan): string =>
  `00-${span.traceId.padStart(32, "0")}-${span.spanId}-${span.sampled ? "01" : "00"}`

/** The variables by which a child process continues our trace; none when nobody follows it. */
export const traceVariables: Effect.Effect<{ readonly TRACEPARENT?: string }> = Effect.map(
  Effect.context<never>(),
  (context) => {
    const span = spanIn(context)
    return span === undefined ? {} : { TRACEPARENT: traceparentOf(span) }
  }
)
