/**
 * A lock between programs: keeps a second compute away from a timeline or a data directory, for as long as the first
 * one or anything that it started there lives; and knows a live compute from a dead one whose Postgres is left.
 *
 * It is two things, both in `lock/`. The file `flock` is locked with a descriptor that Postgres and all its processes
 * inherit (`flock.ts`): whoever gets that lock knows that nobody is left, also where no process can be seen. Numbered
 * claims say who took it: the highest number is the claim, made by linking a finished file to the next number, which
 * only one program can do; the highest is never deleted, only marked as released or topped, so two programs that see
 * the same dead holder cannot both take its place. A holder also listens on a socket in the folder, because its pid
 * means nothing in another container. Claims came first: a compute of an older version holds nothing else.
 *
 * Nothing but `lock/` is touched before both are had. The lock is released when the scope of its holder closes.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { codeOf } from "../errors/errno.ts"
import { FileFailed, LockUnavailable } from "../errors/Failure.ts"
import { attempt, hasCode, makeFolder, namesIn, type Owner, removeFile, replaceFile, textOrNull } from "./files.ts"
import { type Attempt, attemptFlock, type Holder as Process, holdersOf } from "./flock.ts"
import { isAlive, parentOf, processOf, readBootId, signalProcess } from "./processes.ts"
import type { RunAs } from "./Spawn.ts"

const Holder = Schema.Struct({
  pid: Schema.Int,
  /** In clock ticks since boot, as /proc has it; pids are used again. */
  startTime: Schema.NullOr(Schema.String),
  bootId: Schema.NullOr(Schema.String),
  socket: Schema.NullOr(Schema.String),
  released: Schema.Boolean,
  /** It, or a compute before it, has had the flock: then only what a compute here started can hold that. */
  fenced: Schema.optionalKey(Schema.Boolean),
  /** A compute before it died, and that nothing of it is left was not proven yet. */
  leftBehind: Schema.optionalKey(Schema.Boolean)
})
type Holder = typeof Holder.Type

const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Holder))

/** `null`: no such process, or no /proc. */
const startTimeOf = (pid: number): string | null => processOf(pid)?.startedAt ?? null

/** Through /proc the path stays shorter than the 107 bytes a socket address has, however deep the folder is. */
const socketPath = (folder: number, name: string): string => `/proc/self/fd/${folder}/${name}`

const openFolder = (path: string) =>
  Effect.acquireRelease(
    attempt("open", path, () => fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)),
    (fd) => Effect.sync(() => fs.closeSync(fd))
  )

const answers = (lock: string, name: string): Effect.Effect<boolean, FileFailed> =>
  Effect.scoped(
    Effect.flatMap(openFolder(lock), (folder) =>
      Effect.callback<boolean>((resume) => {
        const socket = net.connect({ path: socketPath(folder, name) })
        socket.once("connect", () => resume(Effect.succeed(true)))
        // Only these two say that nobody listens. A full queue is that of a holder that is stopped.
        socket.once("error", (cause) =>
          resume(Effect.succeed(!["ECONNREFUSED", "ENOENT"].includes(codeOf(cause) ?? "")))
        )
        return Effect.sync(() => void socket.destroy())
      }).pipe(
        // A holder too busy to be accepted is a holder.
        Effect.timeoutOrElse({ duration: "1 second", orElse: () => Effect.succeed(true) })
      )
    )
  )

const listen = Effect.fnUntraced(function* (lock: string) {
  const name = `${randomBytes(6).toString("hex")}.sock`
  const folder = yield* openFolder(lock)
  yield* Effect.acquireRelease(
    Effect.callback<net.Server, FileFailed>((resume) => {
      const server = net.createServer((socket) => socket.destroy())
      server.unref()
      server.once("error", (cause) =>
        resume(Effect.fail(new FileFailed({ operation: "listen in", path: lock, cause })))
      )
      server.listen(socketPath(folder, name), () => resume(Effect.succeed(server)))
    }),
    (server) => Effect.callback<void>((resume) => void server.close(() => resume(Effect.void)))
  )
  return name
})

const claims = (lock: string): Effect.Effect<ReadonlyArray<number>, FileFailed> =>
  Effect.map(namesIn(lock), (names) =>
    names
      .filter((name) => /^\d+$/.test(name))
      .map(Number)
      .sort((a, b) => a - b)
  )

const isHeld = Effect.fnUntraced(function* (lock: string, holder: Holder, bootId: string | null) {
  if (holder.released || holder.bootId !== bootId) return false
  if (holder.startTime === null) return isAlive(holder.pid)
  if (startTimeOf(holder.pid) === holder.startTime) return true
  return holder.socket !== null && (yield* answers(lock, holder.socket))
})

const writeClaim = (path: string, holder: Holder, owner: Owner | null): Effect.Effect<unknown, FileFailed> =>
  replaceFile({ path, content: JSON.stringify(holder), owner, flush: false })

const readClaim = (lock: string, number: number): Effect.Effect<Holder | null, FileFailed> =>
  Effect.map(textOrNull(`${lock}/${number}`), (text) => (text === null ? null : Option.getOrNull(decode(text))))

/** Who holds the lock now, for messages; `null` when nobody does. A half-written claim is from before a power cut. */
export const liveHolder: (lock: string) => Effect.Effect<string | null, FileFailed> = Effect.fnUntraced(
  function* (lock) {
    const highest = (yield* claims(lock)).at(-1)
    if (highest === undefined) return null
    const holder = yield* readClaim(lock, highest)
    return holder !== null && (yield* isHeld(lock, holder, yield* readBootId)) ? `pid ${holder.pid}` : null
  }
)

type Busy<F> = (holder: string, hint?: string) => F

interface Taken {
  /** The path of our claim. */
  readonly mine: string
  readonly holder: Holder
}

/** What the claim before ours leaves us to know. */
const succeed = (holder: Holder, before: Holder | null, top: number): Holder => ({
  ...holder,
  fenced: before?.fenced === true,
  // One that cannot be read is of a compute that died with the machine.
  leftBehind: top > 0 && (before?.released !== true || before.leftBehind === true)
})

/** `null` when another program took the number first. */
const take = Effect.fnUntraced(function* <F>(lock: string, newcomer: Holder, owner: Owner | null, busy: Busy<F>) {
  const top = (yield* claims(lock)).at(-1) ?? 0
  const live = yield* liveHolder(lock)
  if (live !== null) return yield* Effect.fail(busy(live))
  const holder = succeed(newcomer, top === 0 ? null : yield* readClaim(lock, top), top)
  const draft = `${lock}/${randomBytes(6).toString("hex")}.claim`
  yield* writeClaim(draft, holder, owner)
  const mine = `${lock}/${top + 1}`
  const linked = yield* attempt("claim", mine, () => fs.linkSync(draft, mine)).pipe(
    Effect.as(true),
    Effect.catchTag("FileFailed", (failure) =>
      hasCode(failure, "EEXIST") ? Effect.succeed(false) : Effect.fail(failure)
    )
  )
  yield* removeFile(draft)
  if (!linked) return null
  // Slow as we may have been, a claim above ours means that others came and went meanwhile.
  const now = yield* claims(lock)
  if ((now.at(-1) ?? 0) > top + 1) {
    yield* removeFile(mine)
    return null
  }
  yield* Effect.forEach(
    now.filter((number) => number <= top),
    (number) => removeFile(`${lock}/${number}`),
    { discard: true }
  )
  return { mine, holder } satisfies Taken
})

/** Sockets and unfinished claims of the dead; nobody else's, because we hold the lock and they would have lost it. */
const tidy = Effect.fnUntraced(function* (lock: string, socket: string | null) {
  for (const name of yield* namesIn(lock)) {
    if (name.endsWith(".sock") && name !== socket && !(yield* answers(lock, name))) yield* removeFile(`${lock}/${name}`)
  }
})

// The flock, and the processes that still hold it.

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

const endLeftovers = Effect.fnUntraced(function* (holders: ReadonlyArray<Process>, waited: number) {
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

const describe = (holders: ReadonlyArray<Process>, file: string): string => {
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

/** Claims that may be lost to others in a row. */
const attempts = 20

/** What the claims say of computes before us. */
interface Predecessors {
  /** One died instead of letting go, and nobody has proven since that nothing of it is left. */
  readonly leftBehind: boolean
  /** They had the flock, so whoever has it now knows that nothing of theirs is left. */
  readonly fenced: boolean
}

export interface LockRequest<F, E, R> extends Pick<FlockRequest<F>, "owner" | "user" | "busy" | "allowUnfenced"> {
  /** The folder of the lock. */
  readonly lock: string
  /** Runs when both locks are ours: ends, or refuses, whoever holds neither (an older version's, or a stranger's). */
  readonly prove: (before: Predecessors) => Effect.Effect<void, E, R>
}

/**
 * Held until the scope closes, and until this program and all children that inherit the descriptor are no more. `busy`
 * makes the failure from who holds it. Answers the descriptor; `null`: there is none, which was allowed.
 */
export const holdLock = <F, E = never, R = never>(
  request: LockRequest<F, E, R>
): Effect.Effect<number | null, FileFailed | LockUnavailable | F | E, Scope.Scope | R> =>
  Effect.gen(function* () {
    const { busy, lock, owner } = request
    yield* makeFolder(lock, owner)
    const startTime = startTimeOf(process.pid)
    const socket = startTime === null ? null : yield* listen(lock)
    let record: Holder = { pid: process.pid, startTime, bootId: yield* readBootId, socket, released: false }
    const { holder, mine } = yield* Effect.acquireRelease(
      take(lock, record, owner, busy).pipe(
        Effect.repeat({ times: attempts - 1, while: (taken) => taken === null }),
        Effect.flatMap((taken) =>
          taken === null ? Effect.fail(busy("many claimers at once")) : Effect.succeed(taken)
        ),
        Effect.tap(({ holder }) => Effect.sync(() => void (record = holder)))
      ),
      ({ mine }) => Effect.suspend(() => Effect.ignore(writeClaim(mine, { ...record, released: true }, owner)))
    )
    const before: Predecessors = { leftBehind: holder.leftBehind === true, fenced: holder.fenced === true }
    const descriptor = yield* holdFlock({ ...request, file: `${lock}/flock`, leftoversOnly: before.fenced })
    yield* request.prove(before)
    record = { ...record, fenced: descriptor !== null, leftBehind: false }
    yield* writeClaim(mine, record, owner)
    yield* tidy(lock, socket)
    return descriptor
  })
