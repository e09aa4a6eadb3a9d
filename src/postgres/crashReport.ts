/**
 * Why Postgres left, in a sentence: from how it left and, where that says little, from its last log records. Pure.
 *
 * Total: there is a sentence for every code and every signal. It is a diagnosis; what to do about it is the error
 * policy's (`errors/policy.ts`).
 */
import type { ExitStatus } from "../errors/Failure.ts"

/** `log` holds Postgres's last records, oldest first. */
export const crashReport = (exit: ExitStatus, log: ReadonlyArray<string> = []): string => {
  const ending = exit._tag === "Code" ? ofCode(exit.code) : ofSignal(exit.signal)
  const clue = clueOf(log)
  return clue === null ? ending : `${ending}; ${clue}`
}

const codes: Readonly<Record<number, string>> = {
  0: "it shut down in an orderly way",
  1: "it gave up on a fatal error: its configuration, its data directory or its recovery",
  2: "it was told to stop at once, or refused its arguments, or one of its processes crashed",
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

/** What a record suggests. The first that matches the newest record wins. */
const clues: ReadonlyArray<readonly [RegExp, string]> = [
  [/No space left on device/i, "the disk is full"],
  [/Cannot allocate memory|out of memory/i, "memory ran out"],
  [/could not (bind|create any TCP\/IP sockets)|Address already in use/i, "its port is taken"],
  [/lock file .*already exists|another (server|postmaster)/i, "another Postgres holds this data directory or port"],
  [
    /unrecognized configuration parameter|configuration file .* contains errors|invalid value for parameter/i,
    "its configuration has an error"
  ],
  [/could not access file|could not load library/i, "a library it shall load is missing or broken"],
  [/has invalid permissions|wrong ownership|Permission denied/i, "it may not use one of its files"],
  [
    /incompatible with server|database files are incompatible/i,
    "the data directory was made by another version or build"
  ],
  [
    /could not (locate|find) a valid checkpoint|invalid (primary )?checkpoint record/i,
    "the data directory has no checkpoint to recover from"
  ]
]

const clueOf = (log: ReadonlyArray<string>): string | null => {
  for (const record of log.toReversed()) {
    const clue = clues.find(([pattern]) => pattern.test(record))
    if (clue !== undefined) return clue[1]
  }
  return null
}
