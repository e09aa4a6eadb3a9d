/**
 * The traces of this compute, sent to a collector if there is one: the start's, continued from whoever started us, and
 * those of what callers ask for later, which are theirs (`platform/tracing.ts`).
 *
 * The exporter is its own module, loaded only when it is asked for; a start without a collector evaluates none of it.
 * What could not be sent is forgotten: telemetry never holds up a compute, and its end by two seconds at most.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Tracer from "effect/Tracer"
import { keepTraceState, Tracing } from "../platform/tracing.ts"
import { type Environment, readOtlp, readTraceparent } from "./environment.ts"

export interface Telemetry {
  /** To be provided around everything that is worth a span; its scope's end sends what is left. */
  readonly layer: Layer.Layer<never>
  /** Puts an effect under the caller's span, or under one of its own when spans are sent but nobody called. */
  readonly underCaller: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  readonly warnings: ReadonlyArray<string>
}

export const telemetryOf = (env: Environment, version: string): Telemetry => {
  const { settings, warnings } = readOtlp(env)
  const caller = readTraceparent(env["TRACEPARENT"])
  const followed = Layer.succeed(Tracing, settings !== null)
  const exporter =
    settings === null
      ? Layer.empty
      : Layer.unwrap(
          Effect.tryPromise(() => import("./otlp.ts")).pipe(
            Effect.map(({ otlpLayer }) => otlpLayer(settings, version)),
            Effect.catch((failure) =>
              Effect.as(Effect.logWarning("traces are not sent: the exporter cannot be loaded", failure), Layer.empty)
            )
          )
        )
  return {
    layer: Layer.merge(followed, exporter),
    underCaller: (effect) =>
      caller !== null
        ? withParent(effect, Tracer.externalSpan(caller), env["TRACESTATE"])
        : settings === null
          ? effect
          : withRoot(effect),
    warnings
  }
}

/** The span of the whole life of the program; it ends, and is sent, with it. */
const withRoot = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.withSpan(effect, "compute_ctl") as Effect.Effect<A, E, R>

const withParent = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  span: Tracer.ExternalSpan,
  state: string | undefined
): Effect.Effect<A, E, R> => {
  keepTraceState(span, state)
  return Effect.provideService(effect, Tracer.ParentSpan, span)
}
