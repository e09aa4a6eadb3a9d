/**
 * docs/configuration.md, made of the tables that the program itself reads: flags, environment variables, and the schema
 * that a spec is decoded by. Pure.
 */
import { environment, flags } from "../../src/cli/flags.ts"
import { generationsNote } from "../../src/cli/help.ts"
import { specJsonSchema } from "../../src/cli/validate.ts"

interface Node {
  readonly $ref?: string
  readonly type?: string
  readonly enum?: ReadonlyArray<string>
  readonly anyOf?: ReadonlyArray<Node>
  readonly items?: Node
  readonly properties?: Readonly<Record<string, Node>>
  readonly required?: ReadonlyArray<string>
  readonly additionalProperties?: boolean | Node
  readonly description?: string
}

const { $defs } = specJsonSchema() as { readonly $defs: Readonly<Record<string, Node>> }

const cell = (text: string): string => text.replaceAll("|", "\\|")
const row = (...cells: ReadonlyArray<string>): string => `| ${cells.map(cell).join(" | ")} |`
const code = (text: string | null): string => (text === null ? "" : `\`${text}\``)

const nameOf = (reference: string): string => reference.replace("#/$defs/", "")
const isNull = ({ type }: Node): boolean => type === "null"
const inQuotes = (words: ReadonlyArray<string>): string => words.map((word) => `\`"${word}"\``).join(" or ")

const typeOf = (node: Node): string => {
  if (node.$ref !== undefined) {
    const name = nameOf(node.$ref)
    return $defs[name]?.properties === undefined ? typeOf($defs[name] ?? {}) : `[${name}](#${name.toLowerCase()})`
  }
  if (node.anyOf !== undefined) return node.anyOf.map((one) => (isNull(one) ? "null" : typeOf(one))).join(" or ")
  if (node.enum !== undefined) return inQuotes(node.enum)
  if (node.type === "array") return `array of ${typeOf(node.items ?? {})}`
  if (typeof node.additionalProperties === "object") return `map of ${typeOf(node.additionalProperties)}`
  return node.type ?? "any"
}

interface Field {
  readonly path: string
  readonly node: Node
  readonly required: boolean
}

/** What a node holds without a name of its own. */
const inside = (path: string, node: Node): ReadonlyArray<Field> => {
  if (node.properties !== undefined) {
    return Object.entries(node.properties).flatMap(([name, one]) => [
      { path: `${path}.${name}`, node: one, required: node.required?.includes(name) === true },
      ...inside(`${path}.${name}`, one)
    ])
  }
  if (node.items !== undefined) return inside(`${path}[]`, node.items)
  if (typeof node.additionalProperties === "object") return inside(`${path}.*`, node.additionalProperties)
  return (node.anyOf ?? []).flatMap((one) => inside(path, one))
}

/** Every field of one definition, with its path in it. */
const fieldsOf = (name: string): ReadonlyArray<Field> =>
  inside("", $defs[name] ?? {}).map((field) => ({ ...field, path: field.path.slice(1) }))

/** Definitions with fields, the spec itself first. */
const structs = Object.keys($defs)
  .filter((name) => $defs[name]?.properties !== undefined)
  .sort((a, b) => Number(b === "ComputeSpec") - Number(a === "ComputeSpec"))

export const specFields = structs.flatMap((name) => fieldsOf(name).map((field) => ({ name, ...field })))

const flagTables = [...new Set(flags.map(({ category }) => category))].flatMap((category) => [
  `### ${category}`,
  "",
  row("flag", "meaning", "default", "variable", "version"),
  "|---|---|---|---|---|",
  ...flags
    .filter((flag) => flag.category === category)
    .map(({ env, fallback, generation, meaning, name, short, value }) => {
      const spelled = `${short === null ? "" : `-${short}, `}--${name}${value === null ? "" : ` ${value}`}`
      return row(code(spelled), meaning, fallback ?? "", code(env), generation)
    }),
  ""
])

const specTables = structs.flatMap((name) => [
  `### ${name}`,
  "",
  row("field", "type", "meaning"),
  "|---|---|---|",
  ...fieldsOf(name).map(({ node, path, required }) =>
    row(code(path), typeOf(node) + (required ? ", required" : ""), node.description ?? "")
  ),
  ""
])

export const configurationPage = (): string =>
  [
    "# Configuration",
    "",
    "Every flag, environment variable and field of a spec. This page is made of the program's own tables",
    "(`npx vitest run --project fast test/docs/configuration.test.ts -u`); `compute_ctl --help`, `compute_ctl man` and",
    "`compute_ctl schema` print the same.",
    "",
    "## Flags",
    "",
    generationsNote,
    "`ours` are flags that the reference does not have. A flag that is given wins over its variable.",
    "",
    ...flagTables,
    "## Environment variables",
    "",
    "Beside those of flags.",
    "",
    row("variable", "meaning"),
    "|---|---|",
    ...environment.map(({ meaning, names }) => row(names.map(code).join(", "), meaning)),
    "",
    "## The spec",
    "",
    "A JSON object. What it does not know is ignored, at every level. A field that is not required may be left out or,",
    "where its type says so, be null. `compute_ctl validate` says what is wrong with one, by path.",
    "",
    ...specTables
  ].join("\n")
