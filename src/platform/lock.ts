/**
 * A lock between programs: keeps a second compute away from a timeline or a data directory, and knows a live holder
 * from a dead one.
 *
 * `lock/` holds numbered claims; the highest number is the lock. A claim is made by linking a finished file to the
 * next number, which only one program can do, and the highest is never deleted, only marked as released or topped:
 * so two programs that see the same dead holder cannot both take its place. A holder also listens on a socket in
 * the folder, because its pid means nothing in another container. Other machines (a shared network folder) are not
 * kept out. The lock is released when the scope of its holder closes.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as net from "node:net"
import { FileFailed } from "../errors/Failure.ts"
import { attempt, hasCode, makeFolder, namesIn, type Owner, removeFile, replaceFile, textOrNull } from "./files.ts"
import { isAlive, processOf, readBootId } from "./processes.ts"

const Holder = Schema.Struct({
  pid: Schema.Int,
  /** In clock ticks since boot, as /proc has it; pids are used again. */
  startTime: Schema.NullOr(Schema.String),
  bootId: Schema.NullOr(Schema.String),
  socket: Schema.NullOr(Schema.String),
  released: Schema.Boolean
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
        socket.once("error", () => resume(Effect.succeed(false)))
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

type Busy<F> = (holder: string) => F

interface Taken {
  /** The path of our claim. */
  readonly mine: string
  /** The holder before us died as one, instead of letting go. */
  readonly afterDeath: boolean
}

/** `null` when another program took the number first. */
const take = Effect.fnUntraced(function* <F>(lock: string, holder: Holder, owner: Owner | null, busy: Busy<F>) {
  const nonce = randomBytes(6).toString("hex")
  const draft = `${lock}/${nonce}.claim`
  yield* writeClaim(draft, holder, owner)
  const top = (yield* claims(lock)).at(-1) ?? 0
  const live = yield* liveHolder(lock)
  if (live !== null) {
    yield* removeFile(draft)
    return yield* Effect.fail(busy(live))
  }
  const before = top === 0 ? null : yield* readClaim(lock, top)
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
  return { mine, afterDeath: top > 0 && before?.released !== true } satisfies Taken
})

/** Sockets and unfinished claims of the dead; nobody else's, because we hold the lock and they would have lost it. */
const tidy = Effect.fnUntraced(function* (lock: string, socket: string | null) {
  for (const name of yield* namesIn(lock)) {
    if (name.endsWith(".sock") && name !== socket && !(yield* answers(lock, name))) yield* removeFile(`${lock}/${name}`)
  }
})

/** Claims that may be lost to others in a row. */
const attempts = 20

/**
 * Held until the scope closes, or until this program is no more. `busy` makes the failure from who holds it. Answers
 * whether the holder before us died without letting go.
 */
export const holdLock = <F>(
  lock: string,
  owner: Owner | null,
  busy: Busy<F>
): Effect.Effect<{ readonly afterDeath: boolean }, FileFailed | F, Scope.Scope> =>
  Effect.gen(function* () {
    yield* makeFolder(lock, owner)
    const startTime = startTimeOf(process.pid)
    const socket = startTime === null ? null : yield* listen(lock)
    const holder: Holder = { pid: process.pid, startTime, bootId: yield* readBootId, socket, released: false }
    const taken = yield* Effect.acquireRelease(
      take(lock, holder, owner, busy).pipe(
        Effect.repeat({ times: attempts - 1, while: (taken) => taken === null }),
        Effect.flatMap((taken) => (taken === null ? Effect.fail(busy("many claimers at once")) : Effect.succeed(taken)))
      ),
      ({ mine }) => Effect.ignore(writeClaim(mine, { ...holder, released: true }, owner))
    )
    yield* tidy(lock, socket)
    return { afterDeath: taken.afterDeath }
  })
