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
import * as fs from "node:fs"
import * as path from "node:path"
import { type FileFailed, TimelineBusy } from "../../errors/Failure.ts"
import { replaceFile, textOrNull } from "./disk.ts"
import type { Layout } from "./layout.ts"
import { liveHolder } from "./lock.ts"

/** Where a data directory really is, also before it exists: that is what /proc will say. */
export const realPath = (target: string): string => {
  const full = path.resolve(target)
  for (let parent = full, rest = "";; rest = path.join(path.basename(parent), rest), parent = path.dirname(parent)) {
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
  (quiet(() => fs.readdirSync(`/proc/${pid}/fd`)) ?? []).some((fd) =>
    quiet(() => fs.readlinkSync(`/proc/${pid}/fd/${fd}`))?.startsWith(`${wal}/`) === true)

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
const judge = Effect.fnUntraced(function*(relation: Relation, pgdata: string) {
  if (relation.is === "ours") return
  const holder = relation.wal === null
    ? `Postgres with pid ${relation.pid}, not on local storage`
    : yield* liveHolder(path.join(path.dirname(relation.wal), "lock"))
  if (holder !== null) return yield* new TimelineBusy({ directory: pgdata, holder })
})

const startsOf = (layout: Layout): Effect.Effect<ReadonlySet<string>, FileFailed> =>
  Effect.map(textOrNull(layout.starts), (text) => new Set((text ?? "").split("\n").filter((line) => line !== "")))

const lifted = Effect.fnUntraced(function*(layout: Layout, pgdata: string, starts: ReadonlySet<string>) {
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
export const fence: (layout: Layout, pgdata: string) => Effect.Effect<void, FileFailed | TimelineBusy> = Effect
  .fnUntraced(function*(layout, pgdata) {
    const starts = yield* startsOf(layout)
    const began = yield* Clock.currentTimeMillis
    if (!fs.existsSync("/proc/self/cwd")) yield* lifted(layout, pgdata, starts)
    else {
      for (let killed = new Set<number>();;) {
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
