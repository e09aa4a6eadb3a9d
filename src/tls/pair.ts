/**
 * A certificate and its key, read from the files where somebody else renews them, and watched.
 *
 * Nobody is given a certificate and a key that do not belong together: they are halves of a renewal that is under
 * way, or a mistake. Any kind of key that OpenSSL knows will do. What is done with a pair is its user's affair.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as crypto from "node:crypto"
import * as fs from "node:fs/promises"
import type { Actor } from "../compute/Supervisor.ts"
import { CertificateUnusable } from "../errors/Failure.ts"
import type { Tls } from "../spec/ComputeConfig.ts"

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
  /** How it is signed, when that is by an algorithm that has no digest of its own. */
  readonly signedWith: "Ed25519" | "Ed448" | null
}

/** The end of a certificate: its algorithm, whose signatures are always as long, and the signature as a bit string. */
const digestless = [
  { name: "Ed25519", algorithm: "300506032b6570", bytes: 64 },
  { name: "Ed448", algorithm: "300506032b6571", bytes: 114 }
] as const

const signedWith = (der: Buffer): Pair["signedWith"] =>
  digestless.find(({ algorithm, bytes }) => {
    const end = der.length - bytes - "034100".length / 2
    return der.subarray(end - algorithm.length / 2, end).toString("hex") === algorithm
  })?.name ?? null

/** A renewal is two files one after the other, so a pair that does not fit is read again for this long. */
const renewalWithin = Duration.seconds(30)
const retryEvery = Duration.seconds(1)

const read = (file: string, what: "certificate" | "key", certificate: string) =>
  Effect.tryPromise({
    try: () => fs.readFile(file, "utf8"),
    catch: (cause) => new CertificateUnusable({ certificate, detail: `its ${what} file ${file} cannot be read`, cause })
  })

/** Both files as they are now. Fails when they are not a pair, or one that no TLS server takes. */
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
  // OpenSSL holds one pair for each kind of key, and so takes an EC certificate together with an RSA key.
  const fits = yield* Effect.try({
    try: () => parsed.checkPrivateKey(crypto.createPrivateKey(key)),
    // OpenSSL's message names the fault and never the key.
    catch: (cause) => refuse("its key cannot be parsed", cause)
  })
  if (!fits) return yield* refuse(`the key in ${tls.keyPath} belongs to another certificate`)
  // Loaded only where there is a certificate.
  const { createSecureContext } = yield* Effect.promise(() => import("node:tls"))
  yield* Effect.try({
    try: () => createSecureContext({ cert: certificate, key }),
    catch: (cause) => refuse("OpenSSL does not serve it", cause)
  })
  return {
    certificate,
    key: Redacted.make(key, { label: "TLS key" }),
    digest: crypto.createHash("sha256").update(certificate).update("\0").update(key).digest("hex"),
    expiresAt: parsed.validToDate.getTime(),
    signedWith: signedWith(parsed.raw)
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

export const warnWhenExpired = Effect.fnUntraced(function* (pair: Pair, { certPath }: Tls) {
  const now = yield* Clock.currentTimeMillis
  if (pair.expiresAt < now)
    yield* Effect.logWarning(`the certificate ${certPath} has expired; clients that check it will turn away`)
})

interface PairWatch<E> {
  /** Of the actor. */
  readonly name: string
  /** Who shows the certificate, as the log calls it. */
  readonly server: string
  readonly tls: Tls
  readonly every: Duration.Duration
  /** The one that is in use. */
  readonly first: Pair
  readonly use: (pair: Pair) => Effect.Effect<void, E>
}

/** Takes up each new pair once it is whole. Until then the old one serves, and one warning says why. */
export const pairWatch = <E>({ every, first, name, server, tls, use }: PairWatch<E>): Actor => ({
  name,
  kind: "auxiliary",
  run: Effect.gen(function* () {
    let digest = first.digest
    let lastError: string | null = null
    while (true) {
      yield* Effect.sleep(every)
      const next = yield* Effect.result(awaitPair(tls))
      if (next._tag === "Failure") {
        if (next.failure.message !== lastError)
          yield* Effect.logWarning(`${server} goes on with the certificate that it has: ${next.failure.message}`)
        lastError = next.failure.message
        continue
      }
      lastError = null
      const pair = next.success
      if (pair.digest === digest) continue
      const done = yield* Effect.result(use(pair))
      if (done._tag === "Failure") {
        yield* Effect.logError(
          `${server} could not take up the new certificate ${tls.certPath}, which is tried again`,
          done.failure
        )
        continue
      }
      digest = pair.digest
      yield* Effect.logInfo(`${server} has a new certificate: ${tls.certPath} was renewed`)
      yield* warnWhenExpired(pair, tls)
    }
  })
})
