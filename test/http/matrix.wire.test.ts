/**
 * Every declared route in every status, both API versions, with every kind of caller, over real sockets: the answer is
 * one that the document declares, a refusal is a refusal in full, and nobody passes who must not.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { statuses } from "../../src/compute/transitions.ts"
import { unverified } from "../../src/http/authorize.ts"
import { policy } from "../../src/http/routes.ts"
import { bodies, type Declared, declared, documentedRoutes, pathFor } from "./declared.ts"
import { type Ask, ask, inMemoryServices, open, reach, refusedOf, shortTimeouts } from "./testServer.ts"
import { verifierThat } from "./tokens.ts"

const claims: Readonly<Record<string, unknown>> = {
  ours: { compute_id: "compute-1" },
  admin: { scope: "compute_ctl:admin", aud: ["compute"] },
  theirs: { compute_id: "compute-2" },
  "wrong-audience": { scope: "compute_ctl:admin", aud: "pageserver" }
}

const verifier = verifierThat((token) => {
  const known = claims[Redacted.value(token)]
  return known === undefined ? Effect.fail(unverified) : Effect.succeed(known)
})

/** Who asks, and what stops them on a guarded route; `null`: nothing. */
const callers: ReadonlyArray<readonly [name: string, authorization: string | null, refused: number | null]> = [
  ["nobody", null, 400],
  ["a scheme we do not know", "Basic ours", 400],
  ["a stranger", "Bearer forged", 401],
  ["another compute", "Bearer theirs", 403],
  ["an administrator of something else", "Bearer wrong-audience", 401],
  ["this compute's", "Bearer ours", null],
  ["an administrator", "Bearer admin", null]
]

/** Our own Postgres asks for its extensions from this machine, as the test does, and has no token to show. */
const isOwn = ({ name }: Declared, refused: number | null): boolean => name === "fetchExtension" && refused === 400

/** What a route does to the compute must not decide what the next one is asked in. */
const last = ["configure", "refreshConfiguration", "terminate"]
const ordered = declared.toSorted((a, b) => last.indexOf(a.name) - last.indexOf(b.name))

/** The stream goes on for ever, so only its head is asked for. */
const methodFor = ({ method, name }: Declared): string => (name === "statusStream" ? "HEAD" : method)

const requestFor = (route: Declared, authorization: string | null): Ask => ({
  ...(route.name in bodies ? { json: bodies[route.name] } : {}),
  headers: authorization === null ? {} : { authorization }
})

describe("the declaration", () => {
  it("has every route in the document and the policy, and no other", () => {
    assert.deepStrictEqual(
      documentedRoutes.toSorted(),
      declared.map(({ documented, method }) => `${method} ${documented}`).toSorted()
    )
    for (const apiVersion of ["2024", "head"] as const) {
      assert.deepStrictEqual(
        policy(apiVersion).map(({ method, path }) => `${method} ${path}`),
        declared.map(({ method, path }) => `${method} ${path}`)
      )
    }
  })

  it("says of every guarded route that a token may be missing, unverified or not enough", () => {
    for (const { answers, group, name } of declared) {
      for (const code of [400, 401, 403]) if (group !== "open") assert.isTrue(answers.has(code), `${name} ${code}`)
    }
  })
})

describe("every route, status and caller", () => {
  for (const apiVersion of ["2024", "head"] as const) {
    for (const status of statuses) {
      // As they are usually started. That keys mean tokens in the 2024 version, too, is in access.wire.test.ts.
      const asks = apiVersion === "head"
      it.live(`${apiVersion}, ${status}`, () =>
        Effect.gen(function* () {
          for (const [name, authorization, refusedWith] of callers) {
            yield* Effect.gen(function* () {
              yield* reach(status)
              const { port } = yield* open({
                apiVersion,
                verifier: asks ? verifier : null,
                timeouts: shortTimeouts,
                refetch: Effect.never
              })
              for (const route of ordered) {
                const answer = yield* ask(port, methodFor(route), pathFor(route), requestFor(route, authorization))
                const where = `${route.method} ${route.path} for ${name}: ${answer.status} ${answer.text.slice(0, 200)}`
                assert.isTrue(route.answers.has(answer.status), `undeclared: ${where}`)
                const stopped = asks && route.group !== "open" && !isOwn(route, refusedWith) ? refusedWith : null
                if (stopped !== null) assert.strictEqual(answer.status, stopped, where)
                if (answer.status >= 300 && methodFor(route) !== "HEAD") {
                  const { code } = refusedOf(answer)
                  assert.strictEqual(code.startsWith("token_"), stopped !== null, where)
                }
                if (authorization !== null) assert.notInclude(answer.text, authorization)
              }
            }).pipe(Effect.scoped, Effect.provide(inMemoryServices))
          }
        })
      )
    }
  }

  it.live("with two ports each route is on those that the policy says, and the internal one asks for no token", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { internalPort, port } = yield* open({ verifier, internalPort: 0, timeouts: shortTimeouts })
      const rows = new Map(policy("head").map((row) => [`${row.method} ${row.path}`, row.listeners.split(", ")]))
      for (const route of ordered.filter(({ name }) => name !== "terminate")) {
        const listeners = rows.get(`${route.method} ${route.path}`) ?? []
        for (const [listener, at] of [
          ["external", port],
          ["internal", internalPort ?? 0]
        ] as const) {
          const { status, text } = yield* ask(at, methodFor(route), pathFor(route), requestFor(route, null))
          const code = status === 404 && methodFor(route) !== "HEAD" ? JSON.parse(text).code : ""
          // Another method of the same path may be there.
          const absent = code === "not_found" || status === 405 || (status === 404 && methodFor(route) === "HEAD")
          assert.strictEqual(
            absent,
            !listeners.includes(listener),
            `${route.method} ${route.path} on ${listener}: ${status} ${text}`
          )
          if (listener === "internal") assert.notInclude(text, "token_")
        }
      }
    }).pipe(Effect.provide(inMemoryServices))
  )
})
