/**
 * What a compute has around its Postgres, as the lifecycle sees it: memory and disk, extensions, file cache,
 * installed extensions, sidecars such as pgbouncer. The lifecycle says when, `lifecycle/hooks.ts` what.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { ExtensionsUnavailable, type Failure } from "../errors/Failure.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import type { OffloadState, PrewarmState } from "./prewarm.ts"
import type { Actor } from "./Supervisor.ts"

export class ComputeHooks extends Context.Service<
  ComputeHooks,
  {
    /** What Postgres needs before it starts. A failure ends the start. Runs beside the building of PGDATA. */
    readonly beforeStart: (spec: ParsedSpec) => Effect.Effect<void, Failure>
    /** Before Postgres reads the files of this spec, the first or a later one. A failure fails the start or apply. */
    readonly placeCertificate: (spec: ParsedSpec) => Effect.Effect<void, Failure>
    /** The postmaster was just spawned. */
    readonly afterSpawn: (pid: number) => Effect.Effect<void>
    /** A later spec is about to be applied to the running Postgres. A failure fails the apply. */
    readonly onSpecChanged: (spec: ParsedSpec) => Effect.Effect<void, Failure>
    /** The compute has just become `running` for the first time. */
    readonly onRunning: (spec: ParsedSpec) => Effect.Effect<void>
    /** Postgres is being stopped, or is gone: sidecars leave too. */
    readonly onStopped: Effect.Effect<void>
    /** Kept running while Postgres does. `reload`: Postgres reads its files again. */
    readonly actors: (reload: Effect.Effect<void>) => ReadonlyArray<Actor>

    // -- for the HTTP API ----------------------------------------------------------------------------------------
    /** Bytes fetched; 0 when the extension was there already. */
    readonly fetchExtension: (name: string, isLibrary: boolean) => Effect.Effect<number, Failure>
    readonly fileCache: {
      readonly prewarm: (fromEndpoint: string | null) => Effect.Effect<void, Failure>
      readonly prewarmState: Effect.Effect<PrewarmState>
      readonly cancelPrewarm: Effect.Effect<void>
      readonly offload: Effect.Effect<void, Failure>
      readonly offloadState: Effect.Effect<OffloadState>
    }
    /** Prometheus text of what is around Postgres. */
    readonly metrics: Effect.Effect<string>
  }
>()("compute/ComputeHooks") {
  /** Nothing but Postgres. */
  static readonly none: Layer.Layer<ComputeHooks> = Layer.succeed(ComputeHooks, {
    beforeStart: () => Effect.void,
    placeCertificate: () => Effect.void,
    afterSpawn: () => Effect.void,
    onSpecChanged: () => Effect.void,
    onRunning: () => Effect.void,
    onStopped: Effect.void,
    actors: () => [],
    fetchExtension: () => Effect.fail(new ExtensionsUnavailable({ missing: "store" })),
    fileCache: {
      prewarm: () => Effect.void,
      prewarmState: Effect.succeed({ status: "not_prewarmed" } as const),
      cancelPrewarm: Effect.void,
      offload: Effect.void,
      offloadState: Effect.succeed({ status: "not_offloaded" } as const)
    },
    metrics: Effect.succeed("")
  })
}
