/**
 * The external port with TLS: pairs of every kind of key, a new certificate without a restart, and the internal port
 * that stays plain.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import { get } from "node:https"
import * as path from "node:path"
import { hintOf } from "../../src/errors/policy.ts"
import { kinds, selfSigned, type TestCertificate } from "../support/certificates.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { passes } from "../support/virtualTime.ts"
import { ask, inMemoryServices, open } from "./testServer.ts"

const fingerprint = ({ certificate }: TestCertificate) => new crypto.X509Certificate(certificate).fingerprint256

/** Whose certificate it was, when the answer was 200; otherwise what went wrong. */
const servedBy = (port: number) =>
  Effect.callback<string>((resume) => {
    const request = get(
      { host: "127.0.0.1", port, path: "/livez", rejectUnauthorized: false, agent: false },
      (response) => {
        const { socket } = response
        const print =
          "getPeerCertificate" in socket && typeof socket.getPeerCertificate === "function"
            ? String(socket.getPeerCertificate().fingerprint256)
            : "no certificate"
        response.resume().on("end", () => resume(Effect.succeed(response.statusCode === 200 ? print : "not 200")))
      }
    )
    request.on("error", (error) => resume(Effect.succeed(String(error))))
    return Effect.sync(() => request.destroy())
  })

/** Two of each kind, because a key of the right kind may be the wrong one, too. */
const made = Object.fromEntries(kinds.map((kind) => [kind, [selfSigned(kind), selfSigned(kind)] as const] as const))
const pairOf = (kind: string, which: 0 | 1): TestCertificate => {
  const pair = made[kind]?.[which]
  if (pair === undefined) throw new Error(`no certificate of kind ${kind}`)
  return pair
}

const files = Effect.gen(function* () {
  const folder = yield* temporaryFolder
  const tls = { certPath: path.join(folder, "cert.pem"), keyPath: path.join(folder, "key.pem") }
  const put = ({ certificate, key }: TestCertificate) => {
    fs.writeFileSync(tls.certPath, certificate)
    fs.writeFileSync(tls.keyPath, key)
  }
  return { tls, put }
})

describe("TLS", () => {
  for (const kind of kinds) {
    it.effect(`serves a pair of ${kind}, and goes on with it at half a renewal to any kind of key`, () => {
      const lines: Array<string> = []
      return Effect.gen(function* () {
        const { put, tls } = yield* files
        const first = pairOf(kind, 0)
        put(first)
        const { internalPort, port } = yield* open({ tls, internalPort: 0 })
        assert.strictEqual(yield* servedBy(port), fingerprint(first))
        assert.strictEqual((yield* ask(internalPort ?? 0, "GET", "/livez")).status, 200, "the internal port is plain")
        let serves = first
        for (const next of kinds) {
          const renewed = pairOf(next, 1)
          fs.writeFileSync(tls.certPath, renewed.certificate)
          lines.length = 0
          yield* passes(`a warning, ${next}`, () =>
            lines.some((line) => line.includes("belongs to another certificate"))
          )
          assert.strictEqual(yield* servedBy(port), fingerprint(serves), `half a renewal to ${next}`)
          fs.writeFileSync(tls.keyPath, renewed.key)
          yield* passes(`the renewal to ${next}`, () => lines.some((line) => line.includes("has a new certificate")))
          assert.strictEqual(yield* servedBy(port), fingerprint(renewed))
          serves = renewed
        }
        fs.writeFileSync(tls.certPath, "half a certificate")
        yield* passes("the warning", () => lines.some((line) => line.includes("holds no PEM certificate")))
        assert.strictEqual(yield* servedBy(port), fingerprint(serves))
      }).pipe(
        Effect.provide(inMemoryServices),
        Effect.provide(Logger.layer([Logger.make(({ message }) => void lines.push(String(message)))]))
      )
    })

    it.live(
      `does not begin with a certificate of ${kind} and another's key, and says that the key is not its own`,
      () =>
        Effect.gen(function* () {
          const { put, tls } = yield* files
          for (const other of kinds) {
            put({ certificate: pairOf(kind, 0).certificate, key: pairOf(other, 1).key })
            const refused = yield* Effect.flip(open({ tls }))
            assert.strictEqual(refused._tag, "CertificateUnusable", other)
            assert.include(refused.message, `the key in ${tls.keyPath} belongs to another certificate`)
            assert.match(hintOf(refused), /its own PEM key/)
          }
        }).pipe(Effect.provide(inMemoryServices))
    )
  }

  it.live("without its files the port does not open, and says which", () =>
    Effect.gen(function* () {
      const tls = { certPath: "/nowhere/cert.pem", keyPath: "/nowhere/key.pem" }
      const refused = yield* Effect.flip(open({ tls }))
      assert.strictEqual(refused._tag, "CertificateUnusable")
      assert.include(refused.message, "its certificate file /nowhere/cert.pem cannot be read")
    }).pipe(Effect.provide(inMemoryServices))
  )
})
