/**
 * Prints how the sources of a checkout are cut: `npm run counts [-- FOLDER]`. The folder may hold any commit of this
 * project; the tools and their rules are those of this checkout, so that two commits can be compared.
 */
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"

const ours = path.resolve(import.meta.dirname, "..")
const folder = path.resolve(process.argv[2] ?? ours)
const bin = (name: string) => path.join(ours, "node_modules/.bin", name)

const typescriptIn = (at: string): ReadonlyArray<string> =>
  fs.existsSync(at)
    ? fs
        .readdirSync(at, { recursive: true, encoding: "utf8" })
        .filter((file) => file.endsWith(".ts") && !file.includes("node_modules"))
        .map((file) => path.join(at, file))
    : []
const linesOf = (file: string): ReadonlyArray<string> => fs.readFileSync(file, "utf8").replace(/\n$/, "").split("\n")

const sources = typescriptIn(path.join(folder, "src"))
const written = [...sources, ...["test", "examples", ".ci"].flatMap((name) => typescriptIn(path.join(folder, name)))]
const lengths = sources.map((file) => linesOf(file).length)

/** Findings of one rule of oxlint in the sources, with this configuration and no other. */
const findings = (rule: string, setting: unknown): ReadonlyArray<string> => {
  const at = fs.mkdtempSync(path.join(os.tmpdir(), "counts-"))
  try {
    const config = path.join(at, "oxlintrc.json")
    fs.writeFileSync(
      config,
      JSON.stringify({ plugins: ["import"], categories: { correctness: "off" }, rules: { [rule]: setting } })
    )
    const { stdout } = spawnSync(bin("oxlint"), ["-c", config, "-f", "unix", "--disable-nested-config", "src"], {
      cwd: folder,
      encoding: "utf8",
      maxBuffer: 2 ** 26
    })
    return stdout.split("\n").filter((line) => /^\S+:\d+:\d+: /.test(line))
  } finally {
    fs.rmSync(at, { recursive: true, force: true })
  }
}

/** Files that import each other, directly or over others: every group counts once. */
const circles = (): number => {
  const targets = new Map(
    sources.map((file) => [
      file,
      [...fs.readFileSync(file, "utf8").matchAll(/(?:from|import\()\s*"(\.[^"]+)"/g)].map(([, target = ""]) =>
        path.resolve(path.dirname(file), target)
      )
    ])
  )
  const reached = (from: string): ReadonlySet<string> => {
    const seen = new Set<string>()
    const queue = [...(targets.get(from) ?? [])]
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
      if (seen.has(next)) continue
      seen.add(next)
      queue.push(...(targets.get(next) ?? []))
    }
    return seen
  }
  const all = new Map(sources.map((file) => [file, reached(file)]))
  const inCircle = sources.filter((file) => all.get(file)?.has(file))
  const groups = new Set(
    inCircle.map((file) => inCircle.filter((other) => all.get(file)?.has(other) && all.get(other)?.has(file)).join())
  )
  return groups.size
}

/** Exports that no other file uses, by knip's default rules: whatever rules the checkout has are left aside. */
const unusedExports = (): number | null => {
  if (!fs.existsSync(path.join(folder, "node_modules"))) return null
  const { stdout } = spawnSync(bin("knip"), ["--include", "exports,types", "--reporter", "json", "--no-exit-code"], {
    cwd: folder,
    encoding: "utf8",
    maxBuffer: 2 ** 26
  })
  const report = JSON.parse(stdout) as {
    readonly issues: ReadonlyArray<{
      readonly exports?: ReadonlyArray<unknown>
      readonly types?: ReadonlyArray<unknown>
    }>
  }
  return report.issues.reduce((sum, { exports = [], types = [] }) => sum + exports.length + types.length, 0)
}

/** Comments that cite a section by number, which no page of the repository has; and cited pages that are not there. */
const unresolvedCitations = (): number =>
  sources
    .flatMap(linesOf)
    .filter(
      (line) =>
        /\b[Rr]eference,? sections? \d|\(sections? \d/.test(line) ||
        [...line.matchAll(/\bdocs\/[\w./-]+\.md\b/g)].some(([page]) => !fs.existsSync(path.join(folder, page)))
    ).length

const commit = (): string => {
  try {
    return execFileSync("git", ["log", "-1", "--format=%h %s"], { cwd: folder, encoding: "utf8", stdio: "pipe" }).trim()
  } catch {
    return "no commit"
  }
}

const rows: ReadonlyArray<readonly [what: string, count: number | null]> = [
  ["files in src", sources.length],
  ["lines in src", lengths.reduce((sum, length) => sum + length, 0)],
  ["files directly in src", sources.filter((file) => path.dirname(file) === path.join(folder, "src")).length],
  ["files under 40 lines", lengths.filter((length) => length < 40).length],
  ["files over 400 lines", lengths.filter((length) => length > 400).length],
  ["functions over 70 lines", findings("max-lines-per-function", ["error", { max: 70 }]).length],
  ["circles of files", circles()],
  ["lines over 120 columns, tests included", written.flatMap(linesOf).filter((line) => line.length > 120).length],
  ["unused exports", unusedExports()],
  ["citations that lead nowhere", unresolvedCitations()]
]

console.log(`${folder} (${commit()})`)
for (const [what, count] of rows) console.log(`${what.padEnd(40)} ${count === null ? "not installed" : count}`)
