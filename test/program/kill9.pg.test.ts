/**
 * Killed at random in the middle of writes, again and again: no acknowledged commit is lost, and the Postgres timeline
 * stays 1. `KILL_CYCLES` says how often, `KILL_SEED` repeats a run.
 */
import { it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import { localArguments, place } from "./harness.ts"
import { killCycles, killedSpec } from "./killCycles.ts"

const cycles = Number(process.env["KILL_CYCLES"] ?? 25)
const seed = process.env["KILL_SEED"] ?? String(process.pid)

it.live(
  `${cycles} kills lose nothing (seed ${seed})`,
  () =>
    Effect.scoped(Effect.flatMap(place, (at) => killCycles(at, localArguments(at, killedSpec), cycles, seed))).pipe(
      Random.withSeed(seed)
    ),
  20 * 60_000
)
