/**
 * Why Postgres left, in a sentence: from how it left and from its last log records. Pure.
 *
 * Total: there is a sentence for every code and every signal. It is a diagnosis; what to do about it is the error
 * policy's (`errors/policy.ts`).
 */
import type { ExitStatus } from "../errors/Failure.ts"
import { clueIn } from "./crashClues.ts"
import { type PostgresRecord, parseRecord } from "./logRecords.ts"

/** `log` holds Postgres's last records, oldest first. */
export const crashReport = (exit: ExitStatus, log: ReadonlyArray<string> = []): string => {
  const records = lastRun(log.map(parseRecord))
  if (exit._tag === "Signal") {
    // Nobody was left to say which process's fatal error it was; a session's is none of the server's.
    const notFatal = records.filter(({ severity }) => severity !== "FATAL")
    return withClue(ofSignal(exit.signal), clueIn(textsOf(notFatal)))
  }
  const relevant = ofPostmaster(records)
  const lost = lostProcess(relevant)
  const clue = clueIn(textsOf(relevant))
  const fatal = clue ?? lastFatal(relevant)
  if (lost !== null) return withClue(ofLost(lost, relevant), fatal)
  if (exit.code !== 1) return withClue(ofCode(exit.code), clue)
  return fatal === null ? ofCode(exit.code) : `it gave up on a fatal error: ${fatal}`
}

const withClue = (sentence: string, clue: string | null): string => (clue === null ? sentence : `${sentence}; ${clue}`)

// Which records are about the end.

/** Postgres that restarted after a crash, or became ready, has left behind what was before. */
const newRun = /all server processes terminated; reinitializing|database system is ready to accept connections/

const lastRun = (records: ReadonlyArray<PostgresRecord>): ReadonlyArray<PostgresRecord> =>
  records.slice(records.findLastIndex(({ message }) => newRun.test(message)) + 1)

const lostPattern =
  /LOG: {2}([^:]+?) \(PID (\d+)\) (was terminated by signal (\d+)(?:: [\w ]+)?|exited with exit code \d+)/

/** A record is worth keeping for this report, however many others come after it. */
export const isAboutTheEnd = (record: string): boolean => lostPattern.test(record) || newRun.test(record)

/** What the postmaster wrote, and the processes whose loss it reports. Sessions have fatal errors of their own. */
const ofPostmaster = (records: ReadonlyArray<PostgresRecord>): ReadonlyArray<PostgresRecord> => {
  const postmaster = records.findLast(({ message }) => /database system is shut down/.test(message))?.pid ?? null
  if (postmaster === null) return records
  const lost = records.map(({ message }) => lostPattern.exec(message)?.[2]).filter((pid) => pid !== undefined)
  const pids = new Set([postmaster, ...lost.map(Number)])
  return records.filter(({ pid }) => pid === null || pids.has(pid))
}

/** Newest first. What a session asked for, and its errors, are no reason for the server's end. */
const textsOf = (records: ReadonlyArray<PostgresRecord>): ReadonlyArray<string> =>
  records
    .filter(({ message, severity }) => !ofSessions.has(severity) && !message.includes("Failed process was running:"))
    .map(({ message }) => message)
    .toReversed()

const ofSessions: ReadonlySet<PostgresRecord["severity"]> = new Set(["ERROR", "STATEMENT", "QUERY", "CONTEXT"])

const lastFatal = (records: ReadonlyArray<PostgresRecord>): string | null => {
  const fatal = records.findLast(({ severity }) => severity === "FATAL" || severity === "PANIC")
  return fatal === undefined ? null : (/(?:FATAL|PANIC): {2}(.*)/s.exec(fatal.message)?.[1] ?? null)
}

// A process of Postgres that was lost: the server ends with it, unless it may restart after a crash.

interface LostProcess {
  readonly name: string
  readonly pid: string
  /** Such as `was terminated by signal 9: Killed`. */
  readonly ending: string
  readonly signal: number | null
}

/** The first one: those after it are what the postmaster ended because of it. */
const lostProcess = (records: ReadonlyArray<PostgresRecord>): LostProcess | null => {
  for (const { message } of records) {
    const [, called, pid, ending, signal] = lostPattern.exec(message) ?? []
    if (called === undefined || pid === undefined || ending === undefined) continue
    return { name: nameOf(called), pid, ending, signal: signal === undefined ? null : Number(signal) }
  }
  return null
}

/** `server process` until 17, `client backend` from 18 on; the others are the only ones of their kind. */
const nameOf = (called: string): string =>
  called === "server process" || called === "client backend"
    ? "a backend"
    : `the ${called.replace(/(?<!startup) process$/, "")}`

const ofLost = ({ ending, name, pid, signal }: LostProcess, records: ReadonlyArray<PostgresRecord>): string => {
  const sentence = `${name} (pid ${pid}) ${ending}`
  const stays = records.some(({ message }) => /because "?restart_after_crash"? is off/.test(message))
  const end = stays ? ", and restart_after_crash is off" : ""
  const known =
    signal === null ? undefined : signals[signalNames[signal] ?? (ending.endsWith("Bus error") ? "SIGBUS" : "")]
  return known === undefined ? `${sentence}${end}` : `${sentence}${end}; ${known}`
}

// How the postmaster itself left.

const codes: Readonly<Record<number, string>> = {
  0: "it shut down in an orderly way",
  1: "it gave up on a fatal error, of which its log says nothing",
  2: "it was told to stop at once, or refused its arguments or its data directory",
  3: "its recovery ended without reaching what it was told to reach",
  126: "the program may not be executed",
  127: "the program or one of its libraries could not be found"
}

const ofCode = (code: number): string => {
  const known = codes[code]
  if (known !== undefined) return known
  const name = code > 128 ? signalNames[code - 128] : undefined
  if (name !== undefined) return `a process of it died: ${ofSignal(name)}`
  return `it left with code ${code}, which Postgres gives no meaning`
}

/** Numbers that are the same on Linux and macOS; others differ and are not guessed. */
const signalNames: Readonly<Record<number, string>> = {
  1: "SIGHUP",
  2: "SIGINT",
  3: "SIGQUIT",
  4: "SIGILL",
  5: "SIGTRAP",
  6: "SIGABRT",
  8: "SIGFPE",
  9: "SIGKILL",
  11: "SIGSEGV",
  13: "SIGPIPE",
  14: "SIGALRM",
  15: "SIGTERM"
}

const signals: Readonly<Record<string, string>> = {
  SIGKILL: "it was killed outright: by the kernel if memory ran out (the kernel's log would say so), or by an operator",
  SIGABRT: "it aborted itself: an assertion or a PANIC, whose text is in its log",
  SIGSEGV: "it touched memory that is not its own: a bug in Postgres or in a loaded library",
  SIGBUS: "memory or a mapped file was taken from under it: a full /dev/shm or a truncated file",
  SIGILL: "it was built for another processor",
  SIGFPE: "it made an arithmetic error: a bug in Postgres or in a loaded library",
  SIGTRAP: "it hit a breakpoint or was being debugged",
  SIGSYS: "it made a system call that the sandbox it runs in forbids",
  SIGXCPU: "it used up the processor time it was allowed",
  SIGXFSZ: "it wrote a file larger than it was allowed",
  SIGQUIT: "it was told to stop at once before it could listen",
  SIGINT: "it was told to stop before it could listen",
  SIGTERM: "it was told to stop before it could listen"
}

const ofSignal = (signal: string): string => signals[signal] ?? `somebody sent it ${signal}`
