/**
 * The exit code of the program (reference section 3.4): Postgres's own, 1 on failure, 2 on a usage error.
 */
import type { ExitStatus } from "./ExitStatus.ts"

export const usageError = 2
export const failed = 1

/** A Postgres killed by a signal has no code of its own: 1. An end that was asked for before there was one: 0. */
export const exitCodeOf = (exit: ExitStatus | null, broke: boolean): number =>
  exit === null ? (broke ? failed : 0) : exit._tag === "Code" ? exit.code : failed
