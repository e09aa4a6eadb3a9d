/**
 * The compute's certificate as a room: in PGDATA before Postgres starts, and kept fresh while it runs.
 *
 * Does nothing for a compute without one, or whose spec does not ask for it.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Failure } from "../errors/Failure.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { showsCertificate } from "../postgres/certificate.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { type CertificateOptions, certificateWatch, firstCertificate, type Pair } from "./Certificates.ts"

export class Certificates extends Context.Service<Certificates, {
  /** After PGDATA was built and before Postgres is started. Fails within half a minute when there is no pair. */
  readonly place: (spec: ParsedSpec) => Effect.Effect<void, Failure>
  /** Waits for the first pair, then watches. `changed`: Postgres and what is beside it read their files again. */
  readonly watch: (changed: Effect.Effect<void, Failure>) => Actor
}>()("compute/tls/Certificates") {
  /** `null`: this compute has none. */
  static readonly layer = (options: CertificateOptions | null): Layer.Layer<Certificates> =>
    Layer.effect(Certificates, Effect.gen(function*() {
      const first = yield* Deferred.make<Pair>()
      return Certificates.of({
        place: (spec) =>
          options === null || !showsCertificate(spec.features)
            ? Effect.void
            : Effect.asVoid(Effect.flatMap(firstCertificate(options), (pair) => Deferred.succeed(first, pair))),
        watch: (changed) => ({
          name: "certificate watch",
          policy: "permanent",
          run: options === null
            ? Effect.never
            : Effect.flatMap(Deferred.await(first), (pair) => certificateWatch(options, pair, changed).run)
        })
      })
    }))
}
