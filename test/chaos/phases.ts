/**
 * When a strike comes: each phase brings a compute to a moment of its life that nothing announces.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import type { TimedOut, WireFailed } from "../../src/errors/Failure.ts"
import type { Compute } from "./compute.ts"
import { rows } from "./ledger.ts"
import { killAll } from "../support/processes.ts"
import { acknowledged, killEverything, live, notesOf, type Run, startCompute } from "./run.ts"
import { anyMoment, type Found, someMoment, until } from "./waiting.ts"

export interface Phase {
  readonly name: string
  readonly weight: number
  /** It serves, and nobody has asked it to stop. */
  readonly serves: boolean
  /** Only with a storage that has bases. */
  readonly bases: boolean
  readonly reach: (run: Run) => Effect.Effect<Compute, Found>
}

/** Whatever is in the way of this does not matter: what it is for may happen a little less. */
const attempt = <A>(effect: Effect.Effect<A, WireFailed | TimedOut>): Effect.Effect<void> =>
  Effect.asVoid(Effect.ignore(effect))

/** WAL by the segment, which costs replay nothing. */
const switchWal = (run: Run, segments: number) =>
  attempt(
    Effect.forEach(Array.from({ length: segments }), () =>
      rows(run.place, "select pg_logical_emit_message(true, 'chaos', 'x'); select pg_switch_wal()")
    )
  )

/** A compute that begins with so much WAL behind it that its base is overdue, or that takes a while to replay. */
const killedAfter = Effect.fnUntraced(function* (run: Run, work: (compute: Compute) => Effect.Effect<unknown>) {
  const before = yield* live(run)
  yield* work(before)
  yield* killEverything(run)
  return startCompute(run)
})

const bulk = `
  create table if not exists bulk (n int, x text);
  truncate bulk;
  insert into bulk select n, repeat(md5(n::text), 8) from generate_series(1, 20000) n;
  create index if not exists bulk_n on bulk (n)`

const beforeRunning: Phase = {
  name: "before it runs",
  weight: 3,
  serves: false,
  bases: false,
  reach: Effect.fnUntraced(function* (run) {
    const compute = startCompute(run)
    yield* anyMoment(run.tally.lastStartMillis * 1.2)
    return compute
  })
}

const whileRecovering: Phase = {
  name: "while it recovers",
  weight: 2,
  serves: false,
  bases: false,
  reach: Effect.fnUntraced(function* (run) {
    const compute = yield* killedAfter(run, () => attempt(rows(run.place, bulk)))
    yield* until("it recovers", () => compute.outcome() !== null || compute.output().includes("starting PostgreSQL"))
    yield* someMoment(150)
    return compute
  })
}

const whileRunning: Phase = {
  name: "while it runs",
  weight: 5,
  serves: true,
  bases: false,
  reach: Effect.fnUntraced(function* (run) {
    const compute = yield* live(run)
    yield* someMoment(800)
    return compute
  })
}

const whileBaseIsMade: Phase = {
  name: "while a base is made",
  weight: 2,
  serves: false,
  bases: true,
  reach: Effect.fnUntraced(function* (run) {
    const compute = yield* killedAfter(run, () => switchWal(run, 9))
    const begun = () => fs.readdirSync(notesOf(run)).some((name) => name.endsWith(".new"))
    yield* until("a base is made", () => compute.outcome() !== null || begun())
    yield* someMoment(400)
    return compute
  })
}

const whileBaseIsMadeBesideUsers: Phase = {
  name: "while a base is made beside users",
  weight: 0.3,
  serves: true,
  bases: true,
  reach: Effect.fnUntraced(function* (run) {
    const compute = yield* live(run)
    yield* switchWal(run, 5)
    yield* until("a base is made", () => compute.left() || compute.output().includes("making a new base: "))
    yield* someMoment(400)
    return compute
  })
}

const stopping = (name: string, weight: number, segments: number): Phase => ({
  name,
  weight,
  serves: false,
  bases: segments > 0,
  reach: Effect.fnUntraced(function* (run) {
    const compute = yield* live(run)
    yield* acknowledged(run, compute, 20)
    yield* switchWal(run, segments)
    killAll(compute.node(), "SIGTERM")
    yield* someMoment(500)
    return compute
  })
})

export const phases: ReadonlyArray<Phase> = [
  beforeRunning,
  whileRecovering,
  whileRunning,
  whileBaseIsMade,
  whileBaseIsMadeBesideUsers,
  stopping("at the stop", 2, 0),
  stopping("at a stop that makes a base", 1, 2)
]
