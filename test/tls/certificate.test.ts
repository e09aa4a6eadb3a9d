/**
 * Which certificates are believed, and how a renewal is taken up: real files, virtual time.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import { TestClock } from "effect/testing"
import * as fs from "node:fs"
import * as path from "node:path"
import { inspect } from "node:util"
import { certificateWatch, firstCertificate, placePair } from "../../src/tls/Certificates.ts"
import { awaitPair, keyFault, leafOf, readPair } from "../../src/tls/pair.ts"
import { kinds, selfSigned, type TestCertificate } from "../support/certificates.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { passes } from "../support/virtualTime.ts"

const setUp = Effect.gen(function* () {
  const folder = yield* temporaryFolder
  const pgdata = path.join(folder, "pgdata")
  fs.mkdirSync(pgdata)
  const tls = { keyPath: path.join(folder, "tls.key"), certPath: path.join(folder, "tls.crt") }
  const put = ({ certificate, key }: Partial<TestCertificate>) => {
    if (certificate !== undefined) fs.writeFileSync(tls.certPath, certificate)
    if (key !== undefined) fs.writeFileSync(tls.keyPath, key)
  }
  const placed = (name: string) => fs.readFileSync(path.join(pgdata, name), "utf8")
  return { folder, pgdata, tls, put, placed, options: { tls, pgdata, runAs: null } }
})

describe("a certificate and its key", () => {
  for (const kind of kinds) {
    for (const sec1 of kind.startsWith("ec") ? [false, true] : [false]) {
      it.effect(`are a pair: ${kind}${sec1 ? " in SEC 1" : ""}`, () =>
        Effect.gen(function* () {
          const { put, tls } = yield* setUp
          const made = selfSigned(kind, { sec1 })
          put({ ...made, certificate: made.certificate + selfSigned("ec-p256").certificate })
          const pair = yield* readPair(tls)
          assert.strictEqual(Redacted.value(pair.key), made.key)
          assert.notInclude(inspect(pair, { depth: 9 }) + JSON.stringify(pair), made.key.split("\n")[1] ?? "")
        })
      )
    }
  }

  it.effect("that do not belong together, or are none, are refused by name", () =>
    Effect.gen(function* () {
      const { folder, put, tls } = yield* setUp
      const failure = Effect.map(Effect.flip(readPair(tls)), ({ message }) => message.replaceAll(folder, ""))
      const head = "the certificate /tls.crt cannot be used: "
      assert.strictEqual(yield* failure, `${head}its certificate file /tls.crt cannot be read`)
      const [one, other] = [selfSigned("ec-p256"), selfSigned("rsa")]
      put({ certificate: one.certificate })
      assert.strictEqual(yield* failure, `${head}its key file /tls.key cannot be read`)
      put({ key: other.key })
      assert.strictEqual(yield* failure, `${head}the key in /tls.key belongs to another certificate`)
      put({ key: "canary" })
      assert.strictEqual(yield* failure, `${head}the key file holds no PEM private key`)
      put({ key: "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n" })
      assert.strictEqual(yield* failure, `${head}its key cannot be parsed`)
      put({ key: "-----BEGIN ENCRYPTED PRIVATE KEY-----\nY2FuYXJ5\n-----END ENCRYPTED PRIVATE KEY-----\n" })
      assert.strictEqual(yield* failure, `${head}the key needs a passphrase, and nobody could give one`)
      put({ certificate: "-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n", key: one.key })
      assert.strictEqual(yield* failure, `${head}it cannot be parsed`)
      put({ certificate: "" })
      assert.strictEqual(yield* failure, `${head}the file holds no PEM certificate`)
    })
  )

  it("are recognised before OpenSSL is asked", () => {
    assert.isNull(leafOf("-----BEGIN CERTIFICATE-----\nhalf"))
    assert.strictEqual(
      leafOf(
        "x\n-----BEGIN CERTIFICATE-----\na\n-----END CERTIFICATE-----\n" +
          "-----BEGIN CERTIFICATE-----\nb\n-----END CERTIFICATE-----"
      ),
      "-----BEGIN CERTIFICATE-----\na\n-----END CERTIFICATE-----"
    )
    for (const label of ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"])
      assert.isNull(keyFault(`-----BEGIN ${label}-----`))
    assert.isNotNull(keyFault("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"))
  })
})

describe("the certificate of a compute", () => {
  it.effect("is waited for, but not for ever", () =>
    Effect.gen(function* () {
      const { options } = yield* setUp
      const waiting = yield* Effect.forkChild(Effect.flip(firstCertificate(options)), { startImmediately: true })
      const exit = yield* passes("giving up", () => waiting.pollUnsafe() ?? null)
      assert.strictEqual(exit._tag, "Success")
    })
  )

  it.effect("comes late, and is placed where only Postgres reads it", () =>
    Effect.gen(function* () {
      const { options, pgdata, placed, put } = yield* setUp
      const waiting = yield* Effect.forkChild(firstCertificate(options), { startImmediately: true })
      const made = selfSigned("ec-p384")
      put(made)
      yield* passes("the certificate", () => waiting.pollUnsafe() ?? null)
      assert.strictEqual(placed("server.crt"), made.certificate)
      assert.strictEqual(placed("server.key"), made.key)
      for (const name of ["server.crt", "server.key"])
        assert.strictEqual(fs.statSync(path.join(pgdata, name)).mode & 0o777, 0o600)
      assert.deepStrictEqual(fs.readdirSync(pgdata).sort(), ["server.crt", "server.key"])
    })
  )

  it.effect("is told when no SCRAM login can be bound to it, by how it is signed", () => {
    const lines: Array<string> = []
    return Effect.gen(function* () {
      const { options, put } = yield* setUp
      for (const kind of kinds) {
        put(selfSigned(kind))
        lines.length = 0
        const { signedWith } = yield* firstCertificate(options)
        const unbindable = kind === "ed25519"
        assert.strictEqual(signedWith, unbindable ? "Ed25519" : null, kind)
        assert.strictEqual(lines.filter((line) => line.includes("channel_binding=disable")).length, unbindable ? 1 : 0)
      }
    }).pipe(Effect.provide(Logger.layer([Logger.make((options) => void lines.push(String(options.message)))])))
  })

  it.effect("is renewed once per renewal; half a renewal waits, and what is no pair leaves the old one serving", () => {
    const lines: Array<string> = []
    return Effect.gen(function* () {
      const { options, placed, put } = yield* setUp
      yield* TestClock.setTime(Date.UTC(2026, 0, 1))
      const [first, second, third] = [selfSigned("ec-p256"), selfSigned("rsa"), selfSigned("ed25519", { until: 2021 })]
      put(first)
      const pair = yield* awaitPair(options.tls)
      yield* placePair(pair, options)
      let changes = 0
      const watch = certificateWatch(
        options,
        pair,
        Effect.sync(() => void changes++)
      )
      yield* Effect.forkChild(watch.run, { startImmediately: true })

      put({ key: second.key })
      yield* passes("the warning", () => lines.some((line) => line.includes("belongs to another certificate")))
      assert.strictEqual(placed("server.key"), first.key)
      put(second)
      yield* passes("the second", () => changes === 1)
      assert.strictEqual(placed("server.crt"), second.certificate)
      assert.strictEqual(placed("server.key"), second.key)
      put(third)
      yield* passes("the third", () => changes === 2)
      yield* passes("the warning", () => lines.some((line) => line.includes("has expired")))
      assert.strictEqual(placed("server.crt"), third.certificate)
      const before = lines.length
      for (let second = 0; second < 300; second++) {
        yield* TestClock.adjust("1 second")
        yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      }
      assert.strictEqual(changes, 2, "no change, no reload")
      assert.strictEqual(lines.length, before)
      assert.strictEqual(lines.filter((line) => line.includes("belongs to another")).length, 1)
    }).pipe(Effect.provide(Logger.layer([Logger.make((options) => void lines.push(String(options.message)))])))
  })
})
