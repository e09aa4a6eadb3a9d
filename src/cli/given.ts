/**
 * What was given on the command line and in the environment, and how one flag of it is read. Pure.
 *
 * An error is one sentence that names the flag. Values are not repeated: they may be specs or URLs with passwords.
 */
import * as Result from "effect/Result"
import type { FlagName } from "./flags.ts"

/** The caller prints it on stderr and exits with 2. */
export interface UsageError {
  /** As typed: `-D`, `--pgdata`; `null` when it is about the whole line. */
  readonly flag: string | null
  readonly message: string
}

export type Read<A> = Result.Result<A, UsageError>

export const usageError = (flag: string | null, message: string): Result.Result<never, UsageError> =>
  Result.fail({ flag, message })

export type Environment = Readonly<Record<string, string | undefined>>

/** What was given, by long name. `as` is how it was spelled, for errors. A switch has the value `true`. */
export type Given = ReadonlyMap<FlagName, { readonly value: string; readonly as: string }>

export const readText = (given: Given, name: FlagName): Read<string | null> => {
  const text = given.get(name)
  return text?.value === ""
    ? usageError(text.as, `${text.as} needs a value that is not empty`)
    : Result.succeed(text?.value ?? null)
}

export const readChoice = <A extends string>(
  given: Given,
  name: FlagName,
  choices: ReadonlyArray<A>,
  fallback: A
): Read<A> => {
  const found = given.get(name)
  if (found === undefined) return Result.succeed(fallback)
  const choice = choices.find((one) => one === found.value)
  return choice === undefined
    ? usageError(found.as, `${found.as} expects ${choices.join(" or ")}`)
    : Result.succeed(choice)
}

export const readCount = (given: Given, name: FlagName, fallback: number): Read<number> => {
  const found = given.get(name)
  if (found === undefined) return Result.succeed(fallback)
  return /^[0-9]{1,15}$/.test(found.value)
    ? Result.succeed(Number(found.value))
    : usageError(found.as, `${found.as} expects a whole number of seconds`)
}

export const readPort = (given: Given, name: FlagName): Read<number | null> => {
  const found = given.get(name)
  if (found === undefined) return Result.succeed(null)
  return /^[0-9]{1,5}$/.test(found.value) && Number(found.value) <= 65535
    ? Result.succeed(Number(found.value))
    : usageError(found.as, `${found.as} expects a port from 0 to 65535`)
}
