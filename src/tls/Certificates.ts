/**
 * The compute's TLS certificate: watched where somebody else renews it, and given to Postgres as a pair that fits.
 *
 * A certificate and a key that do not belong together are never put in place: they are halves of a renewal that is
 * under way. Any kind of key that OpenSSL knows will do. A change makes Postgres read its files again; it restarts
 * and reconfigures nothing.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as crypto from "node:crypto"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import type { Actor } from "../compute/Supervisor.ts"
import { CertificateUnusable, type Failure, type FileFailed } from "../errors/Failure.ts"
import { replaceFile } from "../platform/files.ts"
import type { RunAs } from "../platform/Spawn.ts"
import { certificateFile, keyFile, showsCertificate } from "../postgres/postgresqlConf.ts"
import type { Tls } from "../spec/ComputeConfig.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

const block = (label: string) => new RegExp(`-----BEGIN ${label}-----[\\s\\S]*?-----END ${label}-----`)

/** The first certificate of a chain: the one the key belongs to. `null`: there is none. */
export const leafOf = (chain: string): string | null => block("CERTIFICATE").exec(chain)?.[0] ?? null

/** What is wrong with the key's file at first sight; `null`: nothing. */
export const keyFault = (pem: string): string | null => {
  const [, label] = /-----BEGIN ((?:[A-Z]+ )*PRIVATE KEY)-----/.exec(pem) ?? []
  if (label === undefined) return "the key file holds no PEM private key"
  const encrypted = label === "ENCRYPTED PRIVATE KEY" || /^Proc-Type: 4,ENCRYPTED/m.test(pem)
  return encrypted ? "the key needs a passphrase, and nobody could give one" : null
}

/** A certificate (PEM, with its chain) and the key that belongs to it. */
export interface Pair {
  readonly certificate: string
  readonly key: Redacted.Redacted<string>
  /** Of both files; what a watcher compares. */
  readonly digest: string
  /** Milliseconds since the epoch. */
  readonly expiresAt: number
}

export interface CertificateOptions {
  readonly tls: Tls
  readonly pgdata: string
  /** Whose the files in PGDATA are; `null`: ours. */
  readonly runAs: RunAs | null
}

/** A renewal is two files one after the other, so a pair that does not fit is read again for this long. */
const renewalWithin = Duration.seconds(30)
const retryEvery = Duration.seconds(1)
const checkEvery = Duration.seconds(60)

const read = (file: string, what: "certificate" | "key", certificate: string) =>
  Effect.tryPromise({
    try: () => fs.readFile(file, "utf8"),
    catch: (cause) => new CertificateUnusable({ certificate, detail: `its ${what} file ${file} cannot be read`, cause })
  })

/** Both files as they are now. Fails when they are not a pair. */
export const readPair = Effect.fnUntraced(function* (tls: Tls): Effect.fn.Return<Pair, CertificateUnusable> {
  const certificate = yield* read(tls.certPath, "certificate", tls.certPath)
  const key = yield* read(tls.keyPath, "key", tls.certPath)
  const refuse = (detail: string, cause?: unknown) =>
    new CertificateUnusable({ certificate: tls.certPath, detail, ...(cause === undefined ? {} : { cause }) })
  const leaf = leafOf(certificate)
  if (leaf === null) return yield* refuse("the file holds no PEM certificate")
  const fault = keyFault(key)
  if (fault !== null) return yield* refuse(fault)
  const parsed = yield* Effect.try({
    try: () => new crypto.X509Certificate(leaf),
    catch: (cause) => refuse("it cannot be parsed", cause)
  })
  const fits = yield* Effect.try({
    try: () => parsed.checkPrivateKey(crypto.createPrivateKey(key)),
    // OpenSSL's message names the fault and never the key.
    catch: (cause) => refuse("its key cannot be parsed", cause)
  })
  if (!fits) return yield* refuse(`the key in ${tls.keyPath} belongs to another certificate`)
  return {
    certificate,
    key: Redacted.make(key, { label: "TLS key" }),
    digest: crypto.createHash("sha256").update(certificate).update("\0").update(key).digest("hex"),
    expiresAt: parsed.validToDate.getTime()
  }
})

/** Reads again every second, for at most `limit`, while the files are no pair. */
export const awaitPair = (
  tls: Tls,
  limit: Duration.Duration = renewalWithin
): Effect.Effect<Pair, CertificateUnusable> =>
  readPair(tls).pipe(
    Effect.retry({
      schedule: Schedule.spaced(retryEvery),
      times: Math.floor(Duration.toMillis(limit) / Duration.toMillis(retryEvery))
    })
  )

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

const warnWhenExpired = Effect.fnUntraced(function* (pair: Pair, { certPath }: Tls) {
  const now = yield* Clock.currentTimeMillis
  if (pair.expiresAt < now)
    yield* Effect.logWarning(`the certificate ${certPath} has expired; clients that check it will turn away`)
})

/** Before Postgres starts. Fails when there is no pair within half a minute: Postgres would refuse to start without. */
export const firstCertificate = Effect.fn("Certificate.first")(function* (
  options: CertificateOptions
): Effect.fn.Return<Pair, CertificateUnusable | FileFailed> {
  const pair = yield* awaitPair(options.tls)
  yield* placePair(pair, options)
  yield* warnWhenExpired(pair, options.tls)
  return pair
})

/**
 * While Postgres runs, beginning with the pair that is in place. `changed` is called after a new pair is in PGDATA
 * (reload Postgres, pgbouncer, local_proxy). What cannot be used is logged once, and the old pair stays in use.
 */
export const certificateWatch = <E>(
  options: CertificateOptions,
  first: Pair,
  changed: Effect.Effect<void, E>
): Actor => ({
  name: "certificate watch",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    let digest = first.digest
    let lastError: string | null = null
    while (true) {
      yield* Effect.sleep(checkEvery)
      const next = yield* Effect.result(awaitPair(options.tls))
      if (next._tag === "Failure") {
        if (next.failure.message !== lastError)
          yield* Effect.logWarning(`the old certificate goes on serving: ${next.failure.message}`)
        lastError = next.failure.message
        continue
      }
      lastError = null
      const pair = next.success
      if (pair.digest === digest) continue
      const done = yield* Effect.result(Effect.andThen(placePair(pair, options), changed))
      if (done._tag === "Failure") {
        yield* Effect.logError(
          `the new certificate ${options.tls.certPath} could not be taken up and is tried again`,
          done.failure
        )
        continue
      }
      digest = pair.digest
      yield* Effect.logInfo(`the certificate ${options.tls.certPath} was renewed`)
      yield* warnWhenExpired(pair, options.tls)
    }
  })
})

/** Does nothing for a compute without a certificate, or whose spec does not ask for one. */
export class Certificates extends Context.Service<
  Certificates,
  {
    /** After PGDATA was built and before Postgres is started. Fails within half a minute when there is no pair. */
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
        return Certificates.of({
          place: (spec) =>
            options === null || !showsCertificate(spec.features)
              ? Effect.void
              : Effect.asVoid(Effect.flatMap(firstCertificate(options), (pair) => Deferred.succeed(first, pair))),
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
