/**
 * The example spec: no password of it is public, and its databases have owners.
 */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import { specOf, fixtures } from "../support/fixtures.ts"

describe("examples/spec.json", () => {
  const spec = specOf(fixtures.example, "local")

  it("has no verifier, whose password everybody would know", () => {
    assert.deepStrictEqual(
      spec.roles.map(({ name, password }) => [name, password._tag]),
      [
        ["alice", "Unmanaged"],
        ["bob", "None"],
        ["reporting", "None"]
      ]
    )
  })

  it("leaves the password of alice to npm start, which makes one", () => {
    const { scripts } = JSON.parse(fs.readFileSync(new URL("../../package.json", import.meta.url), "utf8"))
    assert.match(scripts.start, / --generate-password alice /)
  })

  it("every database has an owner among the roles", () => {
    const names = new Set(spec.roles.map((role) => role.name))
    for (const database of spec.databases) assert.isTrue(names.has(database.owner), database.name)
  })
})
