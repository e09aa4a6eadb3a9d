/**
 * Ports for servers of tests, several files of tests at a time and several checkouts on one machine: from blocks that
 * belong to one process each, so that nobody else takes one while a server on it is being started again.
 */
import * as Effect from "effect/Effect"
import { freePort as portOfOurs } from "../../src/testing/freePort.ts"

export const freePort: Effect.Effect<number> = Effect.orDie(portOfOurs)
