/**
 * The glossary names only what the code has.
 */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"

const root = path.resolve(import.meta.dirname, "../..")
const context = fs.readFileSync(path.join(root, "CONTEXT.md"), "utf8")
const names = [...new Set([...context.matchAll(/`([^`]+)`/g)].map((match) => match[1] ?? ""))]

const code = fs
  .readdirSync(path.join(root, "src"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".ts"))
  .map((file) => fs.readFileSync(path.join(root, "src", file), "utf8"))
  .join("\n")
  .replace(/\/\*.*?\*\//gs, "")
  .replace(/^\s*\/\/.*$/gm, "")

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&")
const occurs = (text: string) => new RegExp(`(?<!\\w)${escaped(text)}(?!\\w)`).test(code)
const isPath = (name: string) => name.startsWith("src/")

describe("CONTEXT.md", () => {
  it("names things", () => {
    assert.isAbove(names.length, 20)
  })

  for (const name of names) {
    it(`${name} exists`, () => {
      if (isPath(name)) assert.isTrue(fs.existsSync(path.join(root, name)), `no file or folder ${name}`)
      else assert.isTrue(occurs(name) || name.split(".").every(occurs), `no code in src/ has the name ${name}`)
    })
  }
})
