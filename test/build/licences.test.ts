/**
 * The licence texts that go with the bundle.
 */
import { afterAll, assert, describe, it } from "vitest"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { licencesOf } from "../../.ci/licences.ts"

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-licences-"))
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

const put = (name: string, files: Readonly<Record<string, string>>): string => {
  const at = path.join(folder, "node_modules", name)
  fs.mkdirSync(at, { recursive: true })
  fs.writeFileSync(path.join(at, "package.json"), JSON.stringify({ name, version: "1.2.3", license: "MIT" }))
  for (const [file, text] of Object.entries(files)) fs.writeFileSync(path.join(at, file), text)
  return path.join(at, "dist/index.js")
}

describe("licences of a bundle", () => {
  it("are those of each package in it, once, with notices, and none of our own files", () => {
    const one = put("@some/one", { LICENSE: "one's words\n", NOTICE: "one's notice\n" })
    const other = put("other", { "LICENCE.md": "other's words\n" })
    const text = licencesOf([one, `${one}.more.js`, other, path.join(folder, "src/main.ts")])
    assert.match(text, /^compute_ctl contains these 2 packages/)
    for (const words of ["one's words", "one's notice", "other's words"])
      assert.lengthOf(text.match(new RegExp(words, "g")) ?? [], 1)
  })

  it("stop the build where a package brings none", () => {
    const bare = put("bare", { "README.md": "hello" })
    assert.throws(() => licencesOf([bare]), /bare 1\.2\.3 is in the bundle and brings no licence text/)
  })
})
