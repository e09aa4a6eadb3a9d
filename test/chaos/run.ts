/**
 * What the cycles of one run share: the arena, the ledger, the writers, the tally; and what each cycle is made of: a
 * start, a life with writers, the end of everything that is left.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import type { TimedOut, WireFailed } from "../../src/errors/Failure.ts"
import { freePort } from "../support/postgres.ts"
import { type Arena, makeArena } from "./arena.ts"
import { type Compute, launch, outcomeOf, type Place } from "./compute.ts"
import { checkPages, emptyLedger, forget, type Ledger, makeTables, verify, write } from "./ledger.ts"
import { killAll, processesIn } from "../support/processes.ts"
import { type StorageKind, storages } from "./storages.ts"
import { type Found, found, until, withinMillis } from "./waiting.ts"

export interface Tally {
  cycles: number
  failedStarts: number
  longestStartMillis: number
  /** Of the last start that came to run: what moments before it are drawn from. */
  lastStartMillis: number
  amchecks: number
  /** How often what happened, by its name. */
  readonly kinds: Map<string, number>
}

export interface Run {
  readonly arena: Arena
  readonly storage: StorageKind
  readonly ledger: Ledger
  readonly tally: Tally
  readonly place: Place
  /** Ports of its own, the same storage. */
  readonly rivalPlace: Place
  readonly computes: Set<Compute>
  readonly writers: Set<Fiber.Fiber<void>>
  /** System V segments that killed servers leave behind. */
  readonly segments: Set<string>
}

/** What one cycle does. */
export interface Fault {
  readonly name: string
  /** How often it is drawn, against the others. */
  readonly weight: number
  /** What the arena, or the storage, must have for it. */
  readonly needs?: "cutPower" | "fill" | "apart" | "bases"
  readonly cycle: (run: Run) => Effect.Effect<void, Found>
}

export const count = ({ tally }: Pick<Run, "tally">, kind: string): void =>
  void tally.kinds.set(kind, (tally.kinds.get(kind) ?? 0) + 1)

const rememberSegment = (run: Run, pgdata: string): void => {
  try {
    const pidFile = fs.readFileSync(path.join(pgdata, "postmaster.pid"), "utf8").split("\n")
    const id = pidFile[6]?.trim().split(/\s+/)[1]
    if (id !== undefined) run.segments.add(id)
  } catch {
    // None was started, or it was stopped in order.
  }
}

/** Those that nobody is attached to. */
const removeSegments = (segments: ReadonlySet<string>): void => {
  const columns = (line: string) => line.trim().split(/\s+/)
  const [header = "", ...lines] = fs.readFileSync("/proc/sysvipc/shm", "utf8").trim().split("\n")
  const [id, attached] = ["shmid", "nattch"].map((name) => columns(header).indexOf(name))
  for (const line of lines.map(columns)) {
    if (segments.has(line[id ?? -1] ?? "") && line[attached ?? -1] === "0") {
      spawnSync("ipcrm", ["-m", line[id ?? -1] ?? ""], { stdio: "ignore" })
    }
  }
}

const everyProcess = (run: Run): ReadonlyArray<number> => [
  ...[...run.computes].filter((compute) => !compute.left()).map(({ pid }) => pid),
  ...[run.place, run.rivalPlace].flatMap(({ pgdata }) => processesIn(pgdata))
]

/** kill -9 of whatever lives, until nothing does. */
export const killEverything = (run: Run): Effect.Effect<void> =>
  Effect.gen(function* () {
    for (const { pgdata } of [run.place, run.rivalPlace]) rememberSegment(run, pgdata)
    const gone = () => {
      const left = everyProcess(run)
      killAll(left, "SIGKILL")
      return left.length === 0 && [...run.computes].every((compute) => compute.left())
    }
    yield* Effect.orDie(until("everything is dead", gone))
    run.computes.clear()
  })

export const startCompute = (
  run: Run,
  place: Place = run.place,
  under: ReadonlyArray<string> = run.arena.under,
  apart = false
): Compute => {
  const compute = launch(place, under, apart)
  for (const one of run.computes) if (one.left()) run.computes.delete(one)
  run.computes.add(compute)
  return compute
}

/** Writers of a server that is gone end by themselves. One that does not still has a server. */
const endOfWriters = Effect.fnUntraced(function* (run: Run) {
  const live = () => [...run.writers].filter((fiber) => fiber.pollUnsafe() === undefined).length
  if (!(yield* withinMillis(20_000, () => live() === 0))) {
    return yield* found("two writers", `${live()} sessions of a Postgres that should be gone are still served`)
  }
  run.writers.clear()
})

/** The compute serves, and everything is there. */
export const requireWhole = Effect.fnUntraced(function* (run: Run, compute: Compute) {
  const { ledger, tally } = run
  if ((yield* outcomeOf(compute)) !== "running") {
    return yield* found("failed start", `a start that nothing stood in the way of ended as ${compute.outcome()}`)
  }
  tally.longestStartMillis = Math.max(tally.longestStartMillis, compute.millis())
  tally.lastStartMillis = compute.millis()
  rememberSegment(run, compute.place.pgdata)
  yield* endOfWriters(run)
  if (ledger.next === 1) return
  yield* answered("what was written cannot be read", verify(compute.place, ledger))
})

/** Nothing stands in the way of an answer now. */
export const answered = <A>(
  what: string,
  effect: Effect.Effect<A, Found | WireFailed | TimedOut>
): Effect.Effect<A, Found> =>
  Effect.catchTags(effect, {
    WireFailed: (failure) => found("damage", `${what}: ${failure.message}`),
    TimedOut: (failure) => found("damage", `${what}: ${failure.message}`)
  })

const writersAtOnce = 4
const keptSeries = 60
const cyclesPerAmcheck = 20

/** A start that must succeed, with everything there; then writers. */
export const live = Effect.fnUntraced(function* (run: Run) {
  const { ledger, place, tally } = run
  const compute = startCompute(run)
  yield* requireWhole(run, compute)
  if (tally.cycles % cyclesPerAmcheck === 0) {
    yield* answered("amcheck", checkPages(place))
    tally.amchecks++
  }
  yield* answered("old rows cannot be deleted", forget(place, ledger, keptSeries))
  for (let writer = 0; writer < writersAtOnce; writer++) yield* startWriter(run, place)
  return compute
})

const startWriter = (run: Run, at: Place) =>
  Effect.map(Effect.forkDetach(write(at, run.ledger)), (fiber) => void run.writers.add(fiber))

/** So many further transactions, or the end of what would acknowledge them. */
export const acknowledged = (run: Run, compute: Compute, more: number): Effect.Effect<boolean> => {
  const from = run.ledger.acknowledged
  return Effect.map(
    withinMillis(60_000, () => run.ledger.acknowledged >= from + more || compute.left()),
    () => run.ledger.acknowledged >= from + more
  )
}

/** Where the storage keeps its small files, and its bases where it has some. */
export const notesOf = ({ arena, storage }: Run): string => storage.notes(arena.disk)

export interface RunOptions {
  readonly storage: keyof typeof storages
  /** What was found stays on the disk, to be looked at. */
  readonly keep: boolean
}

const placeIn = Effect.fnUntraced(function* ({ disk }: Arena, storage: StorageKind, pgdata: string) {
  return {
    storage: storage.option(disk),
    pgdata: path.join(disk, pgdata),
    port: yield* freePort,
    httpPort: yield* freePort
  }
})

/** Everything ends, and goes, with the scope. */
export const makeRun = Effect.fnUntraced(function* (options: RunOptions, keep: () => boolean) {
  const arena = yield* makeArena(keep)
  const storage: StorageKind = storages[options.storage]
  const run: Run = {
    arena,
    storage,
    ledger: emptyLedger(),
    tally: {
      cycles: 0,
      failedStarts: 0,
      longestStartMillis: 0,
      lastStartMillis: 1000,
      amchecks: 0,
      kinds: new Map()
    },
    place: yield* placeIn(arena, storage, "pgdata"),
    rivalPlace: yield* placeIn(arena, storage, storage.bases ? "elsewhere" : "pgdata"),
    computes: new Set(),
    writers: new Set(),
    segments: new Set()
  }
  yield* Effect.addFinalizer(() =>
    Effect.gen(function* () {
      yield* killEverything(run)
      yield* Effect.forEach(run.writers, (fiber) => Fiber.interrupt(fiber), { discard: true })
      removeSegments(run.segments)
    })
  )
  return run
})

/** The tables are made while nothing strikes. */
export const firstStart = Effect.fnUntraced(function* (run: Run) {
  const compute = startCompute(run)
  yield* requireWhole(run, compute)
  yield* answered("the tables cannot be made", makeTables(run.place))
})
