/**
 * `postgres --sync-safekeepers`: the walproposer makes the safekeepers agree and prints at which LSN
 * (docs/reference/compute_ctl.md#safekeeper-sync).
 *
 * A helper process, not the postmaster: it is asked to leave with SIGTERM, and is never left behind, also when we
 * are interrupted. It runs in the same cgroup as the postmaster.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import {
  CommandFailed,
  type Failure,
  PostgresUnusable,
  type SpawnFailed,
  SyncSafekeepersFailed,
  TimedOut
} from "../../errors/Failure.ts"
import { within } from "../../errors/within.ts"
import { locksOf } from "../../platform/flock.ts"
import type { ShutdownStage } from "../../platform/shutdownStages.ts"
import type { Spawn, SpawnRequest } from "../../platform/Spawn.ts"
import * as Split from "../../postgres/logRecords.ts"
import type { PostgresInstall } from "../../postgres/PostgresInstall.ts"
import { type Lsn, parseLsn } from "../../spec/identifiers.ts"

/** Five more attempts; the first at once, the later ones after a second, a tenth longer each time. */
export const startRetries = Schedule.exponential("1 second", 1.1).pipe(
  Schedule.modifyDelay(({ attempt, duration }) => Effect.succeed(attempt === 1 ? Duration.zero : duration)),
  Schedule.upTo({ times: 5 })
)

export interface SyncRequest {
  readonly pgdata: string
  readonly token: Redacted.Redacted<string> | null
  /** When an attempt that failed is followed by another. */
  readonly retries: Schedule.Schedule<unknown>
  /** For one attempt. */
  readonly within: Duration.Duration
}

const stages: ReadonlyArray<ShutdownStage> = [
  { signal: "SIGTERM", grace: Duration.seconds(5), meaning: "die: the walproposer keeps nothing that could be lost" },
  { signal: "SIGKILL", grace: Duration.seconds(5), meaning: "the kernel does it" }
]

/** Records of stderr that are kept for the failure, and characters of stdout that are looked at. */
const keptRecords = 20
const keptCharacters = 4096

/** When, and as which process: what differs from run to run of the same failure, as Postgres writes it. */
const timeAndPid =
  /\b\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}:\d{2}(?:\.\d+)?(?: [A-Z]{2,5}\b|Z|[+-]\d{2}(?::?\d{2})?)? ?(?:\[?\d+\]?:? )?/g

/**
 * Copies stderr to our log, and keeps its last records in `kept`. What is whole is passed on at once: the sync may wait
 * long for a quorum, and its last record says for whom.
 */
const copyToLog = Effect.fnUntraced(function* (stderr: Stream.Stream<Uint8Array>, kept: Array<string>) {
  let state = Split.nothing
  const pass = ([next, records]: Split.Split) => {
    state = next
    kept.push(...records.map((record) => Split.quote(record).replaceAll(timeAndPid, "")))
    kept.splice(0, kept.length - keptRecords)
    return Effect.forEach(records, (record) => Effect.logInfo(`PG:${record}`), { discard: true })
  }
  yield* Stream.runForEach(Stream.decodeText(stderr), (text) =>
    Effect.andThen(
      pass(Split.push(state, text)),
      Effect.suspend(() => pass(Split.silence(state)))
    )
  )
  yield* pass([Split.nothing, Split.end(state)])
})

const readText = (stdout: Stream.Stream<Uint8Array>) =>
  Stream.runFold(
    Stream.decodeText(stdout),
    () => "",
    (all, text) => (all + text).slice(0, keptCharacters)
  )

interface Run {
  readonly spawn: Spawn["Service"]
  readonly request: SpawnRequest
  /** Stands for the command in errors. */
  readonly name: string
  readonly within: Duration.Duration
}

/** The LSN that one run prints. */
const runOnce = Effect.fnUntraced(function* ({ name, request, spawn }: Run, records: Array<string>) {
  const child = yield* spawn.spawn(request)
  const { exit, printed } = yield* Effect.all(
    { exit: child.exit, printed: readText(child.stdout), records: copyToLog(child.stderr, records) },
    { concurrency: "unbounded" }
  )
  const output = [printed.trim(), ...records].filter((line) => line !== "").join(" | ")
  if (exit._tag !== "Code" || exit.code !== 0) return yield* new CommandFailed({ command: name, exit, output })
  const lsn = parseLsn(printed)
  if (Option.isSome(lsn)) return lsn.value
  const detail = `it printed no LSN${output === "" ? "" : `: ${output}`}`
  return yield* new CommandFailed({ command: name, exit, output: detail })
}, Effect.scoped)

/** One that took too long says what it was waiting for, in its own last words. */
const attempt = (run: Run) =>
  Effect.suspend(() => {
    const records: Array<string> = []
    return runOnce(run, records).pipe(
      within(run.name, run.within),
      Effect.mapError((cause) =>
        cause._tag === "TimedOut" && records.length > 0
          ? new TimedOut({ millis: cause.millis, what: `${run.name}, which said last: ${records.join(" | ")}` })
          : cause
      )
    )
  })

/** A Postgres that knows no such program takes its name for a setting's. */
const isStockPostgres = (cause: Error): cause is CommandFailed =>
  cause instanceof CommandFailed && cause.output.includes("--sync-safekeepers requires a value")

export type EnterCgroup = (request: SpawnRequest) => Effect.Effect<SpawnRequest, Failure>

/**
 * Runs it until it succeeds or the retries are used up. An attempt that ran out of time is the last one: the
 * walproposer looks for a quorum all the time it runs, so another one would not find it either.
 */
export const makeSyncSafekeepers = (
  spawn: Spawn["Service"],
  install: PostgresInstall["Service"],
  enter: EnterCgroup = Effect.succeed
) => {
  const name = `${install.postgres} --sync-safekeepers`
  return Effect.fn("NeonStorage.syncSafekeepers")(function* (request: SyncRequest): Effect.fn.Return<Lsn, Failure> {
    const command = yield* enter({
      command: install.postgres,
      args: ["--sync-safekeepers"],
      env: {
        PGDATA: request.pgdata,
        NEON_AUTH_TOKEN: request.token === null ? undefined : Redacted.value(request.token)
      },
      runAs: install.runAs,
      // It writes in PGDATA, too.
      inherit: locksOf(request.pgdata),
      stages
    })
    const causes: Array<CommandFailed | SpawnFailed | TimedOut> = []
    const retries = request.retries.pipe(
      Schedule.setInputType<Failure>(),
      Schedule.while(({ input }) => input._tag === "CommandFailed" && !isStockPostgres(input)),
      Schedule.tap(({ attempt: number, input }) =>
        Effect.logWarning(`attempt ${number} to sync the safekeepers failed: ${input.message}`)
      )
    )
    return yield* attempt({ spawn, request: command, name, within: request.within }).pipe(
      Effect.tapError((cause) => Effect.sync(() => causes.push(cause))),
      Effect.retry(retries),
      Effect.mapError((last) => {
        const attempts = causes.length
        return isStockPostgres(last)
          ? new SyncSafekeepersFailed({ attempts, cause: withoutWalproposer(install, last), hint: needsNeonsPostgres })
          : new SyncSafekeepersFailed({ attempts, cause: together(causes) })
      })
    )
  })
}

const needsNeonsPostgres =
  "give the Postgres of Neon's images with -b; a stock Postgres keeps its data with --storage local:DIR or volume"

const withoutWalproposer = ({ postgres, version }: PostgresInstall["Service"], cause: CommandFailed) =>
  new PostgresUnusable({
    binary: postgres,
    detail: `it is a stock Postgres (${version}) without a walproposer, and cannot sync safekeepers`,
    hint: needsNeonsPostgres,
    cause
  })

/** All of them in one error whose message names each; those that say the same are named once, with their number. */
const together = (causes: ReadonlyArray<Error>): Error => {
  const alike = [...Map.groupBy(causes, (cause) => cause.message).entries()]
  const [first] = causes
  if (first !== undefined && alike.length === 1) return first
  const messages = alike.map(([message, { length }]) => (length === 1 ? message : `${message} (${length} times)`))
  return new AggregateError(causes, messages.join("; then "))
}
