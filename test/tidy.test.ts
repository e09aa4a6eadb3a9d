/**
 * Properties of the code itself: module edges, purity, size, headers, banned words, and what tests may not do.
 *
 * Circles, lengths of functions and unused exports are for oxlint and knip, which run next to this in `npm run check`.
 */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"

const root = path.resolve(import.meta.dirname, "..")
const typescriptIn = (folder: string): ReadonlyArray<string> =>
  fs
    .readdirSync(path.join(root, folder), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .sort()
const files = typescriptIn("src")
const src = path.join(root, "src")
const readSource = (file: string) => fs.readFileSync(path.join(src, file), "utf8")
const testFiles = ["test", "examples"].flatMap((folder) => typescriptIn(folder).map((file) => `${folder}/${file}`))

interface Import {
  readonly target: string
  /** Every name of it is a type, so nothing of it is there when the program runs. */
  readonly typeOnly: boolean
}

const statement = /^(?:import|export)\s+(type\s)?(?:(\{[^}]*\}|[^{}"';]*?)\s*from\s+)?"([^"]+)"/gm
const isTypeList = (names: string): boolean =>
  names
    .slice(1, -1)
    .split(",")
    .every((name) => /^\s*(type\s|$)/.test(name))
const importsOf = (text: string): ReadonlyArray<Import> => [
  ...[...text.matchAll(statement)].map(([, type, names = "", target = ""]) => ({
    target,
    typeOnly: type !== undefined || (names.startsWith("{") && isTypeList(names))
  })),
  ...[...text.matchAll(/import\("([^"]+)"\)/g)].map(([, target = ""]) => ({ target, typeOnly: false }))
]

const moduleOf = (file: string) => (file.includes("/") ? file.slice(0, file.indexOf("/")) : file)
const resolved = (file: string, target: string) => path.relative(src, path.resolve(src, path.dirname(file), target))
const targetsOf = (file: string): ReadonlyArray<string> =>
  importsOf(readSource(file))
    .filter(({ target }) => target.startsWith("."))
    .map(({ target }) => resolved(file, target))

/** Which modules a module may import from. A new edge is a word here; an edge that nothing uses any more goes. */
const edges: Record<string, string> = {
  errors: "",
  pgwire: "errors",
  platform: "errors",
  spec: "errors pgwire",
  postgres: "errors pgwire platform spec",
  compute: "errors postgres spec",
  logging: "compute errors platform postgres spec",
  telemetry: "compute platform",
  controlplane: "compute errors platform spec",
  catalog: "compute errors pgwire platform postgres spec",
  storage: "compute errors pgwire platform postgres spec",
  activity: "compute errors pgwire",
  autoscaling: "compute errors pgwire platform spec telemetry",
  extensions: "compute errors pgwire platform postgres spec telemetry",
  lfc: "compute errors pgwire spec",
  sidecars: "compute errors pgwire platform postgres spec telemetry",
  tls: "compute errors platform postgres spec",
  http: "activity compute errors extensions pgwire platform postgres spec telemetry tls",
  lifecycle:
    "activity autoscaling catalog compute errors extensions http lfc logging pgwire platform postgres sidecars spec " +
    "storage telemetry tls",
  testing: "catalog compute errors http lifecycle logging pgwire platform postgres spec storage",
  cli:
    "autoscaling catalog compute controlplane errors http lifecycle logging pgwire platform postgres spec storage " +
    "version.ts",
  "version.ts": "",
  "index.ts": "compute errors lifecycle postgres spec storage testing",
  "main.ts": "cli compute errors http lifecycle logging platform postgres telemetry testing version.ts"
}

/**
 * Files that only compute: they decide, read and print, and whoever calls them does. None imports Effect's runtime or
 * Node, and none imports a value from a file that is not pure as well.
 */
const pure: ReadonlyArray<RegExp> = [
  /^catalog\/plan\w*\.ts$/,
  /^catalog\/(Catalog|concurrency|draft|operations|options|outcome|roleAttributes|joinedMessage)\.ts$/,
  /^activity\/(activity|lastHour|statistics)\.ts$/,
  /^autoscaling\/(decisions|protocol)\.ts$/,
  /^compute\/(transitions|snapshot|promotion|replication|specConflict)\.ts$/,
  /^http\/(pages|refusals|views)\.ts$/,
  /^http\/page\/(diagram|text)\.ts$/,
  /^cli\/(banner|completions|flags|given|help|manual)\.ts$/,
  /^errors\/(Failure|AuxiliaryFailure|StorageFailure|catalogue|errno|policy|redactUrls)\.ts$/,
  /^extensions\/(controlText|plan)\.ts$/,
  /^logging\/filter\.ts$/,
  /^pgwire\/(address|ConnString|ownSessions|quote)\.ts$/,
  /^platform\/duration\.ts$/,
  /^postgres\/(PlanInputs|confText|controlFile|hba|localConf|logRecords|postgresqlConf|startPlan)\.ts$/,
  /^spec\//,
  /^storage\/local\/(backupLabel|basePolicy|walSegments)\.ts$/,
  /^storage\/neon\/refusals\.ts$/,
  /^telemetry\/(environment|prometheus)\.ts$/
]
const isPure = (file: string) => pure.some((pattern) => pattern.test(file))
/** Values of Effect: data types and what is computed from them. */
const pureEffect =
  /^effect\/(Array|DateTime|Duration|Equal|Option|Order|Predicate|Redacted|Result|Schema|SchemaAST|SchemaIssue)$/

const banned: ReadonlyArray<readonly [RegExp, string]> = [
  [/\bDate\.now\(|new Date\(/, "use DateTime or Clock"],
  [/\bMath\.random\(/, "use Random"],
  [/(?<!\.)\b(setTimeout|setInterval)\(/, "use Effect.sleep or Schedule"],
  [/\bconsole\./, "use Effect.log"],
  [/\bas any\b|: any\b|<any>/, "say the type"],
  [/@ts-(ignore|expect-error|nocheck)/, "say the type"],
  [/\bTODO\b|\bFIXME\b|\bXXX\b/, "finish it or file it"],
  [/from "(effect|@effect\/platform-node|@effect\/sql-pg)"/, "import by file, never a barrel"]
]

const width = 120

describe("the sources", () => {
  for (const file of files) {
    it(`${file} is of its size, opens with what it is, and uses what the program has`, () => {
      const text = readSource(file)
      assert.isAtMost(text.split("\n").length, 400, "one idea per file")
      assert.isTrue(text.replace(/^#!.*\n/, "").startsWith("/**\n * "), "open with one sentence saying what this is")
      for (const [pattern, remedy] of banned) assert.notMatch(text, pattern, remedy)
      if (file !== "main.ts") assert.notMatch(text, /\bprocess\.env\b/, "the environment arrives as a value")
    })
  }

  it(`no line is longer than ${width} columns`, () => {
    const written = [...files.map((file) => `src/${file}`), ...testFiles, ...typescriptIn(".ci").map((f) => `.ci/${f}`)]
    const wide = written.flatMap((file) =>
      fs
        .readFileSync(path.join(root, file), "utf8")
        .split("\n")
        .flatMap((line, index) => (line.length > width ? [`${file}:${index + 1}`] : []))
    )
    assert.deepStrictEqual(wide, [])
  })

  it("a module imports only from the modules it may know", () => {
    const strangers = files.flatMap((file) => {
      const here = moduleOf(file)
      const allowed = edges[here] ?? assert.fail(`${here} has no line in the table of edges`)
      return targetsOf(file)
        .filter((other) => here !== moduleOf(other) && !allowed.split(" ").includes(moduleOf(other)))
        .map((other) => `${file} must not know ${other}`)
    })
    assert.deepStrictEqual(strangers, [])
  })

  it("no allowed edge is unused", () => {
    const used = new Set(
      files.flatMap((file) => targetsOf(file).map((other) => `${moduleOf(file)} ${moduleOf(other)}`))
    )
    const unused = Object.entries(edges).flatMap(([here, allowed]) =>
      allowed
        .split(" ")
        .filter((there) => there !== "" && !used.has(`${here} ${there}`))
        .map((there) => `${here} ${there}`)
    )
    assert.deepStrictEqual(unused, [])
  })

  it("a pure file imports neither Effect's runtime nor Node, nor a value from a file that is not pure", () => {
    const impure = files.filter(isPure).flatMap((file) =>
      importsOf(readSource(file))
        .filter(({ typeOnly }) => !typeOnly)
        .filter(({ target }) => (target.startsWith(".") ? !isPure(resolved(file, target)) : !pureEffect.test(target)))
        .map(({ target }) => `${file} imports ${target}`)
    )
    assert.deepStrictEqual(impure, [])
  })

  it("every pattern of a pure file has files", () => {
    for (const pattern of pure)
      assert.isTrue(
        files.some((file) => pattern.test(file)),
        String(pattern)
      )
  })

  it("a file is named for its topic, not for its kind", () => {
    for (const file of files)
      assert.notMatch(file, /(^|\/)(utils?|common|helpers?|misc|services?|layers?|types)(\/|\.ts$)/i)
  })
})

/** Files whose tests may let real time pass, and why. Everybody else waits on state, or on virtual time. */
const realTime: Record<string, string> = {
  "test/chaos/waiting.ts": "strikes at moments that nothing announces",
  "test/postgres/logPipe.wire.test.ts": "a program that it starts sleeps",
  "test/postgres/stock.pg.test.ts": "asks Postgres again until it has read its files",
  "test/program/harness.ts": "looks at a process from outside, and gives up on one that hangs",
  "test/program/killCycles.ts": "kills at moments that nothing announces",
  "test/program/signals.pg.test.ts": "sends a signal twice as a terminal does, a millisecond apart",
  "test/storage/local/computes.ts": "looks at files that Postgres writes",
  "test/support/postgres.ts": "looks at a process from outside, and gives up on one that hangs",
  "test/support/waiting.ts": "the pause between two looks, for everybody else"
}

/** `Effect.sleep` passes virtual time in a test that has a clock of its own, and ours in one of the real world. */
const passesRealTime = (file: string): boolean => {
  const text = fs.readFileSync(path.join(root, file), "utf8")
  const virtual = file.endsWith(".test.ts") && !/\.(pg|wire)\.test\.ts$/.test(file)
  return /\bset(Timeout|Interval)\b/.test(text) || (!virtual && /\bEffect\.(sleep|delay)\(/.test(text))
}

describe("the tests", () => {
  for (const file of testFiles.filter((one) => !one.endsWith("tidy.test.ts") && !one.startsWith("test/bench/"))) {
    it(`${file} skips and focuses nothing, and lets no real time pass`, () => {
      const text = fs.readFileSync(path.join(root, file), "utf8")
      assert.notMatch(text, /\.(skip|only|todo|skipIf|runIf)\(|\bskip: true/)
      if (!(file in realTime))
        assert.isFalse(passesRealTime(file), "wait on state: eventually of test/support/waiting.ts")
    })
  }

  it("who may let real time pass still does", () => {
    for (const file of Object.keys(realTime)) assert.isTrue(passesRealTime(file), file)
  })
})
