/**
 * The state diagram in the README: prints it, puts it there (`--write`), or checks that it is there (`--check`).
 *
 * The diagram is printed from `src/compute/transitions.ts`; nobody edits it.
 */
import * as fs from "node:fs"
import * as path from "node:path"
import { toMermaid } from "../src/compute/transitions.ts"

const begin = "<!-- diagram:begin -->"
const end = "<!-- diagram:end -->"
const readme = path.resolve(import.meta.dirname, "../README.md")

export const block = `\`\`\`mermaid\n${toMermaid()}\n\`\`\``

/** What stands between the markers, without blank lines around it; `null` when the markers are not there. */
export const between = (text: string): string | null => {
  const from = text.indexOf(begin)
  const to = text.indexOf(end)
  return from < 0 || to < from ? null : text.slice(from + begin.length, to).trim()
}

const write = (): void => {
  const text = fs.readFileSync(readme, "utf8")
  const old = between(text)
  if (old === null) throw new Error(`README.md has no place for it: add ${begin} and ${end}`)
  const [before, after] = [text.slice(0, text.indexOf(begin)), text.slice(text.indexOf(end))]
  fs.writeFileSync(readme, `${before}${begin}\n${block}\n${after}`)
}

const check = (): void => {
  const found = fs.existsSync(readme) ? between(fs.readFileSync(readme, "utf8")) : null
  if (found === block) return
  console.error(
    "the diagram in README.md is not the one of src/compute/transitions.ts: run `node .ci/diagram.ts --write`"
  )
  process.exitCode = 1
}

if (import.meta.main) {
  if (process.argv.includes("--write")) write()
  else if (process.argv.includes("--check")) check()
  else console.log(block)
}
