/**
 * The help text of the program and of each command, printed from the tables. Pure.
 */
import { type CommandRow, commandFlags, commands, environment, type Flag, flags, flagsOf } from "./flags.ts"

const width = 110
const column = 46

const spelling = (flag: Flag): string =>
  `  ${flag.short === null ? "    " : `-${flag.short}, `}--${flag.name}${flag.value === null ? "" : ` ${flag.value}`}`

/** Default, variable and generation, after its meaning. */
export const notes = (flag: Flag): string =>
  [
    flag.fallback === null ? "" : ` [default: ${flag.fallback}]`,
    flag.env === null ? "" : ` [env: ${flag.env}]`,
    flag.generation === "2024" || flag.generation === "head" ? ` (${flag.generation})` : ""
  ].join("")

/** As it is typed. */
export const lineOf = ({ name, usage }: CommandRow): string =>
  `compute_ctl${name === "run" ? "" : ` ${name}`}${usage === "" ? "" : ` ${usage}`}`

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

const byCategory = (rows: ReadonlyArray<Flag>): ReadonlyArray<string> =>
  [...new Set(rows.map((flag) => flag.category))].flatMap((category) => [
    "",
    `${category}:`,
    ...rows.filter((flag) => flag.category === category).map((flag) => row(spelling(flag), flag.meaning + notes(flag)))
  ])

export const generationsNote =
  "(2024) and (head) mark flags of one generation of the reference; both are understood, also together."
export const exitNote = "Exit: 0 after an orderly end, 1 after a failure, 2 when the command line is wrong."

export const helpText = (): string =>
  [
    "compute_ctl: from a JSON spec to a running Postgres and back down again",
    "",
    "Usage:",
    ...commands.map((command) => row(`  ${lineOf(command)}`, command.meaning)),
    ...byCategory(flags),
    "",
    "Environment:",
    ...environment.map(({ meaning, names }) => row(`  ${names.join(", ")}`, meaning)),
    "",
    generationsNote,
    exitNote,
    ""
  ].join("\n")

/** Of a command that goes where a run would, the flags of a run are named, not repeated. */
export const commandHelp = (command: CommandRow): string => {
  const all = flagsOf(command)
  const own = command.name === "run" ? all : all.filter(({ category }) => category === commandFlags || !command.asRun)
  return [
    `Usage: ${lineOf(command)}`,
    "",
    `  ${command.meaning}`,
    ...byCategory(own),
    ...(own.length < all.length ? ["", "It takes the flags of a run, too: compute_ctl help run"] : []),
    ""
  ].join("\n")
}
