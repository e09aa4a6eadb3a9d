/**
 * From `argv` to a command, or one sentence about what is wrong with it. Pure; starts and reads nothing.
 *
 * `node:util` splits the words (it knows `-D/data`, `-D /data`, `--pgdata=/data`); every rule is ours, because its
 * own errors repeat values. As with the reference's parser, no flag may come twice.
 */
import * as Result from "effect/Result"
import { parseArgs } from "node:util"
import { errorCodes, errorsPage, explainCode } from "../errors/catalogue.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { completions } from "./completions.ts"
import { type FakeSettings, readFake } from "./fake.ts"
import { readDoctor, type DoctorSettings } from "./doctor.ts"
import {
  type CommandName,
  type CommandRow,
  commands,
  type Flag,
  type FlagName,
  flags,
  flagsOf,
  shells
} from "./flags.ts"
import { type Environment, type Given, type Read, type UsageError, usageError } from "./given.ts"
import { type HealthSettings, readHealth } from "./health.ts"
import { commandHelp, helpText } from "./help.ts"
import { manual } from "./manual.ts"
import { type PlanSettings, readPlan } from "./plan.ts"
import { type StatusSettings, readStatus } from "./status.ts"
import { readApiVersion, readRun, readStorage, type RunSettings, type StorageChoice } from "./RunSettings.ts"
import { type BranchSettings, readBranch, readTimelines, type TimelinesSettings } from "./timelines.ts"

export type Command =
  | { readonly _tag: "Run"; readonly settings: RunSettings }
  /** `-` among the paths is stdin. */
  | { readonly _tag: "Validate"; readonly paths: ReadonlyArray<string>; readonly storage: "neon" | "local" }
  | { readonly _tag: "Plan"; readonly settings: PlanSettings }
  | { readonly _tag: "Apply"; readonly settings: PlanSettings }
  | { readonly _tag: "Schema" }
  | { readonly _tag: "Health"; readonly settings: HealthSettings }
  | { readonly _tag: "Status"; readonly settings: StatusSettings; readonly again: boolean }
  | { readonly _tag: "Doctor"; readonly settings: DoctorSettings }
  /** Of local storage its folder; of a volume PGDATA. */
  | { readonly _tag: "Check"; readonly storage: "local" | "volume"; readonly directory: string }
  | { readonly _tag: "Branch"; readonly settings: BranchSettings }
  | { readonly _tag: "Timelines"; readonly settings: TimelinesSettings }
  /** `null`: the schema of its scripts. */
  | { readonly _tag: "Fake"; readonly settings: FakeSettings | null }
  | { readonly _tag: "Routes"; readonly apiVersion: ApiVersion }
  /** What is only printed. */
  | { readonly _tag: "Text"; readonly text: string }
  | { readonly _tag: "Version" }

interface Words {
  readonly given: Given
  readonly positionals: ReadonlyArray<string>
}

const rows: ReadonlyArray<Flag & { readonly name: FlagName }> = flags

type KnownCommand = CommandRow & { readonly name: CommandName }

const commandOf = (word: string | undefined): KnownCommand | undefined =>
  (commands as ReadonlyArray<KnownCommand>).find(({ name }) => name === word)

/** Two rows share `-r`; the first of them has it here, and `readRun` minds the generation. */
const options = Object.fromEntries(
  rows.map((flag, index) => {
    const taken = rows.slice(0, index).some((other) => other.short === flag.short)
    const short = flag.short === null || taken ? {} : { short: flag.short }
    return [flag.name, { type: flag.value === null ? ("boolean" as const) : ("string" as const), ...short }]
  })
)

export const parseArguments = (argv: ReadonlyArray<string>, env: Environment): Read<Command> =>
  Result.flatMap(split(argv), ({ given, positionals }): Read<Command> => {
    const [first, ...rest] = positionals
    const command = commandOf(first ?? "run")
    if (given.has("help")) {
      return Result.succeed({ _tag: "Text", text: first === undefined || !command ? helpText() : commandHelp(command) })
    }
    if (given.has("version")) return Result.succeed({ _tag: "Version" })
    if (command === undefined) {
      // A stray word may be half of a badly quoted spec, so only what looks like a command is repeated.
      const word = /^[a-z-]{1,20}$/.test(first ?? "")
        ? `there is no command ${first}`
        : "there is an argument that belongs to no flag"
      return usageError(null, `${word}; the commands are ${commandNames()}`)
    }
    const taken = new Set(flagsOf(command).map(({ name }) => name))
    for (const [name, { as }] of given) {
      if (!taken.has(name)) return usageError(as, `${as} does not belong to ${command.name}`)
    }
    if (command.words === undefined && rest.length > 0) {
      return usageError(null, `${command.name} takes flags only, but there is an argument that belongs to none`)
    }
    if (command.words === "one" && rest.length > 1) {
      return usageError(null, `${command.name} takes one word, but there are ${rest.length}`)
    }
    return read(command.name, given, rest, env)
  })

const read = (command: CommandName, given: Given, rest: ReadonlyArray<string>, env: Environment): Read<Command> => {
  switch (command) {
    case "run":
      return Result.map(readRun(given, env), (settings) => ({ _tag: "Run", settings }))
    case "health":
      return Result.map(readHealth(given, env), (settings) => ({ _tag: "Health", settings }))
    case "status":
    case "top":
      return Result.map(readStatus(given, env), (settings) => ({
        _tag: "Status",
        settings,
        again: command === "top"
      }))
    case "doctor":
      return Result.map(readDoctor(given, env), (settings) => ({ _tag: "Doctor", settings }))
    case "fake":
      return Result.map(readFake(given, rest[0]), (settings) => ({ _tag: "Fake", settings }))
    case "explain":
      return readExplain(rest[0])
    case "completions":
      return readCompletions(rest[0])
    case "man":
      return Result.succeed({ _tag: "Text", text: manual() })
    case "help":
      return readHelp(rest[0])
    case "routes":
      return Result.map(readApiVersion(given), (apiVersion) => ({ _tag: "Routes", apiVersion }))
    case "plan":
      return Result.map(readPlan(given, command), (settings) => ({ _tag: "Plan", settings }))
    case "apply":
      return Result.map(readPlan(given, command), (settings) => ({ _tag: "Apply", settings }))
    case "schema":
      return Result.succeed({ _tag: "Schema" })
    case "check":
      return Result.flatMap(readStorage(given), (storage) => readCheck(given, storage))
    case "branch":
      return Result.flatMap(readStorage(given), (storage) =>
        Result.map(readBranch(given, rest, storage), (settings) => ({ _tag: "Branch", settings }))
      )
    case "timelines":
      return Result.flatMap(readStorage(given), (storage) =>
        Result.map(readTimelines(given, rest, storage), (settings) => ({ _tag: "Timelines", settings }))
      )
    case "validate":
      if (rest.length === 0) return usageError(null, "validate needs at least one SPEC file, or - for stdin")
      return Result.map(readStorage(given), (storage) => ({
        _tag: "Validate",
        paths: rest,
        storage: storage._tag === "Neon" ? "neon" : "local"
      }))
  }
}

const printed = (text: string): Read<Command> => Result.succeed({ _tag: "Text", text })

const readExplain = (code: string | undefined): Read<Command> => {
  if (code === undefined) return printed(errorsPage())
  const text = explainCode(code.toLowerCase())
  if (text !== null) return printed(text)
  const near = nearest(code, errorCodes)
  const meant = near === null ? "compute_ctl explain prints all of them" : `did you mean ${near}?`
  return usageError(null, `there is no error of this code; ${meant}`)
}

const readCompletions = (word: string | undefined): Read<Command> => {
  const shell = shells.find((one) => one === word)
  return shell === undefined
    ? usageError(null, `completions needs the name of a shell: ${shells.join(", ")}`)
    : printed(completions(shell))
}

const readHelp = (word: string | undefined): Read<Command> => {
  if (word === undefined) return printed(helpText())
  const command = commandOf(word)
  return command === undefined
    ? usageError(null, `there is no such command; the commands are ${commandNames()}`)
    : printed(commandHelp(command))
}

const readCheck = (given: Given, storage: StorageChoice): Read<Command> => {
  const pgdata = given.get("pgdata")
  if (storage._tag === "Local" && storage.directory !== null) {
    return pgdata === undefined
      ? Result.succeed({ _tag: "Check", storage: "local", directory: storage.directory })
      : usageError(pgdata.as, `${pgdata.as} does not belong to a check of local storage`)
  }
  return storage._tag === "Volume" && pgdata !== undefined && pgdata.value !== ""
    ? Result.succeed({ _tag: "Check", storage: "volume", directory: pgdata.value })
    : usageError("--storage", "check needs --storage local:DIR, or --storage volume and -D DIR")
}

const split = (argv: ReadonlyArray<string>): Read<Words> => {
  const { tokens } = parseArgs({ args: [...argv], options, strict: false, allowPositionals: true, tokens: true })
  const given = new Map<FlagName, { readonly value: string; readonly as: string }>()
  const positionals: Array<string> = []
  for (const token of tokens) {
    if (token.kind === "positional") positionals.push(token.value)
    if (token.kind !== "option") continue
    const as = token.rawName
    const flag = rows.find((row) => row.name === token.name && (as.startsWith("--") || row.short === as.slice(1)))
    if (flag === undefined) return unknown(as)
    if (given.has(flag.name)) return usageError(as, `${as} is given more than once`)
    if (flag.value === null) {
      if (token.value !== undefined) return usageError(as, `${as} takes no value`)
      given.set(flag.name, { value: "true", as })
      continue
    }
    const swallowed = token.inlineValue !== true && /^-./.test(token.value ?? "")
    if (token.value === undefined || swallowed) return usageError(as, `${as} needs a value (${flag.value})`)
    given.set(flag.name, { value: token.value, as })
  }
  return Result.succeed({ given, positionals })
}

const unknown = (as: string): Result.Result<never, UsageError> => {
  const near = as.startsWith("--") ? nearest(as.slice(2).replaceAll("_", "-"), flagNames) : null
  return usageError(as, `there is no flag ${as}${near === null ? "" : `; did you mean --${near}?`}`)
}

const commandNames = (): string => commands.map((command) => command.name).join(", ")

const flagNames = [...new Set<string>(flags.map((flag) => flag.name))]

/** The nearest of the known names, when it is near enough to have been meant. */
const nearest = (word: string, names: ReadonlyArray<string>): string | null => {
  const whole = word.toLowerCase()
  const starts = names.filter((name) => whole.length >= 3 && name.startsWith(whole))
  if (starts.length === 1) return starts[0] ?? null
  const near = names
    .map((name) => ({ name, steps: editDistance(whole, name) }))
    .filter(({ name, steps }) => steps <= Math.min(Math.max(2, name.length / 4), name.length / 2))
    .sort((a, b) => a.steps - b.steps)
  return near[0]?.name ?? null
}

/** Letters to add, drop or change. */
const editDistance = (from: string, to: string): number => {
  if (from.length > 64) return from.length
  let row = Array.from({ length: to.length + 1 }, (_, index) => index)
  for (let i = 1; i <= from.length; i += 1) {
    const next = [i]
    for (let j = 1; j <= to.length; j += 1) {
      const change = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1)
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[to.length] ?? 0
}
