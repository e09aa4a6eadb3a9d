/**
 * Asks every safekeeper at once what it knows of a timeline, and stops as soon as the answer cannot change.
 *
 * Never fails: a safekeeper that is silent, broken or badly addressed is a reply like any other. Changes nothing
 * on them.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { CommandFailed, type SpawnFailed, SyncSafekeepersFailed, TimedOut } from "../../errors/Failure.ts"
import { parseConnString } from "../../pgwire/ConnString.ts"
import { connect, type StatementResult } from "../../pgwire/Wire.ts"
import type { ShutdownStage } from "../../platform/shutdownStages.ts"
import type { Spawn } from "../../platform/Spawn.ts"
import * as Split from "../../postgres/logRecords.ts"
import type { PostgresInstall } from "../../postgres/PostgresInstall.ts"
import { type Lsn, parseLsn, printLsn, type TenantId, type TimelineId } from "../../spec/identifiers.ts"
import { NeonDeadlines } from "./NeonStorage.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Whether the safekeepers already agree, judged from what they answered (reference section 4.6). Asks nobody.
//
// "No" is always a safe answer: then Postgres makes them agree.
// ---------------------------------------------------------------------------------------------------------------------

/** What one safekeeper knows about the timeline, or why it did not say. */
export type Reply =
  | { readonly _tag: "Known"; readonly safekeeper: string; readonly flush: Lsn; readonly commit: Lsn }
  | { readonly _tag: "Unknown"; readonly safekeeper: string }
  | { readonly _tag: "Silent"; readonly safekeeper: string; readonly because: string }

export type Judgement =
  | { readonly _tag: "Synced"; readonly lsn: Lsn }
  | { readonly _tag: "NotSynced"; readonly reason: string }

export const quorumOf = (safekeepers: number): number => Math.floor(safekeepers / 2) + 1

/** Nothing that is still to come can change the judgement: a quorum has answered, or a quorum has not. */
export const isDecided = (safekeepers: number, replies: ReadonlyArray<Reply>): boolean => {
  const silent = replies.filter((reply) => reply._tag === "Silent").length
  const quorum = quorumOf(safekeepers)
  return silent >= quorum || replies.length - silent >= quorum || replies.length >= safekeepers
}

const notSynced = (reason: string): Judgement => ({ _tag: "NotSynced", reason })

const told = (reply: Reply): string =>
  reply._tag === "Known"
    ? `${reply.safekeeper} flushLsn ${printLsn(reply.flush)} and committed ${printLsn(reply.commit)}`
    : reply._tag === "Unknown"
      ? `${reply.safekeeper} does not know the timeline`
      : `${reply.safekeeper}: ${reply.because}`

/** `replies` are those collected until `isDecided`. The LSN may be 0/0: a timeline that exists and is empty. */
export const judge = (safekeepers: number, replies: ReadonlyArray<Reply>): Judgement => {
  const answers = replies.filter((reply) => reply._tag !== "Silent")
  const quorum = quorumOf(safekeepers)
  if (safekeepers === 0) return notSynced("there are no safekeepers")
  if (answers.length < quorum) {
    return notSynced(
      `${answers.length} of ${safekeepers} safekeepers answered, ${quorum} are needed: ${replies.map(told).join("; ")}`
    )
  }
  const known = answers.filter((reply) => reply._tag === "Known")
  const [first] = known
  if (first === undefined || known.length < answers.length) return notSynced(answers.map(told).join("; "))
  const agreed = known.every((reply) => reply.flush === first.flush && reply.commit === first.flush)
  return agreed ? { _tag: "Synced", lsn: first.flush } : notSynced(known.map(told).join("; "))
}

// ---------------------------------------------------------------------------------------------------------------------
// `postgres --sync-safekeepers`: the walproposer makes the safekeepers agree and says at which LSN.
//
// A helper process, not the postmaster: it is asked to leave with SIGTERM, and is never left behind, also when we
// are interrupted.
// ---------------------------------------------------------------------------------------------------------------------

export interface SyncRequest {
  readonly pgdata: string
  readonly token: Redacted.Redacted<string> | null
  /** Between two attempts; none: one attempt. */
  readonly pauses: ReadonlyArray<Duration.Duration>
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

/**
 * Copies stderr to our log, and keeps its last records. What is whole is passed on at once: the sync may wait long
 * for a quorum, and its last words say for whom.
 */
const retell = Effect.fnUntraced(function* (stderr: Stream.Stream<Uint8Array>) {
  const kept: Array<string> = []
  let state = Split.nothing
  const pass = ([next, records]: Split.Split) => {
    state = next
    kept.push(...records.map((record) => Split.quote(record)))
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
  return kept
})

const listen = (stdout: Stream.Stream<Uint8Array>) =>
  Stream.runFold(
    Stream.decodeText(stdout),
    () => "",
    (all, text) => (all + text).slice(0, keptCharacters)
  )

/**
 * Runs it until it succeeds or the attempts are used up. An attempt that ran out of time is the last one: the
 * walproposer looks for a quorum all the time it runs, so another one would not find it either.
 */
export const makeSyncSafekeepers = (
  spawn: Spawn["Service"],
  install: PostgresInstall["Service"],
  prefix: ReadonlyArray<string>
) => {
  const [command = install.postgres, ...args] = [...prefix, install.postgres, "--sync-safekeepers"]
  const name = `${install.postgres} --sync-safekeepers`

  const once = Effect.fnUntraced(
    function* (request: SyncRequest) {
      const child = yield* spawn.spawn({
        command,
        args,
        env: {
          PGDATA: request.pgdata,
          NEON_AUTH_TOKEN: request.token === null ? undefined : Redacted.value(request.token)
        },
        runAs: install.runAs,
        stages
      })
      const { exit, said, told } = yield* Effect.all(
        { exit: child.exit, said: listen(child.stdout), told: retell(child.stderr) },
        { concurrency: "unbounded" }
      )
      const output = [said.trim(), ...told].filter((line) => line !== "").join(" | ")
      if (exit._tag !== "Code" || exit.code !== 0) return yield* new CommandFailed({ command: name, exit, output })
      const lsn = parseLsn(said)
      if (Option.isNone(lsn)) {
        return yield* new CommandFailed({
          command: name,
          exit,
          output: `it printed no LSN${output === "" ? "" : `: ${output}`}`
        })
      }
      return lsn.value
    },
    (effect, request) =>
      Effect.scoped(effect).pipe(
        Effect.timeoutOrElse({
          duration: request.within,
          orElse: () => Effect.fail(new TimedOut({ what: name, millis: Duration.toMillis(request.within) }))
        })
      )
  )

  return Effect.fn("NeonStorage.syncSafekeepers")(function* (request: SyncRequest) {
    const causes: Array<CommandFailed | SpawnFailed | TimedOut> = []
    while (true) {
      const result = yield* Effect.result(once(request))
      if (result._tag === "Success") return result.success satisfies Lsn
      causes.push(result.failure)
      const pause = request.pauses[causes.length - 1]
      if (pause === undefined || result.failure._tag !== "CommandFailed") {
        return yield* new SyncSafekeepersFailed({ attempts: causes.length, cause: together(causes) })
      }
      yield* Effect.logWarning(`attempt ${causes.length} to sync the safekeepers failed: ${result.failure.message}`)
      yield* Effect.sleep(pause)
    }
  })
}

/** All of them in one error whose message names each; a cause that repeats is told once. */
const together = (causes: ReadonlyArray<Error>): Error => {
  const [first] = causes
  const messages = [...new Set(causes.map((cause) => cause.message))]
  return first !== undefined && messages.length === 1 ? first : new AggregateError(causes, messages.join("; then "))
}

// ---------------------------------------------------------------------------------------------------------------------

export interface Question {
  readonly tenant: TenantId
  readonly timeline: TimelineId
  /** `host:port` each. */
  readonly safekeepers: ReadonlyArray<string>
  readonly token: Redacted.Redacted<string> | null
}

const silent = (safekeeper: string, because: string): Reply => ({ _tag: "Silent", safekeeper, because })

/** One row `flush_lsn, commit_lsn`; no row: the timeline is not known there. */
const read = (safekeeper: string, rows: StatementResult["rows"]): Reply => {
  const [row] = rows
  if (row === undefined) return { _tag: "Unknown", safekeeper }
  const flush = parseLsn(row[0] ?? "")
  const commit = parseLsn(row[1] ?? "")
  return Option.isNone(flush) || Option.isNone(commit)
    ? silent(safekeeper, "it answered something that is not a pair of LSNs")
    : { _tag: "Known", safekeeper, flush: flush.value, commit: commit.value }
}

const ask = (question: Question, safekeeper: string, within: Duration.Duration): Effect.Effect<Reply> => {
  const at = parseConnString(`postgresql://no_user@${safekeeper}`)
  if (Result.isFailure(at)) return Effect.succeed(silent(safekeeper, `its address cannot be used: ${at.failure}`))
  return Effect.gen(function* () {
    const wire = yield* connect({
      host: at.success.host,
      port: at.success.port,
      user: "no_user",
      options: `-c timeline_id=${question.timeline} tenant_id=${question.tenant}`,
      connectWithin: within,
      ...(question.token === null ? {} : { password: question.token })
    })
    return read(safekeeper, yield* wire.rows("TIMELINE_STATUS", within))
  }).pipe(
    Effect.scoped,
    Effect.catch((failure) => Effect.succeed(silent(safekeeper, failure.message))),
    Effect.timeoutOrElse({
      duration: within,
      orElse: () => Effect.succeed(silent(safekeeper, `no answer within ${Duration.toMillis(within)} ms`))
    })
  )
}

/** Reference section 4.6, fast path. */
export const askSafekeepers = Effect.fn("NeonStorage.askSafekeepers")(function* (question: Question) {
  const { ping } = yield* NeonDeadlines
  const total = question.safekeepers.length
  const replies = yield* Stream.fromIterable(question.safekeepers).pipe(
    Stream.mapEffect((safekeeper) => ask(question, safekeeper, ping), { concurrency: "unbounded", unordered: true }),
    Stream.mapAccum(
      (): ReadonlyArray<Reply> => [],
      (seen, reply) => {
        const now = [...seen, reply]
        return [now, [now]]
      }
    ),
    Stream.takeUntil((seen) => isDecided(total, seen)),
    Stream.runLast
  )
  const judgement: Judgement = judge(
    total,
    Option.getOrElse(replies, () => [])
  )
  return judgement
})
