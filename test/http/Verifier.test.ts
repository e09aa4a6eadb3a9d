/**
 * Tokens against keys: which sets of keys are taken, and who signed a token, with what, and until when.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { createPublicKey, sign, verify } from "node:crypto"
import { verifierOf } from "../../src/http/Verifier.ts"
import { edSigner, encoded, rsaSigner, signText, tokenOf } from "./tokens.ts"

const claimsOrStatus = (jwks: ReadonlyArray<unknown>, token: string) =>
  verifierOf(jwks)
    .verify(Redacted.make(token))
    .pipe(Effect.catch(({ status }) => Effect.succeed(status)))

const ed = edSigner()
const otherEd = edSigner()
const rsa = rsaSigner()
const claims = { compute_id: "compute-1" }

describe("a set of keys", () => {
  const base64Url = (bytes: ReadonlyArray<number> | Buffer): string => Buffer.from(bytes).toString("base64url")
  const x = Buffer.from(String(ed.jwk.x), "base64url")
  const prime = 2n ** 255n - 19n
  const point = (y: bigint, sign = 0): string => {
    const bytes = Buffer.from(y.toString(16).padStart(64, "0"), "hex").reverse()
    bytes[31] = (bytes[31] ?? 0) | (sign << 7)
    return base64Url(bytes)
  }
  const smallOrder = [
    0n,
    1n,
    prime - 1n,
    2707385501144840649318225287225658788936804267575313519463743609750303402022n,
    55188659117513257062467267217118295137698188065244968500265048394206261417927n
  ]
  const edKey = (x: string) => ({ kty: "OKP", crv: "Ed25519", x })
  const rsaKey = (more: object) => ({ ...rsa.jwk, ...more })
  const n = Buffer.from(String(rsa.jwk.n), "base64url")

  const taken: ReadonlyArray<readonly [string, ReadonlyArray<unknown>]> = [
    ["Ed25519", [ed.jwk]],
    ["Ed25519 for EdDSA", [{ ...ed.jwk, alg: "EdDSA", use: "sig", key_ops: ["verify"], kid: "a" }]],
    ["Ed25519 for Ed25519 (RFC 9864)", [{ ...ed.jwk, alg: "Ed25519" }]],
    ["RSA", [rsa.jwk]],
    ["RSA for RS256", [rsaKey({ alg: "RS256", use: "sig" })]],
    ["RSA with the exponent 3", [rsaKey({ e: "Aw" })]],
    ["RSA beside Ed25519", [rsaKey({ alg: "RS256" }), { ...ed.jwk, alg: "EdDSA" }]],
    ["members that we do not know", [{ ...ed.jwk, x5t: "x", extra: { a: 1 } }]]
  ]
  for (const [name, jwks] of taken) {
    it(`is taken: ${name}`, () => {
      assert.isNull(verifierOf([]).check(jwks))
      assert.strictEqual(verifierOf(jwks).count(), jwks.length)
    })
  }

  const refused: ReadonlyArray<readonly [string, unknown, RegExp]> = [
    ["what is no object", "key", /JSON Web Key/],
    ["null", null, /JSON Web Key/],
    ["a list", [], /JSON Web Key/],
    ["no kty", {}, /Ed25519 key, or an RSA key/],
    ["an EC key", { kty: "EC", crv: "P-256", x: base64Url(x), y: base64Url(x) }, /Ed25519 key, or an RSA key/],
    ["a symmetric key", { kty: "oct", k: base64Url(x) }, /symmetric/],
    ["a symmetric key that says RS256", { kty: "oct", k: base64Url(x), alg: "RS256" }, /symmetric/],
    ["a private Ed25519 key", ed.privateKey.export({ format: "jwk" }), /private/],
    ["a private RSA key", rsa.privateKey.export({ format: "jwk" }), /private/],
    ["an RSA key with one prime", rsaKey({ p: "Aw" }), /private/],
    ["empty key_ops", { ...ed.jwk, key_ops: [] }, /key_ops/],
    ["key_ops for signing", { ...ed.jwk, key_ops: ["sign"] }, /key_ops/],
    ["key_ops that are no list", { ...ed.jwk, key_ops: "verify" }, /key_ops/],
    ["a key for encryption", { ...ed.jwk, use: "enc" }, /use/],
    ["Ed25519 for RS256", { ...ed.jwk, alg: "RS256" }, /EdDSA/],
    ["Ed25519 with an alg that is no text", { ...ed.jwk, alg: 1 }, /EdDSA/],
    ["X25519", { ...ed.jwk, crv: "X25519" }, /only those of Ed25519/],
    ["Ed448", { ...ed.jwk, crv: "Ed448" }, /only those of Ed25519/],
    ["Ed25519 of 31 bytes", edKey(base64Url(x.subarray(1))), /32 bytes/],
    ["Ed25519 of 33 bytes", edKey(base64Url([...x, 0])), /32 bytes/],
    ["Ed25519 with padding", edKey(`${ed.jwk.x}=`), /32 bytes/],
    ["hex text in base64url, as one compose file has it", edKey(base64Url(Buffer.from(x.toString("hex")))), /32 bytes/],
    ["no x", { kty: "OKP", crv: "Ed25519" }, /32 bytes/],
    ["a y that is on no curve", edKey(point(2n)), /no point/],
    ["a y in a second spelling", edKey(point(prime + 3n)), /no point/],
    ...smallOrder.flatMap((y, index) =>
      [0, 1].map((sign) => [`small order ${index}, sign ${sign}`, edKey(point(y, sign)), /no point/] as const)
    ),
    ["RSA for RS512", rsaKey({ alg: "RS512" }), /RS256/],
    ["RSA for PS256", rsaKey({ alg: "PS256" }), /RS256/],
    ["RSA for EdDSA", rsaKey({ alg: "EdDSA" }), /RS256/],
    ["RSA of 1024 bits", rsaSigner(1024).jwk, /2048 to 8192 bits; this RSA key has 1024/],
    ["RSA of 16384 bits", rsaKey({ n: base64Url(Buffer.alloc(2048, 0xff)) }), /2048 to 8192/],
    ["RSA of megabytes", rsaKey({ n: base64Url(Buffer.alloc(4_000_000, 0xff)) }), /2048 to 8192/],
    ["RSA with an exponent of megabytes", rsaKey({ e: base64Url(Buffer.alloc(4_000_000, 0xff)) }), /2048 to 8192/],
    ["RSA with the exponent 0", rsaKey({ e: "AA" }), /exponent/],
    ["RSA with the exponent 1", rsaKey({ e: "AQ" }), /exponent/],
    ["RSA with an even exponent", rsaKey({ e: "AQAA" }), /exponent/],
    ["RSA with an exponent as long as its modulus", rsaKey({ e: base64Url(n) }), /exponent/],
    ["RSA with an even modulus", rsaKey({ n: base64Url([...n.subarray(0, -1), 2]) }), /modulus/],
    ["RSA without n", { kty: "RSA", e: "AQAB" }, /base64url/],
    ["RSA with an n that is no base64url", rsaKey({ n: "+/" }), /base64url/]
  ]
  for (const [name, jwk, reason] of refused) {
    it.effect(`is refused with its reason, and the old one stays: ${name}`, () =>
      Effect.gen(function* () {
        const verifier = verifierOf([ed.jwk])
        const { problems } = yield* Effect.flip(verifier.rotate([otherEd.jwk, jwk]))
        assert.deepStrictEqual(
          problems.map(({ path }) => path),
          ["compute_ctl_config.jwks.keys[1]"]
        )
        assert.match(problems[0]?.message ?? "", reason)
        assert.deepStrictEqual(yield* verifier.verify(Redacted.make(tokenOf(ed, claims))), claims)
        assert.strictEqual((yield* Effect.flip(verifier.verify(Redacted.make(tokenOf(otherEd, claims))))).status, 401)
        assert.strictEqual(verifierOf([jwk]).count(), 0)
      })
    )
  }

  const Part = Schema.Union([Schema.String, Schema.Json])
  it.prop(
    "of any shape is judged: taken, or refused with a reason for each key",
    [
      Schema.Array(
        Schema.Struct({
          kty: Schema.Union([Schema.Literals(["OKP", "RSA", "oct", "EC"]), Part]),
          crv: Schema.Union([Schema.Literal("Ed25519"), Part]),
          alg: Schema.optionalKey(Schema.Union([Schema.Literals(["EdDSA", "RS256"]), Part])),
          use: Schema.optionalKey(Part),
          key_ops: Schema.optionalKey(Part),
          x: Part,
          n: Part,
          e: Part
        })
      )
    ],
    ([jwks]) => {
      const verifier = verifierOf(jwks)
      assert.strictEqual(verifier.count() + verifier.problems().length, jwks.length)
      assert.strictEqual(verifier.check(jwks) === null, jwks.length > 0 && verifier.count() === jwks.length)
      assert.isNull(verifier.recall("a.b.c", 0))
      assert.strictEqual(Effect.runSync(claimsOrStatus(jwks, tokenOf(ed, claims))), 401)
    }
  )

  it.effect("with nothing in it replaces none, nor does one of more keys than anybody has", () =>
    Effect.gen(function* () {
      const verifier = verifierOf([ed.jwk])
      assert.match((yield* Effect.flip(verifier.rotate([]))).message, /expected a key$/)
      const many = Array.from({ length: 65 }, () => otherEd.jwk)
      assert.match((yield* Effect.flip(verifier.rotate(many))).message, /at most 64 keys/)
      assert.deepStrictEqual(yield* verifier.verify(Redacted.make(tokenOf(ed, claims))), claims)
    })
  )

  it.effect("of the start: those keys count that can verify, and it is known which cannot", () =>
    Effect.gen(function* () {
      const verifier = verifierOf([{ kty: "oct", k: "AA" }, ed.jwk])
      assert.deepStrictEqual(yield* verifier.verify(Redacted.make(tokenOf(ed, claims))), claims)
      assert.deepStrictEqual(
        verifier.problems().map(({ path }) => path),
        ["keys[0]"]
      )
      yield* verifier.rotate([otherEd.jwk])
      assert.isEmpty(verifier.problems())
    })
  )

  it.effect("of small order would take a signature of nobody, which OpenSSL before 3.5 verifies", () =>
    Effect.gen(function* () {
      const identity = Buffer.alloc(32)
      identity[0] = 1
      const forged = Buffer.concat([identity, Buffer.alloc(32)])
      const token = `${encoded({ alg: "EdDSA" })}.${encoded(claims)}.${forged.toString("base64url")}`
      assert.strictEqual(yield* claimsOrStatus([edKey(base64Url(identity))], token), 401)
    })
  )
})

describe("a token", () => {
  const keys = [ed.jwk, { ...rsa.jwk, alg: "RS256" }]
  const header = encoded({ alg: "EdDSA" })
  const body = encoded(claims)
  const good = tokenOf(ed, claims)
  const [, , signature = ""] = good.split(".")
  const rsaGood = tokenOf(rsa, claims)
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
  /** The same bytes, with other bits where the last letter has some to spare. */
  const respelled = (text: string): string => `${text.slice(0, -1)}${alphabet[alphabet.indexOf(text.at(-1) ?? "") ^ 1]}`
  const hmac = Buffer.alloc(32)

  const taken: ReadonlyArray<readonly [string, string, object]> = [
    ["EdDSA", good, claims],
    ["EdDSA by its newer name, Ed25519", tokenOf(ed, claims, { alg: "Ed25519" }), claims],
    ["RS256, beside a key for EdDSA", rsaGood, claims],
    ["whatever kid it names", tokenOf(ed, claims, { kid: "none of ours", typ: "JWT" }), claims],
    ["with b64 as it is by itself", tokenOf(ed, claims, { b64: true }), claims],
    ["with claims that we do not know", tokenOf(ed, { ...claims, a: [1] }), { ...claims, a: [1] }],
    ["without any claim", tokenOf(ed, {}), {}]
  ]
  for (const [name, token, expected] of taken) {
    it.effect(`is taken: ${name}`, () =>
      Effect.map(claimsOrStatus(keys, token), (found) => assert.deepStrictEqual(found, expected))
    )
  }

  it.effect("of RFC 8037, appendix A.4, verifies, though its payload is no claims", () =>
    Effect.sync(() => {
      const jwk = { kty: "OKP", crv: "Ed25519", x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }
      const [head, payload, signed] = [
        "eyJhbGciOiJFZERTQSJ9",
        "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
      ]
      const key = createPublicKey({ key: jwk, format: "jwk" })
      assert.isTrue(verify(null, Buffer.from(`${head}.${payload}`), key, Buffer.from(signed, "base64url")))
      assert.strictEqual(Effect.runSync(claimsOrStatus([jwk], `${head}.${payload}.${signed}`)), 401)
    })
  )

  const refused: ReadonlyArray<readonly [string, string]> = [
    ["nothing", ""],
    ["three words", "a.b.c"],
    ["two parts", `${header}.${body}`],
    ["four parts", `${good}.`],
    ["five parts, as encrypted ones have", `${good}.a.b`],
    ["another key's", tokenOf(otherEd, claims)],
    ["another payload", `${header}.${encoded({ compute_id: "compute-2" })}.${signature}`],
    ["another header", `${encoded({ alg: "EdDSA", kid: "x" })}.${body}.${signature}`],
    ["no signature", `${header}.${body}.`],
    ["a short signature", `${header}.${body}.${signature.slice(0, 40)}`],
    ["alg none", `${encoded({ alg: "none" })}.${body}.`],
    ["alg None", `${encoded({ alg: "None" })}.${body}.${signature}`],
    ["no alg", signText(ed, encoded({}), body)],
    ["an alg that is no text", signText(ed, encoded({ alg: ["EdDSA"] }), body)],
    ["alg in another case", tokenOf(ed, claims, { alg: "eddsa" })],
    ["RS256 with an Ed25519 key's signature", tokenOf(ed, claims, { alg: "RS256" })],
    ["EdDSA with an RSA key's signature", tokenOf(rsa, claims, { alg: "EdDSA" })],
    ["RS512", tokenOf(rsa, claims, { alg: "RS512" })],
    ["PS256", tokenOf(rsa, claims, { alg: "PS256" })],
    ["HS256", `${encoded({ alg: "HS256" })}.${body}.${hmac.toString("base64url")}`],
    ["its own key in the header", tokenOf(otherEd, claims, { jwk: otherEd.jwk })],
    ["a crit that nobody understands", tokenOf(ed, claims, { crit: ["exp"], exp: 1 })],
    ["b64 false (RFC 7797)", tokenOf(ed, claims, { b64: false, crit: ["b64"] })],
    ["b64 false, without saying that it is critical", tokenOf(ed, claims, { b64: false })],
    ["b64 false over the bare payload", signBare()],
    ["a padded signature", `${good}==`],
    ["a padded signature of RS256", `${rsaGood}==`],
    ["a padded header", signText(ed, `${encoded({ alg: "EdDSA" })}=`, body)],
    ["spare bits of the signature set", respelled(good)],
    ["spare bits of an RS256 signature set", respelled(rsaGood)],
    ["spare bits of the payload set", signText(ed, header, respelled(encoded('{"a":1}')))],
    ["the other alphabet", signText(ed, header, Buffer.from('{"a":"???>>>"}').toString("base64"))],
    ["white space around it", ` ${good}`],
    ["a line break in it", `${header}.${body}\n.${signature}`],
    ["a header that is no JSON", signText(ed, encoded("{"), body)],
    ["a header that is no object", signText(ed, encoded("[]"), body)],
    ["a header with alg twice", signText(ed, encoded('{"alg":"none","alg":"EdDSA"}'), body)],
    ["a payload that is a list", tokenOf(ed, "[1]")],
    ["a payload that is a number", tokenOf(ed, "7")],
    ["a payload that is null", tokenOf(ed, "null")],
    ["a payload that is no JSON", tokenOf(ed, "{")],
    ["a payload with a claim twice", tokenOf(ed, '{"compute_id":"compute-2","compute_id":"compute-1"}')],
    ["a payload that is not UTF-8", signText(ed, header, Buffer.from([0x22, 0xff, 0x22]).toString("base64url"))],
    ["exp 1e999, which never comes", tokenOf(ed, '{"compute_id":"compute-1","exp":1e999}')],
    ["exp -1e999", tokenOf(ed, '{"compute_id":"compute-1","exp":-1e999}')],
    ["nbf -1e999, which was always", tokenOf(ed, '{"compute_id":"compute-1","nbf":-1e999}')],
    ["exp null", tokenOf(ed, { ...claims, exp: null })],
    ["exp as text", tokenOf(ed, { ...claims, exp: "4102444800" })],
    ["exp as a list", tokenOf(ed, { ...claims, exp: [4102444800] })],
    ["nbf as text", tokenOf(ed, { ...claims, nbf: "0" })]
  ]
  for (const [name, token] of refused) {
    it.live(`is refused: ${name}`, () =>
      Effect.map(claimsOrStatus(keys, token), (found) => assert.strictEqual(found, 401))
    )
  }

  /** RFC 7797: the signature is over the payload itself. */
  function signBare(): string {
    const head = encoded({ alg: "EdDSA", b64: false, crit: ["b64"] })
    const payload = JSON.stringify(claims)
    return `${head}.${payload}.${sign(null, Buffer.from(`${head}.${payload}`), ed.privateKey).toString("base64url")}`
  }

  it.effect("has one spelling: no letter of it can be another", () =>
    Effect.gen(function* () {
      for (let at = 0; at < good.length; at++) {
        for (const letter of ["A", "B", "_", ".", "=", "+", " ", ""]) {
          const changed = good.slice(0, at) + letter + good.slice(at + 1)
          if (changed !== good) assert.strictEqual(yield* claimsOrStatus(keys, changed), 401, changed)
        }
      }
    })
  )

  it.effect("is checked by the keys of the day: one kind is rotated for the other without a gap", () =>
    Effect.gen(function* () {
      const verifier = verifierOf([ed.jwk])
      const status = (token: string) =>
        Effect.match(verifier.verify(Redacted.make(token)), { onFailure: ({ status }) => status, onSuccess: () => 200 })
      const both = Effect.all([status(good), status(rsaGood)])
      assert.deepStrictEqual(yield* both, [200, 401])
      yield* verifier.rotate([ed.jwk, { ...rsa.jwk, alg: "RS256" }])
      assert.deepStrictEqual(yield* both, [200, 200])
      yield* verifier.rotate([{ ...rsa.jwk, alg: "RS256" }])
      assert.deepStrictEqual(yield* both, [401, 200])
    })
  )

  it.effect("is looked at for its times with a minute's leeway, when it has any", () =>
    Effect.gen(function* () {
      const now = Math.floor((yield* Clock.currentTimeMillis) / 1000)
      const found = (more: object) => claimsOrStatus([ed.jwk], tokenOf(ed, more))
      assert.deepStrictEqual(yield* found({ exp: now - 30 }), { exp: now - 30 })
      assert.strictEqual(yield* found({ exp: now - 90 }), 401)
      assert.deepStrictEqual(yield* found({ nbf: now + 30 }), { nbf: now + 30 })
      assert.strictEqual(yield* found({ nbf: now + 90 }), 401)
    })
  )

  it.effect("that was checked is recalled, while its time lasts and its keys count", () =>
    Effect.gen(function* () {
      const now = Math.floor((yield* Clock.currentTimeMillis) / 1000)
      const token = tokenOf(ed, { ...claims, exp: now + 10 })
      const verifier = verifierOf([ed.jwk])
      assert.isNull(verifier.recall(token, now))
      yield* verifier.verify(Redacted.make(token))
      assert.deepStrictEqual(verifier.recall(token, now), { ...claims, exp: now + 10 })
      assert.isNull(verifier.recall(token, now + 100))
      assert.isNull(verifier.recall(`${token}x`, now))
      yield* Effect.flip(verifier.rotate([]))
      assert.isNotNull(verifier.recall(token, now))
      yield* verifier.rotate([otherEd.jwk])
      assert.isNull(verifier.recall(token, now))
    })
  )
})
