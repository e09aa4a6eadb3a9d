/**
 * What was given on the command line and in the environment, before it is read as settings.
 */
import type { FlagName } from "./flags.ts"

export type Environment = Readonly<Record<string, string | undefined>>

/** What was given, by long name. `as` is how it was spelled, for errors. A switch has the value `true`. */
export type Given = ReadonlyMap<FlagName, { readonly value: string; readonly as: string }>
