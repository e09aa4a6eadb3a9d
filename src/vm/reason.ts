/**
 * Why something failed, on one line for a log.
 */
import { causesOf } from "../lifecycle/explain.ts"

export const reasonOf = (error: unknown): string => causesOf(error).join(": ")
