/**
 * The log as a person at a terminal sees it: one line per step with its time as it ends, how far a recovery is,
 * warnings and errors in colour, and at the end what was saved. The routine of the log is left out; `-v` shows it.
 *
 * Only where standard error is a terminal and the log is text: what goes into a pipe or a file is the log as it is.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import { isTerminating } from "../compute/transitions.ts"
import type { LogSink } from "../postgres/LogPipe.ts"
import { levelOfSeverity, lineJoint, parseRecord, withoutTime } from "../postgres/logRecords.ts"
import { printLsn } from "../spec/identifiers.ts"

/** Lines that stay, and below them at most one that changes. */
export interface Screen {
  readonly line: (text: string) => void
  /** `null`: there is nothing to wait for any more. */
  readonly progress: (text: string | null) => void
  readonly colour: (name: keyof typeof colours, text: string) => string
}

const colours = { red: 31, green: 32, yellow: 33, dim: 2 } as const

const escape = "\x1b["
const clearLine = `\r${escape}K`

/** What others wrote (names, statements) must not move the cursor or change the colours. */
const harmless = (text: string): string => text.replaceAll(/(?![\n\t])\p{Cc}/gu, "?")

export const screen = (write: (text: string) => void, columns: () => number, coloured: boolean): Screen => {
  let shown: string | null = null
  const below = () => (shown === null ? "" : shown.slice(0, Math.max(1, columns() - 1)))
  return {
    line: (text) => write(`${shown === null ? "" : clearLine}${text}\n${below()}`),
    progress: (text) => {
      if (text === null && shown === null) return
      shown = text === null ? null : harmless(text)
      write(`${clearLine}${below()}`)
    },
    colour: (name, text) => (coloured ? `${escape}${colours[name]}m${text}${escape}0m` : text)
  }
}

/** What a line of the log in text begins with. */
const head = /^\d{4}-\d\d-\d\dT[\d:.]+Z +[A-Z]+ /

const recovering = /^Postgres is recovering: /

const kinds: Readonly<Record<string, readonly [word: string, colour: "red" | "yellow"]>> = {
  WARN: ["warning", "yellow"],
  ERROR: ["error", "red"],
  FATAL: ["error", "red"]
}

/** Of our own log, warnings and worse; how far a recovery is stands in the line that changes. */
export const showLogLine = (to: Screen, line: string, level: string): void => {
  const kind = kinds[level]
  const text = line.replace(head, "").trimEnd()
  if (kind !== undefined && !recovering.test(text)) to.line(`${to.colour(kind[1], `${kind[0]}:`)} ${harmless(text)}`)
}

/** Sessions that meet a start, a stop or the crash of another one: nothing is wrong with them. */
const routine = new RegExp(
  "the database system is (starting up|shutting down|not yet accepting|in recovery)|" +
    "due to administrator command|because of crash of another"
)

/** What Postgres logs as routine, and is the cause of what follows: a process of it was killed, or crashed. */
const crash = /server process \(PID \d+\) (was terminated by|exited with)/

/** Of Postgres's log, warnings and worse, and first of all what they come from. */
export const postgresOnScreen =
  (to: Screen): LogSink =>
  (text) =>
    Effect.sync(() => {
      for (const line of text.split("\n").filter((one) => one !== "")) {
        const record = line.replace(/^PG:/, "")
        const kind = kinds[crash.test(record) ? "ERROR" : levelOfSeverity(parseRecord(record).severity)]
        if (kind === undefined || routine.test(record)) continue
        const shown = withoutTime(record).replaceAll(lineJoint, "\n  ")
        to.line(`${to.colour(kind[1], "Postgres:")} ${harmless(shown)}`)
      }
    })

const nameWidth = 28

const seconds = (millis: number): string => (millis < 1000 ? `${millis} ms` : `${(millis / 1000).toFixed(1)} s`)

/** What is to be seen while nothing else happens. */
const waitsFor = ({ degraded, status, waitingFor }: Snapshot): string | null => {
  if (status === "failed") return "The compute has failed; HTTP tells about it until the end. Ctrl-C ends it"
  return degraded.find(({ code }) => code === "recovering")?.message ?? (waitingFor && `Waiting for ${waitingFor}`)
}

/** Why it ends, where nobody here asked for that. */
const unasked = ({ history }: Snapshot): string => {
  const because = history.at(-1)?.because ?? ""
  return because.startsWith("asked") ? "" : `, because ${because}`
}

/** Where what was committed is, as the end of a sentence. */
export type SavedIn = (snapshot: Snapshot) => string

/** Shows a compute until the end; `whenRunning` once, after the steps of the start. */
export const showCompute = (to: Screen, savedIn: SavedIn, whenRunning: Effect.Effect<void>) =>
  Effect.flatMap(ComputeState, (state) => {
    let steps = 0
    let ran = false
    let ending: Snapshot["status"] | null = null
    const done = (name: string, millis: number) =>
      to.line(`${to.colour("green", "✓")} ${name.padEnd(nameWidth)} ${to.colour("dim", seconds(millis))}`)
    const show = Effect.fnUntraced(function* (now: Snapshot) {
      for (const { millis, name } of now.steps.slice(steps)) done(name, millis)
      steps = now.steps.length
      to.progress(waitsFor(now))
      if (now.status === "running" && !ran) {
        ran = true
        done("ready, in all", now.metrics.total_startup_ms)
        yield* whenRunning
      }
      if (isTerminating(now.status) && ending === null && now.status !== "terminated")
        to.line(`Stopping in order${unasked(now)}; Ctrl-C again takes the next shutdown stage`)
      if (now.status === "terminated" && ending !== "terminated" && now.error === null) to.line(savedIn(now))
      if (isTerminating(now.status)) ending = now.status
    })
    return Effect.ensuring(
      Stream.runForEach(state.changes, show),
      Effect.sync(() => to.progress(null))
    )
  })

/** What an end in order leaves, by where the data lives. */
export const savedSentence = (
  storage:
    | { readonly _tag: "Neon" }
    | { readonly _tag: "Volume" }
    | { readonly _tag: "Local"; readonly directory: string },
  pgdata: string,
  { flushLsn, metrics }: Pick<Snapshot, "flushLsn" | "metrics">
): string => {
  if (metrics.total_startup_ms === 0)
    return "Stopped before Postgres was ready; what was committed earlier is as it was"
  const upTo = flushLsn === null ? "" : `, up to ${printLsn(flushLsn)}`
  switch (storage._tag) {
    case "Neon":
      return `Stopped in order: all that was committed is with the safekeepers${upTo}`
    case "Local":
      return `Stopped in order: all that was committed is in ${storage.directory}${upTo}`
    case "Volume":
      return `Stopped in order: all that was committed is in ${pgdata}${upTo}`
  }
}
