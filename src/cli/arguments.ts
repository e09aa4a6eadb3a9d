/**
 * From `argv` to a command, or one sentence about what is wrong with it. Pure; starts and reads nothing.
 *
 * `node:util` splits the words (it knows `-D/data`, `-D /data`, `--pgdata=/data`); every rule is ours, because its
 * own errors repeat values. As with the reference's parser, no flag may come twice.
 */
import * as Result from "effect/Result"
import { parseArgs } from "node:util"
import { type CommandName, type CommandRow, commands, type Flag, type FlagName, flags } from "./flags.ts"
import type { Environment, Given } from "./Given.ts"
import { helpText } from "./help.ts"
import { type HealthSettings, readHealth } from "./readHealth.ts"
import { type PlanSettings, readPlan } from "./readPlan.ts"
import { readDialect, readRun, readStorage } from "./RunSettings.ts"
import type { RunSettings } from "./RunSettings2.ts"
import { meant, type UsageError, usageError } from "./usage.ts"

export type Command =
  | { readonly _tag: "Run"; readonly settings: RunSettings }
  /** `-` among the paths is stdin. */
  | { readonly _tag: "Validate"; readonly paths: ReadonlyArray<string>; readonly storage: "neon" | "local" }
  | { readonly _tag: "Plan"; readonly settings: PlanSettings }
  | { readonly _tag: "Schema" }
  | { readonly _tag: "Health"; readonly settings: HealthSettings }
  | { readonly _tag: "Routes"; readonly dialect: "2024" | "head" }
  | { readonly _tag: "Help"; readonly text: string }
  | { readonly _tag: "Version" }

interface Words {
  readonly given: Given
  readonly positionals: ReadonlyArray<string>
}

const rows: ReadonlyArray<Flag & { readonly name: FlagName }> = flags

const ofOthersAlone: ReadonlySet<FlagName> = new Set<FlagName>(["wait", "timeout", "json"])

/** Two rows share `-r`; the first of them has it here, and `readRun` minds the generation. */
const options = Object.fromEntries(rows.map((flag, index) => {
  const taken = rows.slice(0, index).some((other) => other.short === flag.short)
  const short = flag.short === null || taken ? {} : { short: flag.short }
  return [flag.name, { type: flag.value === null ? "boolean" as const : "string" as const, ...short }]
}))

export const parseArguments = (argv: ReadonlyArray<string>, env: Environment): Result.Result<Command, UsageError> =>
  Result.flatMap(split(argv), ({ given, positionals }): Result.Result<Command, UsageError> => {
    if (given.has("help")) return Result.succeed({ _tag: "Help", text: helpText() })
    if (given.has("version")) return Result.succeed({ _tag: "Version" })
    const [first, ...rest] = positionals
    const command = (commands as ReadonlyArray<CommandRow & { readonly name: CommandName }>)
      .find((row) => row.name === (first ?? "run"))
    if (command === undefined) {
      // A stray word may be half of a badly quoted spec, so only what looks like a command is repeated.
      const word = /^[a-z-]{1,20}$/.test(first ?? "")
        ? `there is no command ${first}`
        : "there is an argument that belongs to no flag"
      return usageError(null, `${word}; the commands are ${known()}`)
    }
    for (const [name, { as }] of given) {
      if (command.flags === null ? ofOthersAlone.has(name) : !command.flags.includes(name)) {
        return usageError(as, `${as} does not belong to ${command.name}`)
      }
    }
    if (command.name !== "validate" && rest.length > 0) {
      return usageError(null, `${command.name} takes flags only, but there is an argument that belongs to none`)
    }
    return read(command.name, given, rest, env)
  })

const read = (
  command: CommandName,
  given: Given,
  rest: ReadonlyArray<string>,
  env: Environment
): Result.Result<Command, UsageError> => {
  switch (command) {
    case "run":
      return Result.map(readRun(given, env), (settings) => ({ _tag: "Run", settings }))
    case "health":
      return Result.map(readHealth(given), (settings) => ({ _tag: "Health", settings }))
    case "routes":
      return Result.map(readDialect(given), (dialect) => ({ _tag: "Routes", dialect }))
    case "plan":
      return Result.map(readPlan(given), (settings) => ({ _tag: "Plan", settings }))
    case "schema":
      return Result.succeed({ _tag: "Schema" })
    case "validate":
      if (rest.length === 0) return usageError(null, "validate needs at least one SPEC file, or - for stdin")
      return Result.map(readStorage(given), (storage) => ({
        _tag: "Validate",
        paths: rest,
        storage: storage._tag === "Local" ? "local" : "neon"
      }))
  }
}

const split = (argv: ReadonlyArray<string>): Result.Result<Words, UsageError> => {
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
  const near = as.startsWith("--") ? meant(as.slice(2)) : null
  return usageError(as, `there is no flag ${as}${near === null ? "" : `; did you mean --${near}?`}`)
}

const known = (): string => commands.map((command) => command.name).join(", ")
