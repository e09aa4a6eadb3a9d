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
 * Nothing but `lock/` is touched before both are had, or the flock alone is proof (`whileAlone`). The lock is released
 * when the scope of its holder closes. A claim names its folder, so in a copy of it it is nobody's.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as net from "node:net"
import { codeOf } from "../errors/errno.ts"
import { FileFailed, type LockUnavailable } from "../errors/Failure.ts"
import {
  attempt,
  hasCode,
  makeFolder,
  namesIn,
  type Owner,
  removeFile,
  replaceFile,
  textOrNull,
  uniqueName
} from "./files.ts"
import { type Busy, type FlockRequest, holdFlock } from "./flock.ts"
import { isAlive, processOf, readBootId } from "./processes.ts"

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
  leftBehind: Schema.optionalKey(Schema.Boolean),
  /** Device and inode of the folder that it claims: a copy of the folder has another, and nobody holds that. */
  folder: Schema.optionalKey(Schema.String)
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
  const name = `${yield* uniqueName}.sock`
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

const identityOf = (folder: string): Effect.Effect<string, FileFailed> =>
  attempt("look at", folder, () => {
    const { dev, ino } = fs.statSync(folder)
    return `${dev}:${ino}`
  })

/** Sockets of claims of this process that it gave up, without room to write that down. */
const givenUp = new Set<string>()

const isHeld = Effect.fnUntraced(function* (lock: string, holder: Holder, bootId: string | null) {
  if (holder.released || holder.bootId !== bootId || (holder.socket !== null && givenUp.has(holder.socket)))
    return false
  // Some file systems number anew what they mount again; where the flock decides, too, that endangers nobody.
  const elsewhere = holder.folder !== undefined && holder.folder !== (yield* identityOf(lock))
  if (elsewhere && holder.fenced === true) return false
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
  const draft = `${lock}/${yield* uniqueName}.claim`
  const mine = `${lock}/${top + 1}`
  const linked = yield* writeClaim(draft, holder, owner).pipe(
    Effect.andThen(attempt("claim", mine, () => fs.linkSync(draft, mine))),
    Effect.as(true),
    Effect.catchTag("FileFailed", (failure) =>
      hasCode(failure, "EEXIST") ? Effect.succeed(false) : Effect.fail(failure)
    ),
    Effect.ensuring(Effect.ignore(removeFile(draft)))
  )
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

/** What fails holds nothing. */
const orNothing = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(Effect.scope, (scope) =>
    Effect.flatMap(Scope.fork(scope), (own) =>
      effect.pipe(
        Effect.provideService(Scope.Scope, own),
        Effect.onError((cause) => Scope.close(own, Exit.failCause(cause)))
      )
    )
  )

/** Needs room for a file. Without it the claim is that of a live process until this one ends. */
const release = (mine: string, holder: Holder, owner: Owner | null) =>
  Effect.catch(writeClaim(mine, { ...holder, released: true }, owner), () =>
    Effect.sync(() => void (holder.socket !== null && givenUp.add(holder.socket)))
  )

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
    const folder = yield* identityOf(lock)
    const startTime = startTimeOf(process.pid)
    const socket = startTime === null ? null : yield* listen(lock)
    let record: Holder = { pid: process.pid, startTime, bootId: yield* readBootId, socket, released: false, folder }
    const { holder, mine } = yield* Effect.acquireRelease(
      take(lock, record, owner, busy).pipe(
        Effect.repeat({ times: attempts - 1, while: (taken) => taken === null }),
        Effect.flatMap((taken) =>
          taken === null ? Effect.fail(busy("many claimers at once")) : Effect.succeed(taken)
        ),
        Effect.tap(({ holder }) => Effect.sync(() => void (record = holder)))
      ),
      ({ mine }) => Effect.suspend(() => release(mine, record, owner))
    )
    const before: Predecessors = { leftBehind: holder.leftBehind === true, fenced: holder.fenced === true }
    const descriptor = yield* holdFlock({ ...request, file: `${lock}/flock`, leftoversOnly: before.fenced })
    yield* request.prove(before)
    record = { ...record, fenced: descriptor !== null, leftBehind: false }
    yield* writeClaim(mine, record, owner)
    yield* tidy(lock, socket)
    return descriptor
  }).pipe(orNothing)

/**
 * Does `work` while nobody else can be there, without having made a file: for who lacks the room to claim anything.
 * False, and nothing was done: only the flock is left to prove it, and those before us did not hold that.
 */
export const whileAlone = <F, E, R>(
  request: Omit<LockRequest<F, never, never>, "prove">,
  work: Effect.Effect<unknown, E, R>
): Effect.Effect<boolean, FileFailed | LockUnavailable | F | E, R> =>
  Effect.gen(function* () {
    const { lock } = request
    const top = (yield* claims(lock)).at(-1)
    const holder = top === undefined ? null : yield* readClaim(lock, top)
    if (holder?.fenced !== true) return false
    if (yield* isHeld(lock, holder, yield* readBootId)) return yield* Effect.fail(request.busy(`pid ${holder.pid}`))
    const descriptor = yield* holdFlock({ ...request, file: `${lock}/flock`, leftoversOnly: true })
    if (descriptor === null) return false
    yield* work
    return true
  }).pipe(Effect.scoped)
