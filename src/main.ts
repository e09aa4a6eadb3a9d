/**
 * The door: arguments, environment, signals, exit code. The only file that knows there is a process around us.
 *
 * TERM, INT, QUIT and HUP end the compute in order; each further one takes the next stage of the stop stages. The
 * process exits only after Postgres has.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as FS from "node:fs"
import * as OS from "node:os"
import { parseArguments } from "./cli/arguments.ts"
import { health } from "./cli/health.ts"
import { planCommand } from "./cli/plan.ts"
import { banner, prepare } from "./cli/run.ts"
import type { RunSettings } from "./cli/RunSettings.ts"
import { joinReports, type Report, schemaText, unreadable, validateText } from "./cli/validate.ts"
import { Commands } from "./compute/Commands.ts"
import { ComputeState } from "./compute/ComputeState.ts"
import { causesOf, exitCodeOf, failed, hintOf, usageError } from "./errors/policy.ts"
import { policyText } from "./http/routes.ts"
import { program } from "./lifecycle/Program.ts"
import { idsOf, type LogContext, logLayer, newLogContext, postgresRecordsAsJson } from "./logging/Log.ts"
import { stderrSink } from "./postgres/LogPipe.ts"
import { telemetryOf } from "./telemetry/Telemetry.ts"
import { version } from "./version.ts"

const out = (text: string) => void process.stdout.write(text)
const err = (text: string) => void process.stderr.write(text)

const ends = ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"] as const
type Ending = (typeof ends)[number]

const listenForSignals = Effect.gen(function* () {
  const signals = yield* Queue.sliding<Ending>(8)
  for (const name of ends) process.on(name, () => void Queue.offerUnsafe(signals, name))
  return signals
})

/**
 * A terminal's Ctrl-C reaches us from the terminal and again from whatever runner stands between: within this time
 * the same signal is the same keystroke, and not yet impatience.
 */
const echo = Duration.millis(300)

/** The first signal asks for the end, the others for haste. */
const obey = Effect.fnUntraced(function* (signals: Queue.Dequeue<Ending>) {
  const commands = yield* Commands
  const first = yield* Queue.take(signals)
  yield* Effect.logInfo(received(first))
  yield* commands.terminate("immediate")
  const heardAt = yield* Clock.currentTimeMillis
  while (true) {
    const next = yield* Queue.take(signals)
    const since = (yield* Clock.currentTimeMillis) - heardAt
    if (next === first && since < Duration.toMillis(echo)) continue
    yield* Effect.logInfo(`${received(next)} again: hurrying`)
    yield* commands.escalate
  }
})

/** By number, because that is how it is searched for in logs. */
const received = (name: Ending): string => `received ${OS.constants.signals[name]} termination signal (${name})`

const run = Effect.fnUntraced(function* (settings: RunSettings, log: LogContext) {
  const signals = yield* listenForSignals
  for (const warning of settings.warnings) yield* Effect.logWarning(warning)
  const options = yield* prepare(settings, {
    path: process.env["PATH"],
    home: process.env["HOME"],
    stateHome: process.env["XDG_STATE_HOME"],
    isRoot: process.geteuid?.() === 0,
    pgbouncerPassword: process.env["PGBOUNCER_PASSWORD"] ? Redacted.make(process.env["PGBOUNCER_PASSWORD"]) : null,
    auditEndpoints: {
      plain: process.env["AUDIT_LOGGING_ENDPOINT"] || null,
      tls: process.env["AUDIT_LOGGING_TLS_ENDPOINT"] || null
    },
    programFolder: import.meta.dirname
  })
  log.ids = idsOf(options.spec)
  const startUpBanner = Effect.gen(function* () {
    const state = yield* ComputeState
    yield* state.until("running")
    if (settings.banner)
      out(banner({ at: options.at, httpHost: options.http.host, httpPort: options.http.externalPort }))
  })
  const wired =
    settings.logFormat === "json" ? { ...options, postgresLog: postgresRecordsAsJson(log, stderrSink) } : options
  return yield* program({ ...wired, log }, () =>
    Effect.raceFirst(obey(signals), Effect.andThen(startUpBanner, Effect.never))
  )
})

/** What kept the compute from having a life, told like every failure: sentence, causes, hint. */
const runToExitCode = (settings: RunSettings) => {
  const log = newLogContext()
  const telemetry = telemetryOf(process.env, version)
  return telemetry
    .underCaller(
      Effect.andThen(
        Effect.forEach(telemetry.warnings, (warning) => Effect.logWarning(warning)),
        run(settings, log)
      )
    )
    .pipe(
      Effect.map(({ exit, failure }) => exitCodeOf(exit, failure !== null && failure._tag !== "Abandoned")),
      Effect.catch((failure) =>
        Effect.as(Effect.logError(`${causesOf(failure).join(": ")} (hint: ${hintOf(failure)})`), failed)
      ),
      Effect.provide(telemetry.layer),
      Effect.provide(logLayer({ format: settings.logFormat, filter: settings.logFilter, sink: err, context: log }))
    )
}

const validate = (path: string, storage: "neon" | "local"): Report => {
  const source = path === "-" ? "standard input" : path
  try {
    return validateText(FS.readFileSync(path === "-" ? 0 : path, "utf8"), source, storage)
  } catch (cause) {
    return unreadable(source, cause instanceof Error ? cause.message : String(cause))
  }
}

const leave = (exit: Exit.Exit<number>) => {
  if (Exit.isSuccess(exit)) process.exit(exit.value)
  err(`compute_ctl failed in a way it should not: ${Cause.pretty(exit.cause)}\n`)
  process.exit(failed)
}

const main = (): void => {
  // A log pipe or a terminal that is gone must not take the compute with it.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {})
  const parsed = parseArguments(process.argv.slice(2), process.env)
  if (Result.isFailure(parsed)) {
    err(`${parsed.failure.message}\n`)
    process.exit(usageError)
  }
  const command = parsed.success
  switch (command._tag) {
    case "Help":
      return out(command.text)
    case "Version":
      return out(`compute_ctl ${version}\n`)
    case "Schema":
      return out(schemaText())
    case "Routes":
      return out(policyText(command.apiVersion))
    case "Plan":
      Effect.runFork(planCommand(command.settings, out, err)).addObserver(leave)
      return
    case "Health":
      Effect.runFork(
        Effect.map(health(command.settings), ({ text, well }) => {
          ;(well ? out : err)(`${text}\n`)
          return well ? 0 : failed
        })
      ).addObserver(leave)
      return
    case "Validate": {
      const report = joinReports(command.paths.map((path) => validate(path, command.storage)))
      out(report.text)
      process.exitCode = report.exitCode
      return
    }
    case "Run":
      Effect.runFork(runToExitCode(command.settings)).addObserver(leave)
  }
}

main()
