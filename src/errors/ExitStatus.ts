/**
 * How a process left: with a code, or by a signal.
 */
import * as Schema from "effect/Schema"

export const ExitStatus = Schema.Union([
  Schema.TaggedStruct("Code", { code: Schema.Int }),
  Schema.TaggedStruct("Signal", { signal: Schema.String })
])
export type ExitStatus = typeof ExitStatus.Type

export const printExit = (exit: ExitStatus): string =>
  exit._tag === "Code" ? `exit code ${exit.code}` : `signal ${exit.signal}`
