/**
 * What comments and pages point to can be opened: files, and headings in them.
 */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"

const root = path.resolve(import.meta.dirname, "../..")
const filesIn = (folder: string, ending: RegExp): ReadonlyArray<string> =>
  fs
    .readdirSync(path.join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((file) => ending.test(file) && !file.includes("node_modules"))
    .map((file) => path.join(folder, file))
    .sort()
const read = (file: string) => fs.readFileSync(path.join(root, file), "utf8")

const code = ["src", "test", "examples", ".ci"].flatMap((folder) => filesIn(folder, /\.ts$/))
const pages = ["README.md", "CONTEXT.md", ...["docs", "test", "examples"].flatMap((folder) => filesIn(folder, /\.md$/))]

/** Code blocks hold no headings and no links. */
const prose = (text: string) => text.replace(/^```.*?^```/gms, "")

/** As GitHub makes an anchor of a heading; a link in a heading counts by its words. */
const slug = (heading: string) =>
  heading
    .replace(/\[([^\]]*)\]\([^)]*\)/g, "$1")
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, "")
    .replace(/\s/g, "-")

const anchorsOf = (file: string): ReadonlySet<string> => {
  const text = prose(read(file))
  const headings = [...text.matchAll(/^#{1,6} (.+)$/gm)].map((match) => slug(match[1] ?? ""))
  const named = [...text.matchAll(/<a id="([^"]+)">/g)].map((match) => match[1] ?? "")
  return new Set([...headings, ...named])
}

/** What is wrong with a reference to `file#anchor`; `null` when it can be opened. */
const broken = (file: string, anchor: string | undefined): string | null => {
  if (!fs.existsSync(path.join(root, file))) return `${file} does not exist`
  return anchor === undefined || anchorsOf(file).has(anchor) ? null : `${file} has no anchor #${anchor}`
}

const citationsOf = (file: string): ReadonlyArray<string> =>
  [...read(file).matchAll(/(?<![\w./-])docs\/[\w./-]+\.md(?:#[\w-]+)?/g)].map((match) => match[0])

const linksOf = (file: string): ReadonlyArray<string> =>
  [...prose(read(file)).matchAll(/\]\(([^)\s]+)\)/g)]
    .map((match) => match[1] ?? "")
    .filter((target) => !/^[a-z]+:/.test(target))

const split = (target: string): readonly [file: string, anchor: string | undefined] => {
  const [file = "", anchor] = target.split("#")
  return [file, anchor]
}

describe("citations", () => {
  it("every cited page of docs/ has the cited heading", () => {
    const cited = [...code, ...pages].flatMap((file) => citationsOf(file).map((target) => [file, target] as const))
    const problems = cited.flatMap(([file, target]) => {
      const problem = broken(...split(target))
      return problem === null ? [] : [`${file}: ${problem}`]
    })
    assert.deepStrictEqual(problems, [])
    assert.isAbove(cited.length, 50, "the pattern still finds them")
  })

  it("every relative link of a page leads to a file and a heading", () => {
    const problems = pages.flatMap((page) =>
      linksOf(page).flatMap((target) => {
        const [file, anchor] = split(target)
        const problem = broken(file === "" ? page : path.join(path.dirname(page), file), anchor)
        return problem === null ? [] : [`${page}: ${problem}`]
      })
    )
    assert.deepStrictEqual(problems, [])
  })

  it("no comment cites sections by number", () => {
    const numbered = /\b[Rr]eference,?[\s*/]+sections?\b|\((?:reference[\s*/]+)?sections?[\s*/]+\d/
    for (const file of [...code, ...pages]) assert.notMatch(read(file), numbered, file)
  })

  it("anchors are those of GitHub", () => {
    assert.deepStrictEqual(
      ["Start", "postgresql.conf", "local_proxy and TLS in the spec", "[ADR](adr/0001.md), `code`"].map(slug),
      ["start", "postgresqlconf", "local_proxy-and-tls-in-the-spec", "adr-code"]
    )
  })
})
