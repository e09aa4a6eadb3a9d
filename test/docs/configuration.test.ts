/**
 * docs/configuration.md is what the tables of flags and variables and the spec's schema say.
 */
import { assert, describe, it } from "@effect/vitest"
import { expect } from "vitest"
import * as fs from "node:fs"
import * as path from "node:path"
import { configurationPage, specFields } from "./configurationPage.ts"

const file = path.resolve(import.meta.dirname, "../../docs/configuration.md")

describe("docs/configuration.md", () => {
  it("is made of the program's own tables, to the letter", async () => {
    assert.isTrue(fs.existsSync(file), `${file} is missing`)
    await expect(configurationPage()).toMatchFileSnapshot(file)
  })

  it("has a meaning for every field of a spec", () => {
    assert.isAbove(specFields.length, 60)
    for (const { name, node, path } of specFields) assert.match(node.description ?? "", /^\S.*\S$/s, `${name}.${path}`)
  })
})
