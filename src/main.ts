/**
 * The process entry: arguments, environment, signals, exit code. The only file that knows there is a process around us.
 *
 * TERM, INT and QUIT end the compute in order; each further one takes the next shutdown stage. So does HUP where there
 * is a terminal that hangs up; elsewhere it asks for the spec to be read again. The process exits only after Postgres
 * has.
 */
import * as Cause from "effect/Cause"
import * as DateTime from "effect/DateTime"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Queue from "effect/Queue"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as FS from "node:fs"
import * as OS from "node:os"
import * as Path from "node:path"
import { isatty } from "node:tty"
import { startupSnapshot } from "node:v8"
import { parseArguments } from "./cli/arguments.ts"
import { banner, readyLine } from "./cli/banner.ts"
import { checkCommand } from "./cli/check.ts"
import { doctorCommand } from "./cli/doctor.ts"
import type { FakeSettings } from "./cli/fake.ts"
import { health } from "./cli/health.ts"
import { applyCommand, planCommand } from "./cli/plan.ts"
import { isBlocked } from "./cli/readText.ts"
import { isRemote, listenOptions, prepare, type Prepared, type Surroundings, withFreeHttpPorts } from "./cli/run.ts"
import { leavePorts, portsOf } from "./cli/portsFile.ts"
import type { RunSettings } from "./cli/RunSettings.ts"
import { statusCommand, topCommand } from "./cli/status.ts"
import { postgresOnScreen, savedSentence, type Screen, screen, showCompute, showLogLine } from "./cli/terminal.ts"
import { branchCommand, timelinesCommand } from "./cli/timelines.ts"
import { joinReports, type Report, schemaText, unreadable, validateText } from "./cli/validate.ts"
import { ComputeState } from "./compute/ComputeState.ts"
import type { Snapshot } from "./compute/snapshot.ts"
import { causesOf, exitCodeOf, failed, hintOf, usageError } from "./errors/policy.ts"
import { policyText } from "./http/routes.ts"
import { clockStarts } from "./lifecycle/Lifecycle.ts"
import type { ProgramOptions } from "./lifecycle/options.ts"
import { type Listening, program, programOf } from "./lifecycle/Program.ts"
import { socketsOf } from "./lifecycle/sessionAddress.ts"
import { received, type Signal, type Signals } from "./lifecycle/signals.ts"
import { isJournal, journalLine, postgresRecordsForJournal } from "./logging/journal.ts"
import { commandLog, idsOf, type LogContext, logLayer, newLogContext, postgresRecordsAsJson } from "./logging/Log.ts"
import { type RecentLines, recentLines } from "./logging/recentLines.ts"
import { standardError } from "./platform/boundedOutput.ts"
import { keepTickShape } from "./platform/nextTick.ts"
import { stderrSink } from "./postgres/LogPipe.ts"
import { telemetryOf } from "./telemetry/Telemetry.ts"
import { version } from "./version.ts"

const out = (text: string) => void process.stdout.write(text)
const err = standardError.write

/**
 * The first thing that exists. From here on a signal is heard at any moment: while the spec is read or fetched, while
 * Postgres is looked for, while it runs, and while it ends.
 */
const listenForSignals = (): Signals => {
  const first = Deferred.makeUnsafe<Signal>()
  const queue = Effect.runSync(Queue.sliding<Signal>(8))
  const hangUps = Effect.runSync(Queue.sliding<Signal>(1))
  const hasTerminal = isatty(0) || isatty(2)
  for (const name of ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"] as const) {
    process.on(name, () => {
      const signal = { name, number: OS.constants.signals[name] }
      if (name === "SIGHUP" && !hasTerminal) return void Queue.offerUnsafe(hangUps, signal)
      Deferred.doneUnsafe(first, Effect.succeed(signal))
      Queue.offerUnsafe(queue, signal)
    })
  }
  return { first: Deferred.await(first), next: Queue.take(queue), hangUps: Queue.take(hangUps) }
}

/** Nothing of it is loaded where nobody wants to be told. */
const managerAround = Effect.suspend(() =>
  process.env["NOTIFY_SOCKET"]
    ? Effect.promise(async () => {
        const found = (await import("./lifecycle/serviceManager.ts")).serviceManager(process.env, process.pid)
        return found === null ? {} : { serviceManager: found }
      })
    : Effect.succeed({})
)

const surroundings = (): Surroundings => ({
  path: process.env["PATH"],
  home: process.env["HOME"],
  stateHome: process.env["XDG_STATE_HOME"],
  isRoot: process.geteuid?.() === 0,
  pgbouncerPassword: process.env["PGBOUNCER_PASSWORD"] ? Redacted.make(process.env["PGBOUNCER_PASSWORD"]) : null,
  auditEndpoints: {
    plain: process.env["AUDIT_LOGGING_ENDPOINT"] || null,
    tls: process.env["AUDIT_LOGGING_TLS_ENDPOINT"] || null
  },
  programFolder: Path.dirname(FS.realpathSync(process.argv[1] ?? ""))
})

const underJournal = (): boolean =>
  process.env["JOURNAL_STREAM"] !== undefined && isJournal(process.env["JOURNAL_STREAM"], FS.fstatSync(2))

/** Nothing is printed into a pipe or between JSON objects: who reads those finds the same in the log. */
const tellReady = (settings: RunSettings, person: Screen | null, { at, http, login, ...options }: Prepared) => {
  const facts = { at, sockets: socketsOf({ at, ...options }), login, httpHost: http.host, httpPort: http.externalPort }
  if (person !== null) return Effect.sync(() => person.line(banner(facts).trimEnd()))
  return process.stdout.isTTY && settings.logFormat === "text"
    ? Effect.sync(() => out(banner(facts)))
    : Effect.logInfo(readyLine(facts))
}

/** Of a person who looks; `null`: whoever reads standard error gets the log. */
const screenOf = ({ logFormat, verbose }: RunSettings): Screen | null =>
  process.stderr.isTTY && logFormat === "text" && !verbose
    ? screen(err, () => process.stderr.columns || 80, !process.env["NO_COLOR"])
    : null

/** Where Postgres's records go. */
const postgresLogOf = ({ logFormat }: RunSettings, log: LogContext, person: Screen | null) => {
  if (person !== null) return postgresOnScreen(person)
  const sink = underJournal() ? postgresRecordsForJournal(stderrSink) : stderrSink
  return logFormat === "json" ? postgresRecordsAsJson(log, sink) : sink
}

const run = Effect.fnUntraced(function* (
  asked: RunSettings,
  log: LogContext,
  recent: RecentLines,
  person: Screen | null,
  signals: Signals
) {
  for (const warning of asked.warnings) yield* Effect.logWarning(warning)
  const settings = yield* withFreeHttpPorts(asked)
  const output = { recentLog: recent.entries, logOutput: standardError }
  let prepared: Prepared | null = null
  const complete = (found: Prepared): ProgramOptions => {
    prepared = found
    log.ids = idsOf(found.spec)
    return { ...found, postgresLog: postgresLogOf(settings, log, person), ...output, log }
  }
  const whenListening = Effect.fnUntraced(function* (ports: Listening) {
    yield* leavePorts(process.env, portsOf(settings, ports))
    const tell = Effect.suspend(() =>
      settings.banner && prepared !== null ? tellReady(settings, person, prepared) : Effect.void
    )
    const saved = (now: Snapshot) =>
      prepared === null ? "Stopped before it had a spec" : savedSentence(prepared.storage, prepared.pgdata, now)
    if (person !== null) yield* showCompute(person, saved, tell)
    yield* (yield* ComputeState).until("running")
    yield* tell
    // What was left goes with the compute.
    return yield* Effect.never
  }, Effect.scoped)
  const outside = { signals, onListening: whenListening, ...(yield* managerAround) }
  if (isRemote(settings)) {
    const find = Effect.gen(function* () {
      const state = yield* ComputeState
      const found = yield* prepare(settings, surroundings(), (waitingFor) => state.note({ waitingFor }))
      if (found.spec !== null) yield* state.note(clockStarts(yield* DateTime.now))
      return complete(found)
    })
    return yield* programOf({ ...listenOptions(settings), ...output }, find, outside)
  }
  // Before anything listens: a spec that is wrong ends the run, and no port was taken for it.
  const found = yield* Effect.raceFirst(prepare(settings, surroundings()), Effect.as(signals.first, null))
  if (found !== null) return yield* program(complete(found), outside)
  const early = `${received(yield* signals.first)}, before there was anything to stop`
  yield* Effect.logInfo(early)
  person?.line(early)
  return { exit: null, failure: null }
})

/** What kept the compute from having a life is logged like every failure: sentence, causes, hint. */
const runToExitCode = (settings: RunSettings, signals: Signals) => {
  const log = newLogContext()
  const recent = recentLines(settings.logFormat)
  const person = screenOf(settings)
  const toJournal = underJournal()
  const sink = (line: string, level: string) => {
    recent.add(line)
    if (person !== null) return showLogLine(person, line, level)
    err(toJournal ? journalLine(settings.logFormat, line, level) : line)
  }
  const telemetry = telemetryOf(process.env, version)
  return telemetry
    .underCaller(
      Effect.andThen(
        Effect.forEach(telemetry.warnings, (warning) => Effect.logWarning(warning)),
        run(settings, log, recent, person, signals)
      )
    )
    .pipe(
      Effect.map(({ exit, failure }) => exitCodeOf(exit, failure)),
      Effect.catch((failure) =>
        Effect.as(Effect.logError(`${causesOf(failure).join(": ")} (hint: ${hintOf(failure)})`), failed)
      ),
      Effect.provide(telemetry.layer),
      Effect.provide(logLayer({ format: settings.logFormat, filter: settings.logFilter, sink, context: log })),
      // The exit waits for a reader that reads, and for no other.
      Effect.ensuring(standardError.flush)
    )
}

const validate = (path: string, storage: "neon" | "local"): Report => {
  const source = path === "-" ? "standard input" : path
  try {
    return validateText(FS.readFileSync(path === "-" ? 0 : path), source, storage)
  } catch (cause) {
    return unreadable(source, cause instanceof Error ? cause.message : String(cause))
  }
}

const stdinCloses = Effect.callback<void>((resume) => {
  for (const event of ["end", "close", "error"]) process.stdin.once(event, () => resume(Effect.void))
  process.stdin.resume()
})

/** A file of its own, which nobody else loads. */
const fake = (settings: FakeSettings | null): Effect.Effect<number> =>
  Effect.promise(async () => {
    const { fakeCommand, fakeSchemaText } = await import("./testing/fakes/fakes.ts")
    if (settings === null) {
      out(fakeSchemaText())
      return 0
    }
    const { first } = listenForSignals()
    const told = Effect.runPromise(settings.untilStdinCloses ? Effect.raceFirst(first, stdinCloses) : first)
    return fakeCommand(settings, { out, err, told })
  })

const leave = (exit: Exit.Exit<number>) => {
  if (isBlocked()) dieBySignal()
  if (Exit.isSuccess(exit)) process.exit(exit.value)
  err(`compute_ctl failed in a way it should not: ${Cause.pretty(exit.cause)}\n`)
  process.exit(failed)
}

/** A read that hangs in Node's thread pool would keep `process.exit` from returning. */
const dieBySignal = (): void => {
  process.removeAllListeners("SIGTERM")
  process.kill(process.pid, "SIGTERM")
}

/** A command that comes to its end by itself; to its exit code. */
const runToEnd = (command: Effect.Effect<number>): void => {
  Effect.runFork(Effect.provide(command, commandLog(err))).addObserver(leave)
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
    case "Text":
      return out(command.text)
    case "Version":
      return out(`compute_ctl ${version}\n`)
    case "Schema":
      return out(schemaText())
    case "Routes":
      return out(policyText(command.apiVersion))
    case "Plan":
      return runToEnd(planCommand(command.settings, out, err))
    case "Apply":
      return runToEnd(applyCommand(command.settings, out, err))
    case "Health":
      return runToEnd(
        Effect.map(health(command.settings), ({ text, well }) => {
          ;(well ? out : err)(`${text}\n`)
          return well ? 0 : failed
        })
      )
    case "Status": {
      const terminal = { print: out, complain: err, rows: () => (process.stdout.isTTY ? process.stdout.rows : null) }
      const show = command.again ? topCommand : statusCommand
      return runToEnd(show(command.settings, terminal))
    }
    case "Doctor":
      return runToEnd(doctorCommand(command.settings, surroundings(), out))
    case "Check":
      return runToEnd(checkCommand(command, out, err))
    case "Branch":
      return runToEnd(branchCommand(command.settings, out, err))
    case "Timelines":
      return runToEnd(timelinesCommand(command.settings, out, err))
    case "Fake":
      return runToEnd(fake(command.settings))
    case "Validate": {
      const report = joinReports(command.paths.map((path) => validate(path, command.storage)))
      out(report.text)
      process.exitCode = report.exitCode
      return
    }
    case "Run":
      keepTickShape()
      Effect.runFork(runToExitCode(command.settings, listenForSignals())).addObserver(leave)
  }
}

// A snapshot of the program is all of its modules as they are here (`.ci/snapshot.ts`): what runs begins with `main`.
if (startupSnapshot.isBuildingSnapshot()) startupSnapshot.setDeserializeMainFunction(main)
else main()
