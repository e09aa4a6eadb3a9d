/**
 * Keys that change while callers call, and tokens that never show up where they can be read.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import * as fs from "node:fs"
import * as path from "node:path"
import { keyWatcher, verifierOf } from "../../src/http/Verifier.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { SpecInvalid, SpecUnreadable } from "../../src/errors/Failure.ts"
import { ask, configurer, inBackground, inMemoryServices, open, reach, refusedOf } from "./testServer.ts"
import { edSigner, rsaSigner, tokenOf } from "./tokens.ts"

const pair = () => {
  const signer = edSigner()
  return {
    jwk: signer.jwk,
    /** The administrator's, who alone may replace keys. */
    token: tokenOf(signer, { scope: "compute_ctl:admin", aud: ["compute"] }),
    ours: tokenOf(signer, { compute_id: "compute-1" }),
    theirs: tokenOf(signer, { compute_id: "compute-2" })
  }
}

const as = (token: string) => ({ headers: { authorization: `Bearer ${token}` } })

const configure = (port: number, token: string, keys: ReadonlyArray<unknown>) =>
  ask(port, "POST", "/configure", {
    json: { spec: { format_version: 1 }, compute_ctl_config: { jwks: { keys } } },
    ...as(token)
  })

/** Calls again and again with the token that counts at the moment; every answer but 200 is kept. */
const callers = (port: number, current: () => string, wrong: Array<string>) =>
  Effect.forEach(
    Array.from({ length: 8 }),
    () =>
      Effect.forever(
        Effect.tap(
          Effect.suspend(() => ask(port, "GET", "/status", as(current()))),
          ({ status, text }) => (status === 200 ? Effect.void : Effect.sync(() => wrong.push(`${status} ${text}`)))
        )
      ),
    { concurrency: "unbounded" }
  )

describe("rotation", () => {
  it.live("keys in /configure count from then on, and no call fails meanwhile; a removed key is refused", () =>
    Effect.gen(function* () {
      const [old, next] = [pair(), pair()]
      yield* reach("running")
      yield* configurer(() => Effect.void)
      const { port } = yield* open({ verifier: verifierOf([old.jwk]) })
      assert.strictEqual((yield* ask(port, "GET", "/status", as(next.token))).status, 401)
      const wrong: Array<string> = []
      let current = old.token
      const calling = yield* inBackground(callers(port, () => current, wrong))
      assert.strictEqual((yield* configure(port, old.token, [old.jwk, next.jwk])).status, 200)
      current = next.token
      assert.strictEqual((yield* configure(port, next.token, [old.jwk, next.jwk])).status, 200)
      // Those that were asked with the old token have been answered when their callers ask with the new one.
      yield* Effect.forEach(Array.from({ length: 50 }), () => ask(port, "GET", "/status", as(next.token)))
      assert.strictEqual((yield* configure(port, next.token, [next.jwk])).status, 200)
      yield* Effect.forEach(Array.from({ length: 50 }), () => ask(port, "GET", "/status", as(next.token)))
      yield* Fiber.interrupt(calling)
      assert.deepStrictEqual(wrong, [])
      assert.strictEqual((yield* ask(port, "GET", "/status", as(old.token))).status, 401)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a set with a key that cannot verify is refused with its reason, and its spec is not applied", () =>
    Effect.gen(function* () {
      const ours = pair()
      let applied = 0
      yield* reach("running")
      yield* configurer(() => Effect.sync(() => void applied++))
      const { port } = yield* open({ verifier: verifierOf([ours.jwk]) })
      const sets: ReadonlyArray<readonly [status: number, keys: ReadonlyArray<unknown>]> = [
        [400, [{ kty: "broken" }]],
        [422, ["x"]],
        [400, [ours.jwk, { kty: "oct", k: "AAAA" }]],
        [400, [rsaSigner(1024).jwk]]
      ]
      for (const [status, keys] of sets) {
        const answer = yield* configure(port, ours.token, keys)
        assert.strictEqual(answer.status, status)
        assert.match(refusedOf(answer).problems?.[0]?.path ?? "", /^compute_ctl_config\.jwks\.keys\[\d\]$/)
      }
      assert.strictEqual(applied, 0)
      assert.strictEqual((yield* ask(port, "GET", "/status", as(ours.token))).status, 200)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a spec that is refused, or fails, changes no keys", () =>
    Effect.gen(function* () {
      const [ours, theirs] = [pair(), pair()]
      yield* reach("running")
      const failure = new SpecInvalid({ source: "test", problems: [{ path: "", message: "not this one" }] })
      yield* configurer(() => Effect.fail(failure))
      const { port } = yield* open({ verifier: verifierOf([ours.jwk]) })
      for (const spec of [{}, { format_version: 1 }]) {
        const answer = yield* ask(port, "POST", "/configure", {
          json: { spec, compute_ctl_config: { jwks: { keys: [theirs.jwk] } } },
          ...as(ours.token)
        })
        refusedOf(answer)
        assert.strictEqual((yield* ask(port, "GET", "/status", as(ours.token))).status, 200)
        assert.strictEqual((yield* ask(port, "GET", "/status", as(theirs.token))).status, 401)
      }
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a token for this compute configures it, and replaces no keys; no keys, or those that count, are none", () =>
    Effect.gen(function* () {
      const [ours, theirs] = [pair(), pair()]
      let applied = 0
      yield* reach("running")
      yield* configurer(() => Effect.sync(() => void applied++))
      const { port } = yield* open({ verifier: verifierOf([ours.jwk]) })
      const refused = yield* configure(port, ours.ours, [ours.jwk, theirs.jwk])
      assert.strictEqual(refused.status, 403)
      assert.strictEqual(refusedOf(refused).code, "admin_only")
      assert.strictEqual(applied, 0)
      assert.strictEqual((yield* configure(port, ours.ours, [])).status, 200)
      assert.strictEqual((yield* configure(port, ours.ours, [ours.jwk])).status, 200)
      assert.strictEqual(applied, 2)
      assert.strictEqual((yield* ask(port, "GET", "/status", as(theirs.token))).status, 401)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("keys of a spec that nobody waits for count once it is applied", () =>
    Effect.gen(function* () {
      const [ours, next] = [pair(), pair()]
      yield* reach("running")
      const applied = yield* Deferred.make<void>()
      yield* configurer(() => Deferred.await(applied))
      const { port } = yield* open({ verifier: verifierOf([ours.jwk]) })
      const accepted = yield* ask(port, "POST", "/configure", {
        json: { spec: { format_version: 1 }, compute_ctl_config: { jwks: { keys: [next.jwk] } } },
        headers: { ...as(ours.token).headers, prefer: "respond-async" }
      })
      assert.strictEqual(accepted.status, 202)
      assert.strictEqual((yield* ask(port, "GET", "/status", as(next.token))).status, 401)
      yield* Deferred.succeed(applied, undefined)
      yield* ask(port, "GET", "/status", as(next.token)).pipe(
        Effect.flatMap(({ status }) => (status === 200 ? Effect.void : Effect.fail("not yet"))),
        Effect.retry({ times: 100_000 }),
        Effect.timeout("20 seconds")
      )
      assert.strictEqual((yield* ask(port, "GET", "/status", as(ours.token))).status, 401)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live(
    "keys in a file count once the file is replaced; a broken file changes nothing",
    () =>
      Effect.gen(function* () {
        const [old, next] = [pair(), pair()]
        const file = path.join(yield* temporaryFolder, "config.json")
        const write = (keys: unknown) => {
          fs.writeFileSync(`${file}.new`, JSON.stringify(keys))
          fs.renameSync(`${file}.new`, file)
        }
        write([old.jwk])
        const verifier = verifierOf([old.jwk])
        const looked = yield* Deferred.make<void>()
        const read = Effect.try({
          try: (): ReadonlyArray<unknown> => JSON.parse(fs.readFileSync(file, "utf8")),
          catch: (cause) => new SpecUnreadable({ source: file, cause })
        }).pipe(Effect.tapError(() => Deferred.succeed(looked, undefined)))
        const { port } = yield* open({ verifier })
        yield* inBackground(keyWatcher({ path: file, given: [old.jwk], read }, verifier).run)
        fs.writeFileSync(file, "{")
        yield* Deferred.await(looked)
        assert.strictEqual((yield* ask(port, "GET", "/status", as(old.token))).status, 200)
        write([next.jwk])
        const taken = ask(port, "GET", "/status", as(next.token)).pipe(
          Effect.flatMap(({ status }) => (status === 200 ? Effect.void : Effect.fail("not yet"))),
          Effect.retry({ times: 100_000 }),
          Effect.timeout("20 seconds")
        )
        yield* taken
        assert.strictEqual((yield* ask(port, "GET", "/status", as(old.token))).status, 401)
      }).pipe(Effect.provide(inMemoryServices)),
    60_000
  )
})

describe("a token that is shown again", () => {
  it.live("is checked again: another compute's stays forbidden, a forged one unverified", () =>
    Effect.gen(function* () {
      const ours = pair()
      const { port } = yield* open({ verifier: verifierOf([ours.jwk]) })
      for (let n = 0; n < 3; n++) {
        assert.strictEqual((yield* ask(port, "GET", "/status", as(ours.token))).status, 200)
        assert.strictEqual((yield* ask(port, "GET", "/status", as(ours.theirs))).status, 403)
        assert.strictEqual((yield* ask(port, "GET", "/status", as(`${ours.token.slice(0, -4)}AAAA`))).status, 401)
        assert.strictEqual((yield* ask(port, "GET", "/status")).status, 400)
        assert.strictEqual(
          (yield* ask(port, "GET", "/status", { headers: { authorization: `Basic ${ours.token}` } })).status,
          400
        )
      }
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("secrets", () => {
  it.live("no token, body or query is in the log, however it is refused, nor in an answer", () =>
    Effect.gen(function* () {
      const ours = pair()
      const canary = "canary-7f3a"
      const logged: Array<string> = []
      const listener = Logger.make(
        ({ cause, message }) =>
          void logged.push(`${JSON.stringify(message)} ${cause.reasons.length === 0 ? "" : Cause.pretty(cause)}`)
      )
      yield* Effect.gen(function* () {
        yield* reach("running")
        yield* configurer(() => Effect.void)
        const { port } = yield* open({ verifier: verifierOf([ours.jwk]) })
        const answers = [
          yield* ask(port, "GET", "/status", as(canary)),
          yield* ask(port, "GET", "/status", as(`${canary}.${canary}.${canary}`)),
          yield* ask(port, "GET", "/status", { headers: { authorization: canary } }),
          yield* ask(port, "GET", `/status?token=${canary}`, as(ours.token)),
          yield* ask(port, "GET", `/database_schema?database=${canary}`, as(ours.token)),
          yield* ask(port, "POST", "/configure", {
            body: `{"${canary}`,
            headers: { "content-type": "application/json", authorization: `Bearer ${ours.token}` }
          }),
          yield* ask(port, "POST", "/configure", { json: { spec: { secret: canary } }, ...as(ours.token) }),
          yield* ask(port, "POST", "/configure", {
            json: { spec: { format_version: 1, secret: canary } },
            ...as(ours.token)
          })
        ]
        for (const { text } of answers) {
          assert.notInclude(text, canary)
          assert.notInclude(text, ours.token)
        }
      }).pipe(
        Effect.provide(inMemoryServices),
        Effect.provide(Logger.layer([listener])),
        Effect.provideService(References.MinimumLogLevel, "Trace")
      )
      assert.isAbove(logged.length, 8, "everything is logged, so the log is worth reading")
      for (const line of logged) {
        assert.notInclude(line, canary)
        for (const part of ours.token.split(".")) assert.notInclude(line, part)
      }
    })
  )
})
