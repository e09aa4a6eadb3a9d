/**
 * What the HTTP endpoint is told by the program that opens it.
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Result from "effect/Result"
import type { Failure, SpecInvalid } from "../errors/Failure.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import type { PostgresInstall } from "../postgres/PostgresInstall2.ts"
import type { Outfit } from "../compute/ComputeHooks.ts"
import type { Dialect } from "./httpAnswer.ts"
import type { Verifier } from "./Verifier.ts"

export interface EndpointOptions {
  readonly dialect: Dialect
  /** Where the external port listens. `::` is every address of both families. */
  readonly host: string
  /** With 0 the system chooses a free one. */
  readonly externalPort: number
  /** Listens on loopback only, without tokens. `null`: the external port serves everything, under its own rules. */
  readonly internalPort: number | null
  /** Files of the external port's certificate, read again when they change. `null`: plain HTTP. */
  readonly tls: { readonly certPath: string; readonly keyPath: string } | null
  /** Whether `/configure` may bring a spec: not when the spec was given at the start (2024). */
  readonly liveConfigAllowed: boolean
  readonly parseSpec: (input: unknown) => Result.Result<ParsedSpec, SpecInvalid>
  /** Looks for the spec where it came from. A spec of `null`: there is none for us any more. `null`: it came from nowhere. */
  readonly refetch: Effect.Effect<ParsedSpec | null, Failure> | null
  readonly computeId: string
  /** Checks a token's signature and times. `null`: no tokens are asked for. */
  readonly verifier: Verifier | null
  /** Label of `compute_ctl_up`. */
  readonly buildTag: string
  readonly version: string
  /** `null` until Postgres was looked for: the port opens before that. */
  readonly install: Effect.Effect<PostgresInstall["Service"] | null>
  /** What is around Postgres; `null` until Postgres was looked for. */
  readonly outfit: Effect.Effect<Outfit["Service"] | null>
  /** Prometheus text of others; read at every `/metrics`, so it has to be at hand. */
  readonly otherMetrics: () => string
  /** Where Postgres's communicator answers for its metrics. */
  readonly communicatorSocket: string
  /** How long a caller may wait for the end of an order; the order itself goes on. */
  readonly patience: { readonly configure: Duration.Duration; readonly terminate: Duration.Duration }
}
