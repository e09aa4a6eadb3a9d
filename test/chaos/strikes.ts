/**
 * How a compute ends that does not end in order: a table of what is killed, stopped, asked, or cut off.
 */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type { Compute } from "./compute.ts"
import { killAll, processesIn } from "../support/processes.ts"
import { postgresNamed, postmasterIn } from "./processes.ts"
import { killEverything, type Run } from "./run.ts"
import { type Found, found, oneOf, someMoment, withinMillis } from "./waiting.ts"

export interface Strike {
  readonly name: string
  readonly weight: number
  readonly needs?: "cutPower"
  /** `serves`: nobody has asked it to stop before, and it is up. */
  readonly hit: (run: Run, compute: Compute, serves: boolean) => Effect.Effect<void, Found>
}

const kill = (pids: ReadonlyArray<number>) => Effect.sync(() => killAll(pids, "SIGKILL"))

/** What is left of the program either leaves by itself or is killed; a Postgres that is left is for the next start. */
const thenLetItLeave = Effect.fnUntraced(function* (compute: Compute) {
  const moment = yield* Random.next
  yield* withinMillis(moment * 1500, () => compute.left())
  yield* kill(compute.node())
})

const ofPostgres = ["checkpointer", "background writer", "walwriter", "startup", "cloud_admin", "autovacuum launcher"]

const orderly = (name: string, weight: number, times: number): Strike => ({
  name,
  weight,
  hit: Effect.fnUntraced(function* (_, compute, serves) {
    for (let time = 0; time < times; time++) {
      if (time > 0) yield* someMoment(200)
      killAll(compute.node(), "SIGTERM")
    }
    if (!(yield* withinMillis(90_000, () => compute.left()))) {
      return yield* found("failed stop", `it did not leave within 90 s of ${name}`)
    }
    if (serves && times === 1 && compute.code() !== 0) {
      return yield* found("failed stop", `it left with exit code ${compute.code()} after ${name}`)
    }
  })
})

const ofEverything: Strike = {
  name: "kill -9 of everything at once",
  weight: 4,
  hit: (run) => killEverything(run)
}

const ofNode: Strike = {
  name: "kill -9 of node, Postgres lives on",
  weight: 3,
  hit: (_, compute) => kill(compute.node())
}

const ofPostmaster: Strike = {
  name: "kill -9 of the postmaster",
  weight: 2,
  hit: ({ place }, compute) => Effect.andThen(kill(postmasterIn(place.pgdata)), thenLetItLeave(compute))
}

const ofNodeAndPostmaster: Strike = {
  name: "kill -9 of node and the postmaster, sessions live on",
  weight: 2,
  hit: Effect.fnUntraced(function* ({ place }, compute) {
    // Stopped first, so that it cannot put things in order in between.
    killAll(compute.node(), "SIGSTOP")
    yield* kill(postmasterIn(place.pgdata))
    yield* kill(compute.node())
  })
}

const ofOneOfPostgres: Strike = {
  name: "kill -9 of one process of Postgres",
  weight: 2,
  hit: Effect.fnUntraced(function* ({ place }, compute) {
    const there = ofPostgres.map((name) => postgresNamed(place.pgdata, name)).filter((pids) => pids.length > 0)
    const pids = there.length === 0 ? [] : yield* oneOf(there)
    yield* kill(pids.slice(0, 1))
    yield* thenLetItLeave(compute)
  })
}

const ofAllInTurn: Strike = {
  name: "kill -9 of all, one after the other",
  weight: 1,
  hit: Effect.fnUntraced(function* ({ place }, compute) {
    for (const pid of yield* Random.shuffle([...compute.node(), ...processesIn(place.pgdata)])) {
      yield* kill([pid])
      yield* someMoment(20)
    }
  })
}

const stoppedNode: Strike = {
  name: "SIGSTOP of node, then kill -9 of everything",
  weight: 1,
  hit: Effect.fnUntraced(function* (run, compute) {
    killAll(compute.node(), "SIGSTOP")
    yield* someMoment(500)
    yield* killEverything(run)
  })
}

const stoppedPostgres: Strike = {
  name: "SIGSTOP of Postgres, then kill -9 of node",
  weight: 1,
  hit: Effect.fnUntraced(function* ({ place }, compute) {
    killAll(processesIn(place.pgdata), "SIGSTOP")
    yield* someMoment(300)
    yield* kill(compute.node())
  })
}

const powerCut: Strike = {
  name: "power cut",
  weight: 3,
  needs: "cutPower",
  hit: (run) => run.arena.cutPower?.(killEverything(run)) ?? Effect.void
}

export const strikes: ReadonlyArray<Strike> = [
  ofEverything,
  ofNode,
  ofPostmaster,
  ofNodeAndPostmaster,
  ofOneOfPostgres,
  ofAllInTurn,
  stoppedNode,
  stoppedPostgres,
  orderly("SIGTERM", 3, 1),
  orderly("SIGTERM twice", 1, 2),
  orderly("SIGTERM three times", 1, 3),
  powerCut
]
