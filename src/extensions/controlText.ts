/**
 * Whether Postgres would take the text of a control file (`read_extension_control_file` in
 * src/backend/commands/extension.c). One that it does not take makes every look at the list of extensions fail. Pure.
 */
import { readLine } from "../postgres/confText.ts"

/** Each with the oldest major version that knows it, where not all do that we support. */
const parameters: ReadonlyMap<string, number> = new Map([
  ["directory", 0],
  ["default_version", 0],
  ["module_pathname", 0],
  ["comment", 0],
  ["schema", 0],
  ["relocatable", 0],
  ["superuser", 0],
  ["trusted", 0],
  ["encoding", 0],
  ["requires", 0],
  ["no_relocate", 16]
])

const booleans = new Set(["relocatable", "superuser", "trusted"])
/** As `parse_bool` has it: a beginning of one of these words that cannot begin another. */
const isTrue = (value: string): boolean => /^(t(r(ue?)?)?|y(es?)?|on|1)$/i.test(value)
const isFalse = (value: string): boolean => /^(f(a(l(se?)?)?)?|no?|off?|0)$/i.test(value)

/** Of one version alone: `NAME--VERSION.control`. */
const isSecondary = (name: string): boolean => name.includes("--")

const faultOfLine = (line: string, secondary: boolean, postgresMajor: number): string | null => {
  const entry = readLine(line)
  // Names are compared as they are written, unlike those of settings.
  if (entry === null || !line.trimStart().startsWith(entry.name)) return "it is no setting"
  const { name, value } = entry
  const since = parameters.get(name)
  if (since === undefined || since > postgresMajor) return `Postgres ${postgresMajor} has no parameter ${name}`
  if (secondary && (name === "directory" || name === "default_version"))
    return `${name} cannot be set for one version alone`
  return booleans.has(name) && !isTrue(value) && !isFalse(value) ? `${name} is neither true nor false` : null
}

/** `null` when Postgres takes it. */
export const faultOfControlFile = (name: string, text: string, postgresMajor: number): string | null => {
  if (!/^[^/\0]+\.control$/.test(name)) return "a control file is called NAME.control"
  const lines = text.split("\n").map((line, index) => ({ line, number: index + 1 }))
  const settings = lines.filter(({ line }) => !/^\s*(#[^\n]*)?$/.test(line))
  for (const { line, number } of settings) {
    const fault = faultOfLine(line, isSecondary(name), postgresMajor)
    if (fault !== null) return `line ${number}: ${fault}`
  }
  const values = new Map(settings.map(({ line }) => [readLine(line)?.name, readLine(line)?.value ?? ""]))
  return isTrue(values.get("relocatable") ?? "false") && values.has("schema")
    ? "it cannot be relocatable and insist on a schema"
    : null
}
