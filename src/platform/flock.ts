/**
 * A lock that lasts until the last process that may write is gone: an flock whose descriptor children inherit.
 *
 * It belongs to the open file, not to a process: every child that inherits the descriptor keeps it, and theirs keep it
 * on, until the last of them is gone, however each of them dies; a zombie holds nothing. Every container on the
 * machine meets it, whatever it can see of the holders. Node has no call for it, so a helper program takes it on the
 * descriptor that it inherits. Nothing here ever unlocks: that would unlock for all; a holder closes.
 *
 * `looked`: who holds it, as far as `/proc` shows. A descriptor that is closed on exec is that of a compute that
 * opened the file; all others inherited it.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import { codeOf } from "../errors/errno.ts"
import { type FileFailed, LockUnavailable } from "../errors/Failure.ts"
import { attempt, type Owner } from "./files.ts"
import { parentOf, processOf, runCommand, signalProcess } from "./processes.ts"
import { questionStages } from "./shutdownStages.ts"
import { type RunAs, Spawn } from "./Spawn.ts"

type Attempt =
  | { readonly _tag: "Taken" }
  | { readonly _tag: "Busy" }
  /** This file system, or this machine, has no such locks. */
  | { readonly _tag: "Unavailable"; readonly because: string }

/** Each exits with 1 and says nothing when another holds it. The descriptor is 3. */
const helpers: ReadonlyArray<readonly [command: string, ...args: ReadonlyArray<string>]> = [
  ["flock", "-n", "3"],
  ["busybox", "flock", "-n", "3"],
  [
    "perl",
    "-e",
    'use Fcntl qw(:flock); open(F, ">&=3") or die "$!\\n"; flock(F, LOCK_EX | LOCK_NB) and exit 0; ' +
      "$!{EWOULDBLOCK} and exit 1; print STDERR qq($!\\n); exit 2"
  ],
  [
    "python3",
    "-c",
    "import fcntl, sys\ntry: fcntl.flock(3, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept BlockingIOError: sys.exit(1)"
  ]
]

const helperWithin = "10 seconds"

/** `null`: there is no such program. */
const attemptWith = (command: string, args: ReadonlyArray<string>, descriptor: number) =>
  runCommand(
    { command, args, cwd: "/", runAs: null, stages: questionStages, inherit: [descriptor] },
    helperWithin
  ).pipe(
    Effect.as<Attempt | null>({ _tag: "Taken" }),
    Effect.catchTags({
      SpawnFailed: () => Effect.succeed<Attempt | null>(null),
      CommandFailed: ({ exit, message, output }) =>
        Effect.succeed<Attempt | null>(
          exit._tag === "Code" && exit.code === 1 && output === ""
            ? { _tag: "Busy" }
            : { _tag: "Unavailable", because: message }
        ),
      TimedOut: ({ message }) => Effect.succeed<Attempt | null>({ _tag: "Unavailable", because: message })
    })
  )

/** Takes the lock on an open file. It stays with the descriptor, and with whoever inherits that. */
export const attemptFlock = (descriptor: number): Effect.Effect<Attempt> =>
  Effect.gen(function* () {
    let failed: Attempt = {
      _tag: "Unavailable",
      because: `no program can take it: there is no ${helpers.map(([name]) => name).join(", ")}`
    }
    for (const [command, ...args] of helpers) {
      const attempt = yield* attemptWith(command, args, descriptor)
      if (attempt === null) continue
      if (attempt._tag !== "Unavailable") return attempt
      failed = attempt
      // Busybox may be there without this part of it; the file system's own answer is final.
      if (command !== "busybox") break
    }
    return failed
  }).pipe(Effect.provide(Spawn.layer))

// Who holds it.

interface Holder {
  readonly pid: number
  /** Opened it itself: a compute. Everybody else got it from one. */
  readonly opened: boolean
}

/** As /proc prints it: octal. */
const closedOnExec = 0o2000000

const readFlags = (info: string): number => Number.parseInt(/^flags:\s*([0-7]+)/m.exec(info)?.[1] ?? "0", 8)

/** Only a descriptor that is open to the lock itself; who merely reads the file holds nothing. */
const holderOf = (pid: number, info: string): Holder | null =>
  /^lock:.*\bFLOCK\b/m.test(info) ? { pid, opened: (readFlags(info) & closedOnExec) !== 0 } : null

interface Seen {
  readonly holders: ReadonlyArray<Holder>
  /** Whose descriptors we may not look at. */
  readonly hidden: ReadonlyArray<number>
}

const isForbidden = (cause: unknown): boolean => codeOf(cause) === "EACCES" || codeOf(cause) === "EPERM"

const holds = (pid: string, fd: string, lock: fs.Stats, name: string): Holder | null => {
  // A cheap look first: the last part of the name is the same in every mount namespace.
  if (path.basename(fs.readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/ \(deleted\)$/, "")) !== name) return null
  const stat = fs.statSync(`/proc/${pid}/fd/${fd}`)
  if (stat.dev !== lock.dev || stat.ino !== lock.ino) return null
  return holderOf(Number(pid), fs.readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))
}

/** Names of descriptors may be listed where what they lead to may not be seen. */
const lookInto = (pid: string, lock: fs.Stats, name: string): Holder | "hidden" | null => {
  const found: Array<Holder> = []
  try {
    for (const fd of fs.readdirSync(`/proc/${pid}/fd`)) {
      try {
        const holder = holds(pid, fd, lock, name)
        if (holder !== null) found.push(holder)
      } catch (cause) {
        // It may also have closed the file while we looked.
        if (isForbidden(cause)) return "hidden"
      }
    }
  } catch (cause) {
    // Or it went away.
    if (isForbidden(cause)) return "hidden"
  }
  return found.find(({ opened }) => opened) ?? found[0] ?? null
}

const lookOurselves = (lock: fs.Stats, name: string): Seen => {
  const pids = fs.existsSync("/proc/self/fd") ? fs.readdirSync("/proc").filter((pid) => /^\d+$/.test(pid)) : []
  const seen = pids.map((pid) => ({ pid: Number(pid), found: lookInto(pid, lock, name) }))
  return {
    holders: seen.map(({ found }) => found).filter((found) => found !== null && found !== "hidden"),
    hidden: seen.filter(({ found }) => found === "hidden").map(({ pid }) => pid)
  }
}

/** Prints pid and details of each descriptor that is open to the same file as descriptor 3. */
const script = `
for fd in /proc/[0-9]*/fd/*; do
  [ "$fd" -ef /proc/self/fd/3 ] || continue
  process=\${fd%/fd/*}
  echo "pid \${process#/proc/}"
  cat "$process/fdinfo/\${fd##*/}"
done 2>/dev/null
exit 0
`

/**
 * Root without CAP_SYS_PTRACE, as in a container, may not look into the processes of Postgres's user; that user may.
 */
const lookAs = (user: RunAs, descriptor: number) =>
  runCommand(
    { command: "/bin/sh", args: ["-c", script], cwd: "/", runAs: user, stages: questionStages, inherit: [descriptor] },
    helperWithin
  ).pipe(
    Effect.map(({ stdout }) =>
      stdout
        .split(/^pid /m)
        .slice(1)
        .map((text) => holderOf(Number.parseInt(text, 10), text))
        .filter((holder) => holder !== null)
    ),
    // Without a shell we see less.
    Effect.orElseSucceed((): ReadonlyArray<Holder> => []),
    Effect.provide(Spawn.layer)
  )

/** `descriptor` is open to the lock, whose name is `name`; `user` is who else may be asked to look. */
const holdersOf = Effect.fnUntraced(function* (descriptor: number, name: string, user: RunAs | null) {
  const { hidden, holders } = lookOurselves(fs.fstatSync(descriptor), name)
  if (hidden.length === 0 || user === null || process.geteuid?.() !== 0) return holders
  const known = new Set(holders.map(({ pid }) => pid))
  return [...holders, ...(yield* lookAs(user, descriptor)).filter(({ pid }) => !known.has(pid))]
})

// Taken, against processes that still hold it.

export type Busy<F> = (holder: string, hint?: string) => F

export interface FlockRequest<F> {
  /** The file or folder that is locked. A file is made. */
  readonly file: string
  readonly owner: Owner | null
  /** As whom Postgres's processes run; root asks that user about them where it may not look itself. */
  readonly user: RunAs | null
  readonly busy: Busy<F>
  readonly allowUnfenced: boolean
  /** Whoever holds it without having opened it was started by a compute that is dead, and may be ended. */
  readonly leftoversOnly: boolean
}

const openLock = (file: string, owner: Owner | null) =>
  attempt("open", file, () => {
    const folder = fs.statSync(file, { throwIfNoEntry: false })?.isDirectory() === true
    const { O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, O_RDWR } = fs.constants
    const descriptor = fs.openSync(file, folder ? O_RDONLY | O_DIRECTORY : O_RDWR | O_CREAT | O_NOFOLLOW, 0o600)
    if (!folder && owner !== null && process.geteuid?.() === 0) fs.fchownSync(descriptor, owner.uid, owner.gid)
    return descriptor
  })

/** First immediate, so that a postmaster takes its processes, sockets and shared memory along; then SIGKILL for all. */
const immediateWithin = Duration.seconds(1)
const goneWithin = Duration.seconds(10)
/** What nobody can be seen to hold may be on its way out. */
const unseenWithin = Duration.seconds(2)

/** Milliseconds since the first try, and since a holder was last seen. */
interface Waited {
  readonly total: number
  readonly unseen: number
}

/**
 * Nobody that holds it may be ended, and none of them will leave. One that was seen a moment ago, and ended, may not be
 * gone yet, or gone since the lock was tried: on a busy machine these are seconds after the first try.
 */
export const isHopeless = (holders: "none seen" | "may be ended" | "others", waited: Waited): boolean => {
  if (holders === "may be ended") return false
  return (holders === "others" ? waited.total : waited.unseen) > Duration.toMillis(unseenWithin)
}

/** Processes that were asked to leave: what holds two locks of ours is asked, and told of, once. */
const asked = new Set<string>()

const endLeftovers = Effect.fnUntraced(function* (holders: ReadonlyArray<Holder>, waited: number) {
  const pids = new Set(holders.map(({ pid }) => pid))
  const late = waited > Duration.toMillis(immediateWithin)
  for (const { pid } of holders) {
    const root = !pids.has(parentOf(pid) ?? 0)
    const other = processOf(pid)
    if (other === null || (!root && !late)) continue
    const first = !asked.has(`${pid} ${other.startedAt}`)
    asked.add(`${pid} ${other.startedAt}`)
    if (root && first) {
      yield* Effect.logWarning(`ending ${other.name} (pid ${pid}), left behind by a compute that is gone`)
    }
    if (late || first) yield* signalProcess(other, late ? "SIGKILL" : "SIGQUIT")
  }
})

const describe = (holders: ReadonlyArray<Holder>, file: string): string => {
  const first = holders.find(({ opened }) => opened) ?? holders[0]
  return first === undefined
    ? `which holds the lock ${file} and cannot be seen from here`
    : `pid ${first.pid}, which holds the lock ${file}`
}

const hintFor = (file: string): string =>
  `nothing was touched; as root on the machine itself, outside of containers, \`lsof ${file}\` or /proc/locks names ` +
  "the processes that hold the lock: end them, and start again; never remove the lock"

/** Tries, each with one step towards the next: leftovers that can be seen are ended. */
const makeTry = <F>(descriptor: number, request: FlockRequest<F>, began: number) => {
  let seen = began
  return Effect.gen(function* () {
    const attempt = yield* attemptFlock(descriptor)
    if (attempt._tag !== "Busy") return { attempt, holders: [], hopeless: false }
    const holders = yield* holdersOf(descriptor, path.basename(request.file), request.user)
    const now = yield* Clock.currentTimeMillis
    if (holders.length > 0) seen = now
    const endable = request.leftoversOnly && !holders.some(({ opened }) => opened)
    if (endable) yield* endLeftovers(holders, now - began)
    const kind = holders.length === 0 ? "none seen" : endable ? "may be ended" : "others"
    return { attempt, holders, hopeless: isHopeless(kind, { total: now - began, unseen: now - seen }) }
  })
}

/** Was it replaced by hand since it was opened? Then it locks nothing. */
const isStill = (file: string, descriptor: number) =>
  attempt("look at", file, () => {
    const [there, ours] = [fs.statSync(file, { throwIfNoEntry: false }), fs.fstatSync(descriptor)]
    return there?.ino === ours.ino && there.dev === ours.dev
  })

const unavailable = <F>({ allowUnfenced, file }: FlockRequest<F>, attempt: Attempt & { _tag: "Unavailable" }) => {
  const failure = new LockUnavailable({ path: file, detail: attempt.because })
  return allowUnfenced
    ? Effect.as(
        Effect.logWarning(
          `--allow-unfenced: ${failure.message}. If another compute, or what one left behind, writes there unseen, ` +
            "committed data will be lost"
        ),
        null
      )
    : Effect.fail(failure)
}

/**
 * The descriptor, locked until the scope closes and until the last child that inherits it is gone; `null`: there is no
 * such lock, which was allowed.
 */
export const holdFlock = <F>(
  request: FlockRequest<F>
): Effect.Effect<number | null, FileFailed | LockUnavailable | F, Scope.Scope> =>
  Effect.gen(function* () {
    const { busy, file, owner } = request
    const descriptor = yield* Effect.acquireRelease(openLock(file, owner), (fd) => Effect.sync(() => fs.closeSync(fd)))
    const began = yield* Clock.currentTimeMillis
    const { attempt, holders } = yield* Effect.repeat(makeTry(descriptor, request, began), {
      schedule: Schedule.spaced("20 millis").pipe(Schedule.upTo({ duration: goneWithin })),
      until: ({ attempt, hopeless }) => attempt._tag !== "Busy" || hopeless
    })
    if (attempt._tag === "Unavailable") return yield* unavailable(request, attempt)
    if (attempt._tag === "Taken" && (yield* isStill(file, descriptor))) return descriptor
    return yield* Effect.fail(busy(describe(holders, file), hintFor(file)))
  })

// Which children are to inherit it.

const kept = new Map<string, Set<number>>()

/** Until the scope closes, whoever writes in `folder` is to inherit the descriptor. */
export const keepFor = (folder: string, descriptor: number | null): Effect.Effect<void, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const key = path.resolve(folder)
      const descriptors = kept.get(key) ?? new Set()
      if (descriptor !== null) kept.set(key, descriptors.add(descriptor))
    }),
    () => Effect.sync(() => void (descriptor !== null && kept.get(path.resolve(folder))?.delete(descriptor)))
  )

/** The locks that a child that writes in this folder inherits, so that they last as long as it lives. */
export const locksOf = (folder: string): ReadonlyArray<number> => [...(kept.get(path.resolve(folder)) ?? [])]
