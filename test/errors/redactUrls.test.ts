/**
 * What URLs hold of secrets is in no text that is logged or answered.
 */
import { assert, describe, it } from "@effect/vitest"
import { ControlPlaneFailed, WireFailed } from "../../src/errors/Failure.ts"
import { explain } from "../../src/errors/policy.ts"
import { redactUrls } from "../../src/errors/redactUrls.ts"

const rows: ReadonlyArray<readonly [string, string]> = [
  ["http://user:secret@host/path", "http://user:***@host/path"],
  ["two: https://a:b@c and postgresql://d:e@f:5432/g", "two: https://a:***@c and postgresql://d:***@f:5432/g"],
  ["https://ghp_token@host/x", "https://***@host/x"],
  ["http://:secret@host", "http://:***@host"],
  ["postgresql://u:p@ss:w@rd@host/db", "postgresql://u:***@host/db"],
  ["postgresql://cloud_admin@localhost/postgres", "postgresql://cloud_admin@localhost/postgres"],
  ["http://[::1]:3080/status", "http://[::1]:3080/status"],
  ["http://host:80/a?mail=x@y", "http://host:80/a?mail=x@y"],
  ["http://host:80, and x@y", "http://host:80, and x@y"],
  ["no URL: a:b@c", "no URL: a:b@c"]
]

describe("a text about URLs", () => {
  for (const [text, expected] of rows) {
    it(`${text} is told as ${expected}`, () => assert.strictEqual(redactUrls(text), expected))
  }

  it("takes no longer than it is long", () => {
    for (const part of ["://", "://a:", "http://a", "://@", "a:"]) redactUrls(part.repeat(200_000))
  })
})

describe("a failure", () => {
  it("is explained without the secrets of its own words, nor those of its causes", () => {
    const cause = new Error("fetch failed", { cause: new Error("connect to http://x:canary@10.0.0.1:80 refused") })
    const failure = new ControlPlaneFailed({ uri: "http://me:canary@cp/", detail: "it is away", attempts: 1, cause })
    assert.notInclude(explain(failure), "canary")
    assert.include(explain(failure), "http://me:***@cp/")
    assert.include(explain(failure), "http://x:***@10.0.0.1:80")
    const wire = new WireFailed({ operation: "connect", peer: "postgresql://u:canary@h", detail: "refused" })
    assert.notInclude(explain(wire), "canary")
  })
})
