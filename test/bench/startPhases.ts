/**
 * The phases of one start, from exec to running: how long each took, how much of that our processor time was, and for
 * whom the rest was waited.
 *
 * A phase ends with a line of the log, and follows the one before: the steps of a start wait for each other, so all of
 * them are the critical path. What runs beside them shows as processor time of other threads. Linux only.
 */
import * as fs from "node:fs"
import type { Started } from "./startRuns.ts"

interface Ends {
  readonly phase: string
  readonly line: RegExp
  /** Whom a phase waits for where it does not compute. */
  readonly waitsFor: string
}

/** In the order of a start. */
export const phases: ReadonlyArray<Ends> = [
  { phase: "Node, snapshot, arguments, spec, HTTP", line: / INFO compute_ctl /, waitsFor: "exec, reads of the blob" },
  { phase: "parts of the compute", line: / from empty to init: /, waitsFor: "nobody" },
  { phase: "claim the timeline", line: / INFO claim the timeline: /, waitsFor: "flock, twice" },
  { phase: "build PGDATA", line: / INFO build PGDATA: /, waitsFor: "the file system" },
  { phase: "spawn Postgres", line: / INFO Postgres \S+ was started /, waitsFor: "the kernel's fork" },
  { phase: "start Postgres", line: / INFO start Postgres: /, waitsFor: "Postgres" },
  { phase: "apply the spec", line: / INFO apply the spec: /, waitsFor: "Postgres" },
  { phase: "secure the storage", line: / INFO secure the storage: /, waitsFor: "the disk, Postgres" },
  { phase: "say that it runs", line: / to running: /, waitsFor: "nobody" }
]

/** Processor milliseconds of the process so far, of its first thread and of all that live. */
export const processorMillis = (pid: number): { readonly first: number; readonly all: number } => {
  const ofTask = (task: string): number => {
    try {
      return Number(fs.readFileSync(`/proc/${pid}/task/${task}/schedstat`, "utf8").split(" ")[0]) / 1e6
    } catch {
      // That thread has just ended.
      return 0
    }
  }
  const tasks = fs.readdirSync(`/proc/${pid}/task`)
  return { first: ofTask(String(pid)), all: tasks.reduce((sum, task) => sum + ofTask(task), 0) }
}

export interface Phase {
  readonly phase: string
  /** Milliseconds. */
  readonly wall: number
  readonly first: number
  readonly others: number
}

/** To be called at once after the exec; resolves when the last phase is over. */
export const watchPhases = (run: Started): Promise<ReadonlyArray<Phase>> =>
  new Promise((resolve) => {
    const from = performance.now()
    const seen: Array<Phase> = []
    let last = { at: from, first: 0, all: 0 }
    const look = (): void => {
      for (let next = phases[seen.length]; next?.line.test(run.said()) === true; next = phases[seen.length]) {
        const now = { at: performance.now(), ...processorMillis(run.pid) }
        const first = now.first - last.first
        seen.push({ phase: next.phase, wall: now.at - last.at, first, others: now.all - last.all - first })
        last = now
      }
      if (seen.length === phases.length) resolve(seen)
    }
    for (const stream of [run.child.stdout, run.child.stderr]) stream?.on("data", look)
  })

const medianOf = (values: ReadonlyArray<number>): number =>
  values.toSorted((one, other) => one - other)[Math.floor((values.length - 1) / 2)] ?? NaN

/** A table of medians, and the path in one line. */
export const printPhases = (what: string, runs: ReadonlyArray<ReadonlyArray<Phase>>): void => {
  console.log(`\n${what}, phase by phase from exec, median ms`)
  console.log(`  ${"".padEnd(40)} ${["wall", "our thread", "waiting", "beside"].map((s) => s.padStart(10)).join("")}`)
  const rows = phases.map(({ phase, waitsFor }, index) => {
    const of = (pick: (one: Phase) => number) =>
      medianOf(runs.flatMap((run) => (run[index] === undefined ? [] : [pick(run[index])])))
    const row = { phase, waitsFor, wall: of(({ wall }) => wall), first: of(({ first }) => first) }
    const waiting = of(({ first, wall }) => Math.max(0, wall - first))
    const cells = [row.wall, row.first, waiting, of(({ others }) => others)]
    console.log(`  ${phase.padEnd(40)} ${cells.map((value) => value.toFixed(1).padStart(10)).join("")}`)
    return { ...row, waiting }
  })
  const path = rows
    .filter(({ wall }) => wall >= 1)
    .map(
      ({ first, phase, waiting, waitsFor }) =>
        `${phase} (${first.toFixed(0)} computing${waiting < 1 ? "" : `, ${waiting.toFixed(0)} for ${waitsFor}`})`
    )
  console.log(`  critical path: ${path.join(" -> ")}`)
}
