/**
 * The help text, printed from the tables of `flags.ts`.
 */
import { type CommandRow, commands, type Flag, flags } from "./flags.ts"

const width = 110
const column = 46

const spelling = (flag: Flag): string =>
  `  ${flag.short === null ? "    " : `-${flag.short}, `}--${flag.name}${flag.value === null ? "" : ` ${flag.value}`}`

const notes = (flag: Flag): string =>
  [
    flag.fallback === null ? "" : ` [default: ${flag.fallback}]`,
    flag.env === null ? "" : ` [env: ${flag.env}]`,
    flag.generation === "2024" || flag.generation === "head" ? ` (${flag.generation})` : ""
  ].join("")

/** Two columns; a long left side gets a line of its own. */
const row = (left: string, right: string): string => {
  const lines: Array<string> = []
  let line = ""
  for (const word of right.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > width - column) {
      lines.push(line)
      line = word
    } else line = line === "" ? word : `${line} ${word}`
  }
  lines.push(line)
  const head = left.length >= column ? `${left}\n${" ".repeat(column)}` : left.padEnd(column)
  return head + lines.join(`\n${" ".repeat(column)}`)
}

export const helpText = (): string => {
  const rows: ReadonlyArray<Flag> = flags
  const verbs: ReadonlyArray<CommandRow> = commands
  const categories = [...new Set(rows.map((flag) => flag.category))]
  return [
    "compute_ctl: from a JSON spec to a running Postgres and back down again",
    "",
    "Usage:",
    ...verbs.map((verb) => {
      const name = verb.name === "run" ? "" : ` ${verb.name}`
      return row(`  compute_ctl${name}${verb.usage === "" ? "" : ` ${verb.usage}`}`, verb.meaning)
    }),
    ...categories.flatMap((category) => [
      "",
      `${category}:`,
      ...rows.filter((flag) => flag.category === category)
        .map((flag) => row(spelling(flag), flag.meaning + notes(flag)))
    ]),
    "",
    "(2024) and (head) mark flags of one generation of the reference; both are understood, also together.",
    "Other environment: NEON_CONTROL_PLANE_TOKEN (bearer token for -p), AUTOSCALING (any value: we run in a VM).",
    "Exit: 0 after an orderly end, 1 after a failure, 2 when the command line is wrong.",
    ""
  ].join("\n")
}
