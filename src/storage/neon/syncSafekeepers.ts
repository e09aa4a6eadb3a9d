/**
 * `postgres --sync-safekeepers`: the walproposer makes the safekeepers agree and says at which LSN.
 *
 * A helper process, not the postmaster: it is asked to leave with SIGTERM, and is never left behind, also when we
 * are interrupted.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { CommandFailed, type SpawnFailed, SettleFailed, TimedOut } from "../../errors/Failure.ts"
import { type Lsn, parseLsn } from "../../spec/Lsn.ts"
import type { PostgresInstall } from "../../postgres/PostgresInstall2.ts"
import type { Spawn } from "../../platform/Spawn.ts"
import * as Split from "../../postgres/logRecords.ts"
import type { Rung } from "../../platform/stopLadder.ts"

export interface SyncRequest {
  readonly pgdata: string
  readonly token: Redacted.Redacted<string> | null
  /** Between two attempts; none: one attempt. */
  readonly pauses: ReadonlyArray<Duration.Duration>
  /** For one attempt. */
  readonly within: Duration.Duration
}

const ladder: ReadonlyArray<Rung> = [
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
const retell = Effect.fnUntraced(function*(stderr: Stream.Stream<Uint8Array>) {
  const kept: Array<string> = []
  let state = Split.nothing
  const pass = ([next, records]: Split.Split) => {
    state = next
    kept.push(...records.map((record) => Split.quote(record)))
    kept.splice(0, kept.length - keptRecords)
    return Effect.forEach(records, (record) => Effect.logInfo(`PG:${record}`), { discard: true })
  }
  yield* Stream.runForEach(Stream.decodeText(stderr), (text) =>
    Effect.andThen(pass(Split.push(state, text)), Effect.suspend(() => pass(Split.silence(state)))))
  yield* pass([Split.nothing, Split.end(state)])
  return kept
})

const listen = (stdout: Stream.Stream<Uint8Array>) =>
  Stream.runFold(Stream.decodeText(stdout), () => "", (all, text) => (all + text).slice(0, keptCharacters))

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
    function*(request: SyncRequest) {
      const child = yield* spawn.spawn({
        command,
        args,
        env: {
          PGDATA: request.pgdata,
          NEON_AUTH_TOKEN: request.token === null ? undefined : Redacted.value(request.token)
        },
        runAs: install.runAs,
        ladder
      })
      const { exit, said, told } = yield* Effect.all(
        { exit: child.exit, said: listen(child.stdout), told: retell(child.stderr) },
        { concurrency: "unbounded" }
      )
      const output = [said.trim(), ...told].filter((line) => line !== "").join(" | ")
      if (exit._tag !== "Code" || exit.code !== 0) return yield* new CommandFailed({ command: name, exit, output })
      const lsn = parseLsn(said)
      if (Option.isNone(lsn)) {
        return yield* new CommandFailed({ command: name, exit, output: `it printed no LSN${output === "" ? "" : `: ${output}`}` })
      }
      return lsn.value
    },
    (effect, request) =>
      Effect.scoped(effect).pipe(Effect.timeoutOrElse({
        duration: request.within,
        orElse: () => Effect.fail(new TimedOut({ what: name, millis: Duration.toMillis(request.within) }))
      }))
  )

  return Effect.fn("NeonStorage.syncSafekeepers")(function*(request: SyncRequest) {
    const causes: Array<CommandFailed | SpawnFailed | TimedOut> = []
    while (true) {
      const result = yield* Effect.result(once(request))
      if (result._tag === "Success") return result.success satisfies Lsn
      causes.push(result.failure)
      const pause = request.pauses[causes.length - 1]
      if (pause === undefined || result.failure._tag !== "CommandFailed") {
        return yield* new SettleFailed({ attempts: causes.length, cause: together(causes) })
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
