/**
 * Scripts that complete commands and flags in a shell, printed from the tables. Pure.
 */
import { errorCodes } from "../errors/catalogue.ts"
import { type CommandRow, commands, type Flag, flags, flagsOf, shells } from "./flags.ts"

const rows: ReadonlyArray<CommandRow> = commands

/** What a flag's value is completed with: files, folders, a list, or nothing that is known here. */
const choices: Readonly<Record<string, ReadonlyArray<string>>> = {
  storage: ["neon", "local", "local:", "volume"],
  durability: ["os", "process"],
  "api-dialect": ["2024", "head"],
  "cgroup-policy": ["refuse", "deny-downscales", "run-without"],
  "log-format": ["text", "json"],
  "log-level": ["trace", "debug", "info", "warn", "error"],
  "lakebase-mode": ["true", "false"],
  wait: ["ready", "running"]
}

const spellings = (list: ReadonlyArray<Flag>): ReadonlyArray<string> => [
  ...new Set(list.flatMap(({ name, short }) => [`--${name}`, ...(short === null ? [] : [`-${short}`])]))
]

/** The words after a command that takes some. */
const wordsOf = ({ name }: CommandRow): ReadonlyArray<string> => {
  if (name === "completions") return shells
  if (name === "explain") return errorCodes
  return name === "help" ? rows.map((command) => command.name) : []
}

const patternOf = (flag: Flag): string => spellings([flag]).join("|")

const bash = (): string => `# compute_ctl in bash: source <(compute_ctl completions bash)
_compute_ctl() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD-1]} command=run one
  for one in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $one in ${rows.map(({ name }) => name).join("|")}) command=$one; break ;; esac
  done
  case $before in
${flags
  .filter(({ name }) => name in choices)
  .map(
    (flag) =>
      `    ${patternOf(flag)}) COMPREPLY=($(compgen -W '${choices[flag.name]?.join(" ")}' -- "$word")); return ;;`
  )
  .join("\n")}
    ${flags
      .filter(({ value }) => value === "DIR" || value === "MOUNT")
      .map(patternOf)
      .join("|")}) COMPREPLY=($(compgen -d -- "$word")); return ;;
    ${flags
      .filter(({ value }) => value === "FILE" || value === "PATH")
      .map(patternOf)
      .join("|")}) COMPREPLY=($(compgen -f -- "$word")); return ;;
    ${flags
      .filter(({ name, value }) => value !== null && !(name in choices) && !/^(DIR|MOUNT|FILE|PATH)$/.test(value))
      .map(patternOf)
      .join("|")}) return ;;
  esac
  case $command in
${rows
  .map((command) => {
    const first = command.name === "run" ? rows.map(({ name }) => name) : wordsOf(command)
    const all = [...first, ...spellings(flagsOf(command)), "--help"]
    const files = command.words === "many" ? ` $(compgen -f -- "$word")` : ""
    return `    ${command.name}) COMPREPLY=($(compgen -W '${[...new Set(all)].join(" ")}' -- "$word")${files}) ;;`
  })
  .join("\n")}
  esac
}
complete -F _compute_ctl compute_ctl
`

/** Within single quotes. A colon and brackets separate the parts of a zsh specification. */
const quoted = (text: string): string => text.replaceAll("'", `'\\''`)
const zshText = (text: string): string => quoted(text.replaceAll(/[[\]:\\]/g, "\\$&"))

const zshValue = ({ name, value }: Flag): string => {
  if (value === null) return ""
  const known = choices[name]
  if (known !== undefined) return `:${value}:(${known.map((one) => one.replaceAll(":", "\\:")).join(" ")})`
  return `:${value}:${/^(DIR|MOUNT)$/.test(value) ? "_files -/" : /^(FILE|PATH)$/.test(value) ? "_files" : ""}`
}

const zshFlags = (command: CommandRow): ReadonlyArray<string> =>
  flagsOf(command).flatMap((flag) =>
    spellings([flag]).map((as) => `'${as}[${zshText(flag.meaning)}]${quoted(zshValue(flag))}'`)
  )

const zsh = (): string => `#compdef compute_ctl
# compute_ctl in zsh: compute_ctl completions zsh > a folder of $fpath, as _compute_ctl
_compute_ctl() {
  local -a names
  local command=run one
  names=(
${rows.map(({ meaning, name }) => `    '${name}:${quoted(meaning)}'`).join("\n")}
  )
  for one in \${words[2,CURRENT-1]}; do
    case $one in (${rows.map(({ name }) => name).join("|")}) command=$one; break ;; esac
  done
  case $command in
${rows
  .map((command) => {
    const words = wordsOf(command)
    // The first word is the command itself: `_arguments` offers nothing after one that it has no place for.
    const first = command.name === "run" ? "'1: :{_describe command names}'" : "'1: : '"
    const more =
      words.length > 0 ? [`'2:word:(${words.join(" ")})'`] : command.words === "many" ? ["'*:file:_files'"] : []
    return `    (${command.name}) _arguments -s ${[first, ...more, ...zshFlags(command)].join(" \\\n      ")} ;;`
  })
  .join("\n")}
  esac
}
_compute_ctl "$@"
`

const fishText = (text: string): string => text.replaceAll(/['\\]/g, "\\$&")

const fishFlag = (flag: Flag, when: string): string => {
  const short = flag.short === null ? "" : ` -s ${flag.short}`
  const known = choices[flag.name]
  const takes =
    flag.value === null
      ? " -f"
      : known !== undefined
        ? ` -x -a '${known.join(" ")}'`
        : /^(FILE|PATH|DIR|MOUNT)$/.test(flag.value)
          ? " -r -F"
          : " -x"
  return `complete -c compute_ctl -n '${when}'${short} -l ${flag.name}${takes} -d '${fishText(flag.meaning)}'`
}

const fish = (): string => {
  const names = rows.map(({ name }) => name)
  const other = `not __fish_seen_subcommand_from ${names.filter((name) => name !== "run").join(" ")}`
  return [
    "# compute_ctl in fish: compute_ctl completions fish > ~/.config/fish/completions/compute_ctl.fish",
    ...rows.map(
      ({ meaning, name }) =>
        `complete -c compute_ctl -n '__fish_use_subcommand' -f -a ${name} -d '${fishText(meaning)}'`
    ),
    ...rows.flatMap((command) => {
      const when = command.name === "run" ? other : `__fish_seen_subcommand_from ${command.name}`
      const words = wordsOf(command)
      const noFiles = command.words === "many" ? [] : [`complete -c compute_ctl -n '${when}' -f`]
      return [
        ...noFiles,
        ...flagsOf(command).map((flag) => fishFlag(flag, when)),
        ...(words.length === 0 ? [] : [`complete -c compute_ctl -n '${when}' -f -a '${words.join(" ")}'`])
      ]
    }),
    ""
  ].join("\n")
}

export const completions = (shell: (typeof shells)[number]): string => ({ bash, zsh, fish })[shell]()
