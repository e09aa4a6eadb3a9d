/**
 * The compute's certificate in PGDATA: placed before postgresql.conf speaks of it, and again with each renewal.
 *
 * Postgres and the sidecars only read their files again; nothing is restarted or reconfigured. Which files are a pair
 * is for `pair.ts` to say.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as path from "node:path"
import type { Actor } from "../compute/Supervisor.ts"
import type { CertificateUnusable, Failure, FileFailed } from "../errors/Failure.ts"
import { replaceFile } from "../platform/files.ts"
import type { RunAs } from "../platform/Spawn.ts"
import { certificateFile, keyFile, showsCertificate } from "../postgres/postgresqlConf.ts"
import type { Tls } from "../spec/ComputeConfig.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { awaitPair, type Pair, pairWatch, warnWhenExpired } from "./pair.ts"

export interface CertificateOptions {
  readonly tls: Tls
  readonly pgdata: string
  /** Whose the files in PGDATA are; `null`: ours. */
  readonly runAs: RunAs | null
}

const checkEvery = Duration.seconds(60)

/**
 * Into PGDATA, where only Postgres's user may read it. The key goes first: with the old key, Postgres would refuse the
 * new certificate.
 */
export const placePair = Effect.fnUntraced(function* (
  pair: Pair,
  { pgdata, runAs }: Omit<CertificateOptions, "tls">
): Effect.fn.Return<void, FileFailed> {
  const owner = runAs ?? { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 }
  const put = (name: string, content: string) =>
    replaceFile({ path: path.join(pgdata, name), content, mode: 0o600, owner })
  yield* put(keyFile, Redacted.value(pair.key))
  yield* put(certificateFile, pair.certificate)
})

/**
 * SCRAM is bound to the channel by a digest of the certificate, of the kind that its signature was made with (RFC
 * 5929). Without one libpq, whose default is to bind, says `could not find digest for NID UNDEF`, and so does Postgres.
 */
const warnWhenUnbindable = ({ signedWith }: Pair, { certPath }: Tls) =>
  signedWith === null
    ? Effect.void
    : Effect.logWarning(
        `the certificate ${certPath} is signed with ${signedWith}, to which no SCRAM login can be bound: over TLS ` +
          "libpq's clients log in with channel_binding=disable only; use a certificate that is signed with RSA or ECDSA"
      )

/** Fails when there is no pair within half a minute: Postgres would refuse to start without, or stay without TLS. */
export const firstCertificate = Effect.fn("Certificate.first")(function* (
  options: CertificateOptions
): Effect.fn.Return<Pair, CertificateUnusable | FileFailed> {
  const pair = yield* awaitPair(options.tls)
  yield* placePair(pair, options)
  yield* warnWhenExpired(pair, options.tls)
  yield* warnWhenUnbindable(pair, options.tls)
  return pair
})

/** `changed` is called after a new pair is in PGDATA (reload Postgres, pgbouncer, local_proxy). */
export const certificateWatch = <E>(options: CertificateOptions, first: Pair, changed: Effect.Effect<void, E>): Actor =>
  pairWatch({
    name: "certificate watch",
    server: "Postgres",
    tls: options.tls,
    every: checkEvery,
    first,
    use: (pair) =>
      placePair(pair, options).pipe(Effect.andThen(changed), Effect.andThen(warnWhenUnbindable(pair, options.tls)))
  })

const noCertificate = Effect.logWarning(
  "the spec asks for TLS (tls_experimental), but this compute has no certificate, so Postgres stays without TLS: " +
    "give one in compute_ctl_config.tls of the configuration or of the control plane's answer"
)

/** Does nothing for a compute without a certificate, or whose spec does not ask for one. */
export class Certificates extends Context.Service<
  Certificates,
  {
    /**
     * Before Postgres reads a postgresql.conf that speaks of it. Fails within half a minute when there is no pair. One
     * that is there already stays: its renewals are the watch's.
     */
    readonly place: (spec: ParsedSpec) => Effect.Effect<void, Failure>
    /** Waits for the first pair, then watches. `changed`: Postgres and the sidecars read their files again. */
    readonly watch: (changed: Effect.Effect<void, Failure>) => Actor
  }
>()("compute/tls/Certificates") {
  /** `null`: this compute has none. */
  static readonly layer = (options: CertificateOptions | null): Layer.Layer<Certificates> =>
    Layer.effect(
      Certificates,
      Effect.gen(function* () {
        const first = yield* Deferred.make<Pair>()
        const placeFirst = (from: CertificateOptions) =>
          Effect.asVoid(Effect.flatMap(firstCertificate(from), (pair) => Deferred.succeed(first, pair)))
        return Certificates.of({
          place: Effect.fnUntraced(function* (spec) {
            if (!showsCertificate(spec.features) || (yield* Deferred.isDone(first))) return
            yield* options === null ? noCertificate : placeFirst(options)
          }),
          watch: (changed) => ({
            name: "certificate watch",
            kind: "auxiliary",
            run:
              options === null
                ? Effect.never
                : Effect.flatMap(Deferred.await(first), (pair) => certificateWatch(options, pair, changed).run)
          })
        })
      })
    )
}
