/**
 * Bodies of nothing but faults, by HTTP: each is refused with an answer that is short, and probes are answered next.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { parseSpec } from "../../src/spec/parseSpec.ts"
import { ask, inMemoryServices, open, reach, refusedOf } from "./testServer.ts"

const items = 100_000
const list = (one: string): string => `[${`${one},`.repeat(items - 1)}${one}]`
const maxAnswer = 64_000

const spec = (cluster: string): string => `{"spec":{"format_version":1,"cluster":${cluster}}}`
const bodies: ReadonlyArray<readonly [what: string, path: string, body: string]> = [
  ["roles", "/configure", spec(`{"databases":[],"roles":${list("{}")}}`)],
  ["options", "/configure", spec(`{"databases":[],"roles":[{"name":"r","options":${list("7")}}]}`)],
  ["keys twice", "/configure", `{${'"a":1,'.repeat(items)}"spec":{}}`],
  ["keys of the API", "/configure", `{"spec":{},"compute_ctl_config":{"jwks":{"keys":${list("{}")}}}}`],
  ["a list of bodies", "/configure", list("{}")],
  ["roles", "/promote", `{"wal_flush_lsn":"0/1",${spec(`{"databases":[],"roles":${list("{}")}}`).slice(1)}`],
  ["privileges", "/grants", `{"database":"d","schema":"s","role":"r","privileges":${list('"x"')}}`],
  ["good privileges", "/grants", `{"database":"d","schema":"s","role":"r","privileges":${list('"USAGE"')}}`],
  ["a list of bodies", "/grants", list("{}")],
  ["a long version", "/extensions", `{"extension":"e","database":"d","version":"${"1".repeat(items)}"}`],
  ["a long name", "/extensions", `{"extension":"${"1".repeat(items)}","database":"d","version":"1"}`],
  ["a long reason", "/holds", `{"ttl_seconds":1,"reason":"${"1".repeat(items)}"}`],
  ["a long name of a member", "/holds", `{"ttl_seconds":1,"${"1".repeat(items)}":1,"${"1".repeat(items)}":1}`]
]

describe("a body of 10⁵ faults", () => {
  for (const [what, path, body] of bodies) {
    it.live(`${what}, ${path}: the answer is short`, () =>
      Effect.gen(function* () {
        yield* reach("running")
        for (const apiVersion of ["2024", "head"] as const) {
          const { port } = yield* open({
            apiVersion,
            parseSpec: (input) => parseSpec(input, { source: "the request", storage: "local", under: ["spec"] })
          })
          const answer = yield* ask(port, "POST", path, { body, headers: { "content-type": "application/json" } })
          assert.include([400, 422], answer.status)
          assert.isAtMost(answer.text.length, maxAnswer)
          assert.isAtMost(refusedOf(answer).problems?.length ?? 0, 101)
          assert.strictEqual((yield* ask(port, "GET", "/livez")).status, 200)
        }
      }).pipe(Effect.provide(inMemoryServices))
    )
  }
})
