/**
 * Tokens against keys: who signed, with what, and until when.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { CompactSign } from "jose/jws/compact/sign"
import { exportJWK } from "jose/key/export"
import { generateKeyPair } from "jose/key/generate/keypair"
import { verifierOf } from "../../src/http/Verifier.ts"

type Algorithm = "EdDSA" | "RS256"

const pair = (algorithm: Algorithm) =>
  Effect.promise(async () => {
    const { privateKey, publicKey } = await generateKeyPair(algorithm, { extractable: true })
    const jwk = await exportJWK(publicKey)
    const sign = (claims: unknown, alg: Algorithm = algorithm) =>
      Effect.promise(() =>
        new CompactSign(new TextEncoder().encode(typeof claims === "string" ? claims : JSON.stringify(claims)))
          .setProtectedHeader({ alg })
          .sign(privateKey)
      )
    return { jwk, sign }
  })

const claimsOrStatus = (jwks: ReadonlyArray<unknown>, token: string) =>
  verifierOf(jwks)
    .verify(Redacted.make(token))
    .pipe(Effect.catch(({ status }) => Effect.succeed(status)))

describe("verifier", () => {
  it.live("takes a token that any of the keys signed, and gives its claims", () =>
    Effect.gen(function* () {
      const one = yield* pair("EdDSA")
      const two = yield* pair("EdDSA")
      const token = yield* two.sign({ compute_id: "c", nbf: 1 })
      assert.deepStrictEqual(yield* claimsOrStatus([one.jwk, { kty: "broken" }, "no key", two.jwk], token), {
        compute_id: "c",
        nbf: 1
      })
      assert.strictEqual(yield* claimsOrStatus([one.jwk], token), 401)
      assert.strictEqual(yield* claimsOrStatus([], token), 401)
    })
  )

  it.live("looks at the expiry with a minute's leeway, when there is one", () =>
    Effect.gen(function* () {
      const { jwk, sign } = yield* pair("EdDSA")
      const now = Math.floor(performance.timeOrigin / 1000 + performance.now() / 1000)
      assert.deepStrictEqual(yield* claimsOrStatus([jwk], yield* sign({ exp: now - 30 })), { exp: now - 30 })
      assert.strictEqual(yield* claimsOrStatus([jwk], yield* sign({ exp: now - 90 })), 401)
      assert.strictEqual(yield* claimsOrStatus([jwk], yield* sign({ exp: "tomorrow" })), 401)
      assert.deepStrictEqual(yield* claimsOrStatus([jwk], yield* sign({ nbf: now + 30 })), { nbf: now + 30 })
      assert.strictEqual(yield* claimsOrStatus([jwk], yield* sign({ nbf: now + 90 })), 401)
      assert.strictEqual(yield* claimsOrStatus([jwk], yield* sign({ nbf: "now" })), 401)
    })
  )

  it.live("takes RS256 only when a key declares it, and then nothing else", () =>
    Effect.gen(function* () {
      const rsa = yield* pair("RS256")
      const ed = yield* pair("EdDSA")
      const declared = { ...rsa.jwk, alg: "RS256" }
      assert.deepStrictEqual(yield* claimsOrStatus([declared], yield* rsa.sign({ a: 1 })), { a: 1 })
      assert.strictEqual(yield* claimsOrStatus([rsa.jwk], yield* rsa.sign({ a: 1 })), 401)
      assert.strictEqual(yield* claimsOrStatus([declared, ed.jwk], yield* ed.sign({ a: 1 })), 401)
    })
  )

  it.live("refuses what is no token, no object, changed, or unsigned", () =>
    Effect.gen(function* () {
      const { jwk, sign } = yield* pair("EdDSA")
      const token = yield* sign({ compute_id: "c" })
      const [header = "", payload = "", signature = ""] = token.split(".")
      const forged = Buffer.from(JSON.stringify({ compute_id: "d" })).toString("base64url")
      const none = Buffer.from(JSON.stringify({ alg: "none" })).toString("base64url")
      const list = [
        "",
        "a.b.c",
        `${header}.${forged}.${signature}`,
        `${none}.${payload}.`,
        `${header}.${payload}`,
        yield* sign("[1]"),
        yield* sign("7")
      ]
      for (const text of list) assert.strictEqual(yield* claimsOrStatus([jwk], text), 401, text)
    })
  )

  it.live("recalls a token it has checked, while its time lasts and its keys count", () =>
    Effect.gen(function* () {
      const [one, two] = [yield* pair("EdDSA"), yield* pair("EdDSA")]
      const now = Math.floor(performance.timeOrigin / 1000 + performance.now() / 1000)
      const token = yield* one.sign({ compute_id: "c", exp: now + 10 })
      const verifier = verifierOf([one.jwk])
      assert.isNull(verifier.recall(token, now))
      yield* verifier.verify(Redacted.make(token))
      assert.deepStrictEqual(verifier.recall(token, now), { compute_id: "c", exp: now + 10 })
      assert.isNull(verifier.recall(token, now + 100))
      assert.isNull(verifier.recall(`${token}x`, now))
      assert.isFalse(yield* verifier.rotate([]))
      assert.isNotNull(verifier.recall(token, now))
      assert.isTrue(yield* verifier.rotate([two.jwk]))
      assert.isNull(verifier.recall(token, now))
    })
  )
})
