/**
 * The manual page, printed from the tables: `compute_ctl man | man -l -`, or into a folder of MANPATH. Pure.
 */
import { commands, environment, type Flag, flags } from "./flags.ts"
import { exitNote, generationsNote, lineOf, notes } from "./help.ts"

/** A backslash, a dash and what begins a line mean something to roff. */
const plain = (text: string): string =>
  text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll("…", "...")
    .replace(/^([.'])/, "\\&$1")

const bold = (text: string): string => `\\fB${plain(text)}\\fR`

const spelled = ({ name, short, value }: Flag): string =>
  [
    ...(short === null ? [] : [`${bold(`-${short}`)}, `]),
    bold(`--${name}`),
    ...(value === null ? [] : [` \\fI${plain(value)}\\fR`])
  ].join("")

const entry = (term: string, text: string): ReadonlyArray<string> => [".TP", term, plain(text)]

export const manual = (): string =>
  [
    '.TH COMPUTE_CTL 8 "" "compute_ctl" "System administration"',
    ".SH NAME",
    "compute_ctl \\- from a JSON spec to a running Postgres and back down again",
    ".SH SYNOPSIS",
    ".nf",
    ...commands.map((command) => plain(lineOf(command))),
    ".fi",
    ".SH DESCRIPTION",
    "Takes a JSON spec, builds a fresh data directory, starts Postgres, makes roles and databases match the spec,",
    "answers HTTP about its state, and waits on the postmaster until the end.",
    ".SH COMMANDS",
    ...commands.flatMap(({ meaning, name }) => entry(bold(name), meaning)),
    ".SH OPTIONS",
    plain(generationsNote),
    ...[...new Set(flags.map(({ category }) => category))].flatMap((category) => [
      `.SS "${plain(category)}"`,
      ...flags
        .filter((flag) => flag.category === category)
        .flatMap((flag) => entry(spelled(flag), flag.meaning + notes(flag)))
    ]),
    ".SH ENVIRONMENT",
    ...environment.flatMap(({ meaning, names }) => entry(names.map(bold).join(", "), meaning)),
    ".SH EXIT STATUS",
    plain(exitNote),
    "Postgres\\(aqs own exit code when it is not 0.",
    ".SH SIGNALS",
    "TERM, INT and QUIT end the compute in order; each further signal moves on to the next shutdown stage. HUP reads",
    "the spec again; on a terminal, which hangs up with it, it ends the compute, too.",
    ""
  ].join("\n")
