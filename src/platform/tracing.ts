/**
 * Whose trace something belongs to: the span that logs and child processes are given, and what is started for a caller
 * put below the caller's span.
 *
 * Without a collector and without a caller's trace, ids of spans are noise: they are neither logged nor handed on.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Tracer from "effect/Tracer"

/** Spans are sent to somebody. */
export const Tracing: Context.Reference<boolean> = Context.Reference<boolean>("compute/host/Tracing", {
  defaultValue: () => false
})

/** The span around, whether anybody follows it or not. */
export const nearestSpan = (context: Context.Context<never>): Tracer.AnySpan | undefined =>
  Context.getOrUndefined(context, Tracer.ParentSpan)

const parentOf = (span: Tracer.AnySpan): Tracer.AnySpan | undefined =>
  span._tag === "Span" ? Option.getOrUndefined(span.parent) : undefined

/** Does it go back to somebody outside this program? */
const isCallers = (span: Tracer.AnySpan): boolean => {
  const parent = parentOf(span)
  return parent === undefined ? span._tag === "ExternalSpan" : isCallers(parent)
}

/** The span around, when it is followed. */
export const spanIn = (context: Context.Context<never>): Tracer.AnySpan | undefined => {
  const span = nearestSpan(context)
  return span !== undefined && (Context.get(context, Tracing) || isCallers(span)) ? span : undefined
}

/** Runs an effect below this span, or (`null`) in traces of its own. */
export const below =
  (span: Tracer.AnySpan | null) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    span === null
      ? Effect.updateContext(
          effect,
          (context: Context.Context<R>) => Context.omit(Tracer.ParentSpan)(context) as Context.Context<NoInfer<R>>
        )
      : Effect.provideService(effect, Tracer.ParentSpan, span)

// -- W3C trace context: what goes from span to span besides ids ------------------------------------------------------

/** Under this name a span has it as an attribute, which `telemetry/otlp.ts` sends in its proper place. */
export const traceStateKey = "w3c.tracestate"

const states = new WeakMap<Tracer.AnySpan, string>()

/** What the vendors of a caller's trace want to be told again (`tracestate`). What is no such list is left out. */
export const keepTraceState = (span: Tracer.AnySpan, text: string | undefined): void => {
  if (text === undefined || !/^[\x20-\x7e]{1,512}$/.test(text) || !text.includes("=")) return
  states.set(span, text)
  if (span._tag === "Span") span.attribute(traceStateKey, text)
}

/** Its own, or that of the nearest span above it. */
export const traceStateOf = (span: Tracer.AnySpan | undefined): string | undefined =>
  span === undefined ? undefined : (states.get(span) ?? traceStateOf(parentOf(span)))

/** Version, trace, parent, flags. */
const traceparentOf = (span: Tracer.AnySpan): string =>
  `00-${span.traceId.padStart(32, "0")}-${span.spanId}-${span.sampled ? "01" : "00"}`

/** The variables by which a child process continues our trace; none when nobody follows it. */
export const traceVariables: Effect.Effect<{ readonly TRACEPARENT?: string; readonly TRACESTATE?: string }> =
  Effect.map(Effect.context<never>(), (context) => {
    const span = spanIn(context)
    const state = traceStateOf(span)
    return span === undefined
      ? {}
      : { TRACEPARENT: traceparentOf(span), ...(state === undefined ? {} : { TRACESTATE: state }) }
  })
