/**
 * What the HTTP endpoint is told by the program that opens it.
 */
import type * as Duration from "effect/Duration"
import type * as Result from "effect/Result"
import type { SpecInvalid } from "../domain/Failure.ts"
import type { ParsedSpec } from "../domain/ParsedSpec.ts"
import type { Dialect } from "../plan/httpAnswer.ts"
import type { Verify } from "./Auth.ts"

export interface EndpointOptions {
  readonly dialect: Dialect
  /** Where the external port listens. `::` is every address of both families. */
  readonly host: string
  /** With 0 the system chooses a free one. */
  readonly externalPort: number
  /** Listens on loopback only, without tokens. `null`: the external port serves everything, under its own rules. */
  readonly internalPort: number | null
  /** Whether `/configure` may bring a spec: not when the spec was given at the start (2024). */
  readonly liveConfigAllowed: boolean
  readonly parseSpec: (input: unknown) => Result.Result<ParsedSpec, SpecInvalid>
  readonly computeId: string
  /** Checks a token's signature and expiry. `null`: no tokens are asked for. */
  readonly verify: Verify | null
  /** Label of `compute_ctl_up`. */
  readonly buildTag: string
  /** How long a caller may wait for the end of an order; the order itself goes on. */
  readonly patience: { readonly configure: Duration.Duration; readonly terminate: Duration.Duration }
}
