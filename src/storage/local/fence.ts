/**
 * Ends every process that may still write to this timeline's WAL: what a killed compute or postmaster left behind.
 *
 * A client session outlives its postmaster by milliseconds, a busy backend without limit, and both keep
 * acknowledging commits; a second server on the same WAL would corrupt it (reference section 1.1). Only processes
 * that are Postgres, and of this timeline, are ended. Without /proc nothing is ended: then postmaster.pid must prove
 * that nobody is left.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { FileFailed, TimelineBusy } from "../../errors/Failure.ts"
import type { RunAs } from "../../platform/Spawn.ts"
import { attempt, hasCode, makeFolder, namesIn, removeFile, replaceFile, textOrNull } from "./disk.ts"
import { type Layout, readBootId } from "./layout.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Keeps a second compute away from a timeline, and tells a live holder from a dead one.
//
// `lock/` holds numbered claims; the highest number is the lock. A claim is made by linking a finished file to the
// next number, which only one program can do, and the highest is never deleted, only marked as released or topped:
// so two programs that see the same dead holder cannot both take its place. A holder also listens on a socket in
// the folder, because its pid means nothing in another container. Other machines (a shared network folder) are not
// kept out.
// ---------------------------------------------------------------------------------------------------------------------

const Holder = Schema.Struct({
  pid: Schema.Int,
  /** In clock ticks since boot, as /proc tells it; pids are used again. */
  startTime: Schema.NullOr(Schema.String),
  bootId: Schema.NullOr(Schema.String),
  socket: Schema.NullOr(Schema.String),
  released: Schema.Boolean
})
type Holder = typeof Holder.Type

const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Holder))

/** `null`: no such process, or no /proc. */
const startTimeOf = (pid: number): string | null => {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "latin1")
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null
  } catch {
    return null
  }
}

const signalReaches = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch (cause) {
    return cause instanceof Error && "code" in cause && cause.code === "EPERM"
  }
}

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

const isAlive = Effect.fnUntraced(function* (lock: string, holder: Holder, bootId: string | null) {
  if (holder.released || holder.bootId !== bootId) return false
  if (holder.startTime === null) return signalReaches(holder.pid)
  if (startTimeOf(holder.pid) === holder.startTime) return true
  return holder.socket !== null && (yield* answers(lock, holder.socket))
})

/** Who holds the lock now, for people to read; `null` when nobody does. A half-written claim is from before a power cut. */
export const liveHolder: (lock: string) => Effect.Effect<string | null, FileFailed> = Effect.fnUntraced(
  function* (lock) {
    const highest = (yield* claims(lock)).at(-1)
    if (highest === undefined) return null
    const text = yield* textOrNull(`${lock}/${highest}`)
    const holder = text === null ? null : Option.getOrNull(decode(text))
    return holder !== null && (yield* isAlive(lock, holder, yield* readBootId)) ? `pid ${holder.pid}` : null
  }
)

const take = Effect.fnUntraced(function* (lock: string, holder: Holder, owner: RunAs | null) {
  const nonce = randomBytes(6).toString("hex")
  const beside = `${lock}/${nonce}.claim`
  yield* replaceFile(beside, JSON.stringify(holder), owner)
  const top = (yield* claims(lock)).at(-1) ?? 0
  const busy = yield* liveHolder(lock)
  if (busy !== null) {
    yield* removeFile(beside)
    return yield* new TimelineBusy({ directory: lock.slice(0, lock.lastIndexOf("/")), holder: busy })
  }
  const mine = `${lock}/${top + 1}`
  const linked = yield* attempt("claim", mine, () => fs.linkSync(beside, mine)).pipe(
    Effect.as(true),
    Effect.catchTag("FileFailed", (failure) =>
      hasCode(failure, "EEXIST") ? Effect.succeed(false) : Effect.fail(failure)
    )
  )
  yield* removeFile(beside)
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
  return mine
})

/** Sockets and unfinished claims of the dead; nobody else's, because we hold the lock and they would have lost it. */
const tidy = Effect.fnUntraced(function* (lock: string, socket: string | null) {
  for (const name of yield* namesIn(lock)) {
    if (name.endsWith(".sock") && name !== socket && !(yield* answers(lock, name))) yield* removeFile(`${lock}/${name}`)
  }
})

/** Held until the scope closes, or until this program is no more. */
export const holdLock: (
  lock: string,
  owner: RunAs | null
) => Effect.Effect<void, FileFailed | TimelineBusy, Scope.Scope> = Effect.fnUntraced(function* (lock, owner) {
  yield* makeFolder(lock, owner)
  const startTime = startTimeOf(process.pid)
  const socket = startTime === null ? null : yield* listen(lock)
  const holder: Holder = { pid: process.pid, startTime, bootId: yield* readBootId, socket, released: false }
  yield* Effect.acquireRelease(
    Effect.gen(function* () {
      for (let round = 0; round < 20; round++) {
        const mine = yield* take(lock, holder, owner)
        if (mine !== null) return mine
      }
      return yield* new TimelineBusy({
        directory: lock.slice(0, lock.lastIndexOf("/")),
        holder: "many claimers at once"
      })
    }),
    (mine) => Effect.ignore(replaceFile(mine, JSON.stringify({ ...holder, released: true }), owner))
  )
  yield* tidy(lock, socket)
})

// ---------------------------------------------------------------------------------------------------------------------

/** Where a data directory really is, also before it exists: that is what /proc will say. */
export const realPath = (target: string): string => {
  const full = path.resolve(target)
  for (let parent = full, rest = ""; ; rest = path.join(path.basename(parent), rest), parent = path.dirname(parent)) {
    try {
      return path.join(fs.realpathSync(parent), rest).replace(/(.)\/$/, "$1")
    } catch {
      if (parent === path.dirname(parent)) return full
    }
  }
}

const quiet = <A>(look: () => A): A | null => {
  try {
    return look()
  } catch {
    // The process went away while we looked, or belongs to somebody whose files we cannot be writing to.
    return null
  }
}

type Relation =
  | { readonly pid: number; readonly is: "ours" }
  /** Runs in the data directory we were given, on another WAL folder (`null`: on its own, not ours at all). */
  | { readonly pid: number; readonly is: "in the way"; readonly wal: string | null }

const isPostgres = (pid: string): boolean => {
  const exe = quiet(() => fs.readlinkSync(`/proc/${pid}/exe`))
  const name = exe === null ? quiet(() => fs.readFileSync(`/proc/${pid}/comm`, "latin1").trim()) : path.basename(exe)
  return name !== null && name.replace(/ \(deleted\)$/, "") === "postgres"
}

const holdsWal = (pid: string, wal: string): boolean =>
  (quiet(() => fs.readdirSync(`/proc/${pid}/fd`)) ?? []).some(
    (fd) => quiet(() => fs.readlinkSync(`/proc/${pid}/fd/${fd}`))?.startsWith(`${wal}/`) === true
  )

const relate = (pid: string, wal: string, pgdata: string, starts: ReadonlySet<string>): Relation | null => {
  const cwd = quiet(() => fs.readlinkSync(`/proc/${pid}/cwd`))?.replace(/ \(deleted\)$/, "")
  if (cwd === undefined || !isPostgres(pid)) return null
  const ours = { pid: Number(pid), is: "ours" } as const
  const itsWal = quiet(() => fs.statSync(`/proc/${pid}/cwd/pg_wal`))
  if (itsWal !== null) {
    const stat = quiet(() => fs.statSync(wal))
    if (stat !== null && stat.dev === itsWal.dev && stat.ino === itsWal.ino) return ours
    if (cwd === pgdata && !holdsWal(pid, wal)) {
      const target = quiet(() => fs.readlinkSync(`/proc/${pid}/cwd/pg_wal`))
      return { pid: Number(pid), is: "in the way", wal: target }
    }
  } else if (cwd === pgdata || starts.has(cwd)) {
    // The folder was emptied or removed under it.
    return ours
  }
  return holdsWal(pid, wal) ? ours : null
}

const scan = (wal: string, pgdata: string, starts: ReadonlySet<string>): ReadonlyArray<Relation> =>
  (quiet(() => fs.readdirSync("/proc")) ?? []).flatMap((name) => {
    const relation = /^\d+$/.test(name) ? relate(name, wal, pgdata, starts) : null
    return relation === null ? [] : [relation]
  })

/** A leftover of another timeline whose compute is dead may be ended too; anybody else is somebody. */
const judge = Effect.fnUntraced(function* (relation: Relation, pgdata: string) {
  if (relation.is === "ours") return
  const holder =
    relation.wal === null
      ? `Postgres with pid ${relation.pid}, not on local storage`
      : yield* liveHolder(path.join(path.dirname(relation.wal), "lock"))
  if (holder !== null) return yield* new TimelineBusy({ directory: pgdata, holder })
})

const startsOf = (layout: Layout): Effect.Effect<ReadonlySet<string>, FileFailed> =>
  Effect.map(textOrNull(layout.starts), (text) => new Set((text ?? "").split("\n").filter((line) => line !== "")))

const lifted = Effect.fnUntraced(function* (layout: Layout, pgdata: string, starts: ReadonlySet<string>) {
  // Nothing can be listed here, so only a dead postmaster counts as proof.
  for (const start of new Set([...starts, pgdata])) {
    const pid = Number.parseInt((yield* textOrNull(`${start}/postmaster.pid`))?.split("\n")[0] ?? "", 10)
    if (Number.isInteger(pid) && pid > 1 && quiet(() => process.kill(pid, 0)) === true) {
      return yield* new TimelineBusy({ directory: layout.root, holder: `Postgres with pid ${pid}, in ${start}` })
    }
  }
})

const goneWithinMillis = 10_000

/**
 * Returns when nobody can write any more, and has then written down that `pgdata` is where the next writer will be:
 * before it exists, so that no crash can leave one behind that is not known. `pgdata` is a real path.
 */
export const fence: (layout: Layout, pgdata: string) => Effect.Effect<void, FileFailed | TimelineBusy> =
  Effect.fnUntraced(function* (layout, pgdata) {
    const starts = yield* startsOf(layout)
    const began = yield* Clock.currentTimeMillis
    if (!fs.existsSync("/proc/self/cwd")) yield* lifted(layout, pgdata, starts)
    else {
      for (let killed = new Set<number>(); ;) {
        const found = scan(realPath(layout.wal), pgdata, starts)
        const first = found[0]
        if (first === undefined) break
        for (const relation of found) {
          yield* judge(relation, pgdata)
          if (!killed.has(relation.pid)) {
            yield* Effect.logWarning(`ending Postgres process ${relation.pid}, left behind by an earlier start`)
          }
          quiet(() => process.kill(relation.pid, "SIGKILL"))
        }
        killed = new Set(found.map(({ pid }) => pid))
        if ((yield* Clock.currentTimeMillis) - began > goneWithinMillis) {
          const holder = `Postgres with pid ${first.pid}, which does not die`
          return yield* new TimelineBusy({ directory: layout.root, holder })
        }
        yield* Effect.sleep("2 millis")
      }
    }
    yield* replaceFile(layout.starts, `${pgdata}\n`, layout.owner)
  })
