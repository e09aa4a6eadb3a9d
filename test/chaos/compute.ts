/**
 * One start of the real program, followed from outside: what it prints, and how it leaves.
 */
import * as Effect from "effect/Effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as path from "node:path"
import { runAs } from "../support/postgres.ts"
import { childrenOf } from "../support/processes.ts"
import { type Found, until } from "./waiting.ts"

const launcher = path.resolve(import.meta.dirname, "../../bin/compute_ctl")

export interface Place {
  /** As `--storage` has it. */
  readonly storage: string
  readonly pgdata: string
  readonly port: number
  readonly httpPort: number
}

export type Outcome = "running" | "failed" | "left"

export interface Compute {
  readonly place: Place
  /** The program itself, as long as it lives. */
  readonly node: () => ReadonlyArray<number>
  /** Whatever started it, which in most cases has become it. */
  readonly pid: number
  readonly output: () => string
  readonly left: () => boolean
  /** `null` when a signal ended it. */
  readonly code: () => number | null
  /** What came of the start, so far. */
  readonly outcome: () => Outcome | null
  /** Milliseconds from exec until it logged that it runs, or said something else in the end. */
  readonly millis: () => number
}

const spec = {
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: { roles: [{ name: "web" }], databases: [{ name: "shop", owner: "web" }], settings: [] }
}

const argumentsFor = ({ httpPort, pgdata, port, storage }: Place): ReadonlyArray<string> => [
  "--storage",
  storage,
  "-D",
  pgdata,
  "-C",
  `postgresql://cloud_admin@127.0.0.1:${port}/postgres`,
  "-s",
  JSON.stringify(spec),
  "--http-port",
  String(httpPort),
  ...(runAs === null ? [] : ["--run-as", runAs.name])
]

const told = /Changing compute status from \S+ to (running|failed)\b/

/** `under` is what starts it; `apart`: it stays, as the parent of the program. Nothing here ends it. */
export const launch = (place: Place, under: ReadonlyArray<string>, apart = false): Compute => {
  const [command = "", ...args] = [...under, launcher, ...argumentsFor(place)]
  const from = performance.now()
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] })
  child.on("error", () => {})
  let text = ""
  let outcome: Outcome | null = null
  let millis = 0
  for (const stream of [child.stderr, child.stdout]) {
    stream.setEncoding("utf8").on("data", (chunk: string) => {
      text = (text + chunk).slice(-60_000)
      const status = outcome === null ? told.exec(text)?.[1] : undefined
      if (status === undefined) return
      outcome = status as Outcome
      millis = performance.now() - from
    })
  }
  let left = false
  void once(child, "close").then(
    () => (left = true),
    () => (left = true)
  )
  return {
    place,
    pid: child.pid ?? -1,
    node: () => (left ? [] : apart ? childrenOf(child.pid ?? -1) : [child.pid ?? -1]),
    output: () => text,
    left: () => left || child.exitCode !== null || child.signalCode !== null,
    code: () => child.exitCode,
    outcome: () => (outcome === null && left ? "left" : outcome),
    millis: () => millis
  }
}

export const outcomeOf = (compute: Compute): Effect.Effect<Outcome, Found> =>
  Effect.map(
    until("the start comes to something", () => compute.outcome() !== null),
    () => compute.outcome() ?? "left"
  )

/** The last lines of what a compute printed, for a person. */
export const lastLines = (compute: Compute, lines = 30): string =>
  compute.output().trimEnd().split("\n").slice(-lines).join("\n")
