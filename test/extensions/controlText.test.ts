/**
 * Which control files are taken; that Postgres says the same is asked of a real one in `create.pg.test.ts`.
 */
import { assert, describe, it } from "@effect/vitest"
import { faultOfControlFile } from "../../src/extensions/controlText.ts"
import { badTexts, goodTexts } from "./controlTexts.ts"

describe("a control file", () => {
  it("is taken as Postgres takes it", () => {
    for (const text of goodTexts) assert.isNull(faultOfControlFile("x.control", text, 17), text)
    for (const text of badTexts) assert.isNotNull(faultOfControlFile("x.control", text, 17), text)
  })

  it("of an older Postgres has no newer parameters", () => {
    assert.isNull(faultOfControlFile("x.control", "no_relocate = 'a'", 16))
    assert.strictEqual(
      faultOfControlFile("x.control", "\nno_relocate = 'a'", 15),
      "line 2: Postgres 15 has no parameter no_relocate"
    )
  })

  it("of one version says neither where it is nor which it is", () => {
    assert.isNull(faultOfControlFile("x--1.0.control", "comment = 'a'", 17))
    assert.isNotNull(faultOfControlFile("x--1.0.control", "default_version = '1.0'", 17))
  })

  it("lies in the folder of control files", () => {
    for (const name of ["../x.control", "x", "a/x.control", ".control"])
      assert.isNotNull(faultOfControlFile(name, "", 17), name)
  })
})
