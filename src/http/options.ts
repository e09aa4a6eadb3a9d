/**
 * What the HTTP server is given by the program that starts it: first what it takes to listen, and what comes with the
 * spec once that is found.
 */
import * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Result from "effect/Result"
import type { ComputeHooks } from "../compute/ComputeHooks.ts"
import type { Failure, SpecInvalid } from "../errors/Failure.ts"
import type { PostgresInstall } from "../postgres/PostgresInstall.ts"
import type { ApiVersion, ParsedSpec } from "../spec/ParsedSpec.ts"
import type { Verifier } from "./Verifier.ts"

/** Known from the command line. */
export interface ListenOptions {
  readonly apiVersion: ApiVersion
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
  /** `null`: no token can be made for this compute, so that only an administrator's are taken. */
  readonly computeId: string | null
  /** Names, beside addresses and localhost, by which a port without tokens may be asked; in lower case. */
  readonly allowedHosts: ReadonlySet<string>
  /** Label of `compute_ctl_up`. */
  readonly buildTag: string
  readonly version: string
  /** The last lines of our own log, oldest first; their times are ISO 8601, UTC. */
  readonly recentLog: () => ReadonlyArray<{ readonly at: string; readonly level: string; readonly message: string }>
  /** `null` until Postgres was located: the port opens before that. */
  readonly install: Effect.Effect<PostgresInstall["Service"] | null>
  /** What runs with Postgres; `null` until Postgres was located. */
  readonly hooks: Effect.Effect<ComputeHooks["Service"] | null>
  /** Prometheus text of others; read at every `/metrics`, so it has to be at hand. */
  readonly otherMetrics: () => string
  /** How long a caller may wait for the end of a command; the command itself goes on. */
  readonly timeouts: { readonly configure: Duration.Duration; readonly terminate: Duration.Duration }
}

/** Known once the spec is: the keys come with it, and the folders are named after it. */
export interface SpecOptions {
  readonly parseSpec: (input: unknown) => Result.Result<ParsedSpec, SpecInvalid>
  /** Fetches the spec again; succeeds with `null` when there is none for us any more. `null`: it has no source. */
  readonly refetch: Effect.Effect<ParsedSpec | null, Failure> | null
  /** Checks a token's signature and times. `null`: no tokens are asked for. */
  readonly verifier: Verifier | null
  /** Where Postgres's communicator answers for its metrics. */
  readonly communicatorSocket: string
}

export interface ServerOptions extends ListenOptions, SpecOptions {}

export const defaultTimeouts = { configure: Duration.minutes(10), terminate: Duration.minutes(5) } as const
