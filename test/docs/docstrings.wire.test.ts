/**
 * The examples in the docstrings of what the package exports: each export has one, all of them are in
 * `docstrings.generated.ts`, which the compiler checks with the rest (`vitest run -u` writes it), and those that need
 * no Postgres are run.
 */
import { assert, describe, expect, it } from "vitest"
import * as fs from "node:fs"
import * as path from "node:path"
import { cases } from "./docstrings.generated.ts"

const root = path.resolve(import.meta.dirname, "../..")
const entries = {
  "compute-ctl": "src/index.ts",
  "compute-ctl/testing": "src/testing/index.ts",
  "compute-ctl/promise": "src/testing/promise.ts"
}

interface Exported {
  readonly entry: string
  readonly name: string
  readonly file: string
}

const read = (file: string): string => fs.readFileSync(path.join(root, file), "utf8")

/** The values that an entry exports; types have no examples. */
const exportsOf = ([entry, file]: readonly [string, string]): ReadonlyArray<Exported> => {
  const text = read(file)
  const own = [...text.matchAll(/^export (?:const|class) (\w+)/gm)].map(([, name = ""]) => ({ entry, name, file }))
  const others = [...text.matchAll(/^export \{([^}]*)\} from "([^"]+)"/gm)].flatMap(([, names = "", from = ""]) =>
    names
      .split(",")
      .map((name) => name.trim())
      .filter((name) => name !== "" && !name.startsWith("type "))
      .map((name) => ({ entry, name, file: path.join(path.dirname(file), from) }))
  )
  return [...own, ...others]
}

const exported = Object.entries(entries).flatMap(exportsOf)

interface Example {
  readonly name: string
  readonly code: string
}

const codeIn = (doc: string): ReadonlyArray<string> =>
  [...doc.matchAll(/```ts\n([^]*?)```/g)].map(([, code = ""]) => code.replaceAll(/^ *\* ?/gm, ""))

/** Those of the declaration itself and, of a class, of what is static in it. */
const examplesOf = ({ file, name }: Exported): ReadonlyArray<Example> => {
  const text = read(file)
  const docOf = (declaration: RegExp) =>
    new RegExp(`/\\*\\*((?:(?!\\*/)[^])*)\\*/\\n${declaration.source}`, "gm").exec(text)?.[1] ?? ""
  const own = codeIn(docOf(new RegExp(`export (?:const|class) ${name}\\b`))).map((code) => ({ name, code }))
  const [body = ""] = new RegExp(`^export class ${name}\\b[^]*?^\\}`, "m").exec(text) ?? []
  const statics = [...body.matchAll(/^ {2}static readonly (\w+)/gm)].flatMap(([, part = ""]) =>
    codeIn(docOf(new RegExp(` {2}static readonly ${part}\\b`))).map((code) => ({ name: `${name}.${part}`, code }))
  )
  return [...own, ...statics]
}

/** A real Postgres, or one that is somewhere; a life that ends when it is told to. */
const notRun = /^(Compute|Compute\.\w+|program|runLifecycle|basebackupOf|databaseAt|makeAncestor|startCompute)$/

const isFirst = (one: Exported): boolean => exported.find(({ name }) => name === one.name) === one
const importsOf = (entry: string): string => {
  const names = exported.filter((one) => one.entry === entry && isFirst(one)).map(({ name }) => `  ${name}`)
  return `import {\n${names.sort().join(",\n")}\n} from "${entry}"`
}

/** What an example may take for given. */
const given = `
declare const inputs: PlanInputs
const wire: unknown = { format_version: 1, cluster: { roles: [], databases: [] } }
const spec = wire
const url: string = "postgresql://127.0.0.1/postgres"
const migrate = async (url: string) => url
const simulated = Layer.provideMerge(
  Layer.mergeAll(simulationLayer, Commands.layer, Promotions.layer),
  ComputeState.layer
)
`

const declared = /^(?:const|await using) (?:\{ (\w+) \}|(\w+))/gm

const caseOf = ({ code, name }: Example): string => {
  const names = [...code.matchAll(declared)].map(([, inside, alone]) => inside ?? alone)
  const body = `${code}return [${names.join(", ")}]`.replaceAll(/^(?=.)/gm, "      ")
  const isEffect = /^(?!\s).*\byield\*/m.test(code)
  return isEffect
    ? `  ["${name}", () => run(Effect.gen(function* () {\n${body}\n  }))]`
    : `  ["${name}", async () => {\n${body}\n  }]`
}

const generated = [
  "/** What docstrings.wire.test.ts makes of the docstrings: see there. */",
  ...["Effect", "Layer", "Result", "Schema"].map((name) => `import * as ${name} from "effect/${name}"`),
  'import type * as Scope from "effect/Scope"',
  'import type { PlanInputs, ProgramOptions } from "compute-ctl"',
  ...Object.keys(entries).map(importsOf),
  given,
  "const run = <A, E>(it: Effect.Effect<A, E, Layer.Success<typeof simulated> | Scope.Scope>) =>",
  "  Effect.runPromise(Effect.scoped(it).pipe(Effect.provide(simulated)))",
  "export const cases: ReadonlyArray<readonly [string, () => Promise<unknown>]> = [",
  exported.filter(isFirst).flatMap(examplesOf).map(caseOf).join(",\n"),
  "]",
  ""
].join("\n")

describe("the docstrings of what is exported", () => {
  it("have an example each", () => {
    assert.isAbove(exported.length, 30)
    const without = exported.filter((one) => examplesOf(one).length === 0).map(({ entry, name }) => `${entry} ${name}`)
    assert.deepStrictEqual(without, [])
  })

  it("are what the compiler checks", () => expect(generated).toMatchFileSnapshot("./docstrings.generated.ts"))

  it("have examples that run, where they need no Postgres", async () => {
    const failed: Array<string> = []
    const run = cases.filter(([name]) => !notRun.test(name))
    for (const [name, example] of run)
      await example().catch((cause: unknown) => failed.push(`${name}: ${String(cause)}`))
    assert.deepStrictEqual(failed, [])
    assert.isAbove(run.length, 20)
  })
})
