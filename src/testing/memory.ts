/**
 * The four rooms of a compute in memory: the whole corridor runs, in virtual time, and nothing outside is touched.
 *
 * `World` is what a test holds: it records what the corridor asked for, says which step fails or hangs, and kills the
 * imaginary Postgres.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import { Applier } from "../catalog/Applier.ts"
import { ComputeHooks } from "../compute/ComputeHooks.ts"
import type { ApplyReport } from "../compute/snapshot.ts"
import type { ExitStatus, Failure } from "../errors/Failure.ts"
import { Pgdata } from "../postgres/Pgdata.ts"
import { Postmaster } from "../postgres/Postmaster.ts"
import type { PgdataFile } from "../postgres/startPlan.ts"
import { Storage, type Timeline } from "../storage/Storage.ts"

/** The places where a test can interfere, in the order in which a start passes them. */
export type Place =
  | "claim"
  | "begin"
  | "settle start"
  | "build"
  | "spawn"
  | "ready"
  | "apply start"
  | "apply reconfigure"
  | "rewrite"
  | "reload"
  | "secure"
  | "keep"
  | "stop"
  | "leave"
  | "settle end"

/** `hang` never returns; a `Failure` is what the room answers with. */
export type Interference = "hang" | Failure

export class World extends Context.Service<
  World,
  {
    /** Every place the corridor has passed, in order. */
    readonly passed: Effect.Effect<ReadonlyArray<Place>>
    /** From now on this place hangs, fails, or (`null`) behaves. */
    readonly interfere: (place: Place, how: Interference | null) => Effect.Effect<void>
    /** Postgres leaves by itself. */
    readonly kill: (exit: ExitStatus) => Effect.Effect<void>
    /** How often the stop stages was hurried. */
    readonly hastened: Effect.Effect<number>
    readonly pass: (place: Place) => Effect.Effect<void, Failure>
    readonly exit: Deferred.Deferred<ExitStatus>
    readonly escalate: Effect.Effect<void>
  }
>()("compute/testing/World") {
  static readonly layer = Layer.effect(
    World,
    Effect.gen(function* () {
      const passed = yield* Ref.make<ReadonlyArray<Place>>([])
      const rules = yield* Ref.make<ReadonlyMap<Place, Interference>>(new Map())
      const hastened = yield* Ref.make(0)
      const exit = yield* Deferred.make<ExitStatus>()
      return World.of({
        passed: Ref.get(passed),
        interfere: (place, how) =>
          Ref.update(
            rules,
            (old) => new Map([...old].filter(([key]) => key !== place).concat(how === null ? [] : [[place, how]]))
          ),
        kill: (how) => Effect.asVoid(Deferred.succeed(exit, how)),
        hastened: Ref.get(hastened),
        pass: Effect.fnUntraced(function* (place: Place) {
          yield* Ref.update(passed, (old) => [...old, place])
          const rule = (yield* Ref.get(rules)).get(place)
          if (rule === "hang") return yield* Effect.never
          if (rule !== undefined) return yield* Effect.fail(rule)
        }),
        exit,
        escalate: Ref.update(hastened, (times) => times + 1)
      })
    })
  )
}

const clean: ExitStatus = { _tag: "Code", code: 0 }

const storage = Layer.effect(
  Storage,
  Effect.map(World, (world) => {
    const timeline: Timeline = {
      commitLsn: (moment) =>
        Effect.as(world.pass(moment === "start" ? "settle start" : "settle end"), moment === "start" ? 16n : 32n),
      source: () => ({ _tag: "InPlace", lay: () => Effect.void }),
      secure: world.pass("secure"),
      keep: Effect.andThen(world.pass("keep"), Effect.never),
      leave: () => world.pass("leave")
    }
    return Storage.of({ kind: "local", claim: () => Effect.as(world.pass("claim"), timeline) })
  })
)

const pgdata = Layer.effect(
  Pgdata,
  Effect.gen(function* () {
    const world = yield* World
    const written = yield* Ref.make<ReadonlyMap<string, string>>(new Map())
    /** Answers what the changed files held before. */
    const write = (files: ReadonlyArray<PgdataFile>) =>
      Ref.modify(written, (old) => [
        files
          .filter(({ content, name }) => old.get(name) !== content)
          .map(({ name }) => ({ name, content: old.get(name) ?? "" })),
        new Map([...old, ...files.map(({ content, name }) => [name, content] as const)])
      ])
    return Pgdata.of({
      directory: "/memory/pgdata",
      begin: () => Effect.orDie(world.pass("begin")),
      build: (plan) =>
        world
          .pass("build")
          .pipe(Effect.andThen(write(plan.starting)), Effect.as({ archiveBytes: 0, connectMicros: 0 })),
      rewrite: (files) => Effect.andThen(Effect.orDie(world.pass("rewrite")), write(files))
    })
  })
)

const postmaster = Layer.effect(
  Postmaster,
  Effect.map(World, (world) => {
    const leave = Effect.orDie(world.pass("stop")).pipe(Effect.andThen(world.kill(clean)))
    const stop = Effect.raceFirst(Effect.andThen(leave, Deferred.await(world.exit)), Deferred.await(world.exit))
    return Postmaster.of({
      start: () =>
        Effect.as(world.pass("spawn"), {
          pid: 1,
          ready: world.pass("ready"),
          exit: Deferred.await(world.exit),
          stop,
          escalate: Effect.andThen(world.escalate, world.kill({ _tag: "Signal", signal: "SIGQUIT" })),
          reload: Effect.orDie(world.pass("reload")),
          recentLog: Effect.succeed(["LOG:  imaginary"])
        }).pipe(Effect.tap(() => Effect.addFinalizer(() => world.kill(clean))))
    })
  })
)

const nothingDone = (kind: ApplyReport["kind"]): ApplyReport => ({
  kind,
  startedAt: "1970-01-01T00:00:00.000Z",
  millis: 0,
  outcome: "done",
  phases: [],
  operations: [],
  roundTrips: 0,
  statements: 0
})

const applier = Layer.effect(
  Applier,
  Effect.map(World, (world) =>
    Applier.of({
      apply: ({ kind }) =>
        Effect.as(world.pass(kind === "start" ? "apply start" : "apply reconfigure"), nothingDone(kind)),
      actor: { name: "SQL applier", policy: "permanent", run: Effect.never },
      afterStart: { name: "after the start", policy: "temporary", run: Effect.void }
    })
  )
)

/** The rooms, and the world they live in. */
export const memoryRooms: Layer.Layer<World | Storage | Pgdata | Postmaster | Applier | ComputeHooks> = Layer.mergeAll(
  storage,
  pgdata,
  postmaster,
  applier,
  ComputeHooks.none
).pipe(Layer.provideMerge(World.layer))
