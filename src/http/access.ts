/**
 * Says at the start who is accepted by the port that the network reaches, as it is, and keeps up a condition for as
 * long as that is what nobody can want: everybody, or nobody.
 */
import * as Effect from "effect/Effect"
import type { ComputeState } from "../compute/ComputeState.ts"
import { printHostPort } from "../pgwire/address.ts"
import type { ServerOptions } from "./options.ts"

const isLoopback = (host: string): boolean => host === "localhost" || host === "::1" || host.startsWith("127.")

type Options = Pick<ServerOptions, "computeId" | "host" | "verifier">

export const tellAccess = Effect.fnUntraced(function* (
  { computeId, host, verifier }: Options,
  port: number,
  state: ComputeState["Service"]
) {
  const api = `the HTTP API on ${printHostPort({ host, port })}`
  if (verifier === null) {
    if (isLoopback(host))
      return yield* Effect.logInfo(`${api} asks for no tokens: whoever is on this machine may use it`)
    return yield* state.raise({
      code: "api_unguarded",
      message:
        `${api} asks for no tokens, so that whoever reaches this machine may reconfigure and end the compute: ` +
        "give it keys with -c or -p, or keep it on this machine with --http-host 127.0.0.1"
    })
  }
  verifier.onRotated(state.clear("api_keys_unusable"))
  const problems = verifier.problems()
  const reasons = problems.map(({ message, path }) => `${path}: ${message}`).join("; ")
  if (verifier.count() === 0) {
    return yield* state.raise({
      code: "api_keys_unusable",
      message:
        `${api} accepts nobody, because no key that it was given can verify a token` +
        (reasons === "" ? ": there is none" : ` (${reasons})`) +
        "; correct compute_ctl_config.jwks where the spec is from"
    })
  }
  if (problems.length > 0)
    yield* state.raise({
      code: "api_keys_unusable",
      message: `${api} leaves out keys that cannot verify tokens: ${reasons}`
    })
  yield* computeId === null
    ? Effect.logWarning(`${api} accepts administrators' tokens only, because this compute has no id (-i)`)
    : Effect.logInfo(`${api} accepts administrators' tokens, and those made for compute ${computeId}`)
})
