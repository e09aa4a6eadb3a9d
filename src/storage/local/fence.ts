/**
 * Ends every process that may still write to this timeline's WAL and holds no lock on it: what a killed compute of an
 * older version, or one that ran without the lock, left behind; and keeps away from a stranger's PGDATA.
 *
 * A client session outlives its postmaster by milliseconds, a busy backend without limit, and both keep acknowledging
 * commits; a second server on the same WAL would corrupt it (docs/reference/local_storage.md#fencing). The proof that
 * nobody is left is the lock that Postgres inherits (`platform/lock.ts`), which comes first; this one knows only what
 * `/proc` shows. Only processes that are Postgres, and of this timeline, are ended. Without /proc nothing is ended:
 * then postmaster.pid must prove that nobody is left. A process that may not be looked into proves nothing.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as fs from "node:fs"
import * as path from "node:path"
import { type FileFailed, TimelineBusy } from "../../errors/Failure.ts"
import { codeOf } from "../../errors/errno.ts"
import { realPath, textOrNull } from "../../platform/files.ts"
import { liveHolder } from "../../platform/lock.ts"
import { commandLineOf, processOf } from "../../platform/processes.ts"
import { isPostgres } from "../../postgres/leftovers.ts"
import { parsePidFile } from "../../postgres/pidFile.ts"
import { replaceUnflushed } from "./disk.ts"
import type { Layout } from "./layout.ts"

const orNull = <A>(look: () => A): A | null => {
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

const holdsWal = (pid: string, wal: string): boolean =>
  (orNull(() => fs.readdirSync(`/proc/${pid}/fd`)) ?? []).some(
    (fd) => orNull(() => fs.readlinkSync(`/proc/${pid}/fd/${fd}`))?.startsWith(`${wal}/`) === true
  )

const relate = (pid: string, wal: string, pgdata: string, starts: ReadonlySet<string>): Relation | null => {
  const cwd = orNull(() => fs.readlinkSync(`/proc/${pid}/cwd`))?.replace(/ \(deleted\)$/, "")
  if (cwd === undefined || !isPostgres(Number(pid))) return null
  const ours = { pid: Number(pid), is: "ours" } as const
  const itsWal = orNull(() => fs.statSync(`/proc/${pid}/cwd/pg_wal`))
  if (itsWal !== null) {
    const stat = orNull(() => fs.statSync(wal))
    if (stat !== null && stat.dev === itsWal.dev && stat.ino === itsWal.ino) return ours
    if (cwd === pgdata && !holdsWal(pid, wal)) {
      const target = orNull(() => fs.readlinkSync(`/proc/${pid}/cwd/pg_wal`))
      return { pid: Number(pid), is: "in the way", wal: target }
    }
  } else if (cwd === pgdata || starts.has(cwd)) {
    // The folder was emptied or removed under it.
    return ours
  }
  return holdsWal(pid, wal) ? ours : null
}

const scan = (wal: string, pgdata: string, starts: ReadonlySet<string>): ReadonlyArray<Relation> =>
  (orNull(() => fs.readdirSync("/proc")) ?? []).flatMap((name) => {
    const relation = /^\d+$/.test(name) ? relate(name, wal, pgdata, starts) : null
    return relation === null ? [] : [relation]
  })

/** A Postgres that we may not look into, as root without CAP_SYS_PTRACE may not into any but its own. */
const hiddenPostgres = (): number | null => {
  for (const name of orNull(() => fs.readdirSync("/proc")) ?? []) {
    if (!/^\d+$/.test(name)) continue
    try {
      fs.readlinkSync(`/proc/${name}/cwd`)
    } catch (cause) {
      const pid = Number(name)
      const hidden = codeOf(cause) === "EACCES" || codeOf(cause) === "EPERM"
      if (hidden && /postgres/.test(`${processOf(pid)?.name} ${commandLineOf(pid)}`)) return pid
    }
  }
  return null
}

const refuseHidden = Effect.fnUntraced(function* (layout: Layout) {
  const pid = hiddenPostgres()
  if (pid === null) return
  return yield* new TimelineBusy({
    directory: layout.root,
    holder: `Postgres with pid ${pid}, which may not be looked into`,
    hint:
      "the last compute here died and left no lock that would prove its Postgres gone: if that one is of another " +
      "timeline, start once with --allow-unfenced; otherwise end it; or give this process CAP_SYS_PTRACE"
  })
})

/** A leftover of another timeline whose compute is dead may be ended too; for anybody else's we are refused. */
const refuseOthers = Effect.fnUntraced(function* (relation: Relation, pgdata: string) {
  if (relation.is === "ours") return
  const holder =
    relation.wal === null
      ? `Postgres with pid ${relation.pid}, not on local storage`
      : yield* liveHolder(path.join(path.dirname(relation.wal), "lock"))
  if (holder !== null) return yield* new TimelineBusy({ directory: pgdata, holder })
})

const startsOf = (layout: Layout): Effect.Effect<ReadonlySet<string>, FileFailed> =>
  Effect.map(textOrNull(layout.starts), (text) => new Set((text ?? "").split("\n").filter((line) => line !== "")))

const refuseLivePostmaster = Effect.fnUntraced(function* (layout: Layout, pgdata: string, starts: ReadonlySet<string>) {
  // Nothing can be listed here, so only a dead postmaster counts as proof.
  for (const start of new Set([...starts, pgdata])) {
    const pid = parsePidFile((yield* textOrNull(`${start}/postmaster.pid`)) ?? "")?.pid ?? null
    if (pid !== null && pid > 1 && orNull(() => process.kill(pid, 0)) === true) {
      return yield* new TimelineBusy({ directory: layout.root, holder: `Postgres with pid ${pid}, in ${start}` })
    }
  }
})

const goneWithin = Duration.seconds(10)

/** Kills what is left, once each time it is run; the first that was still there, or `null`. */
const killLeftovers = (layout: Layout, pgdata: string, starts: ReadonlySet<string>) => {
  const killed = new Set<number>()
  return Effect.gen(function* () {
    const found = scan(realPath(layout.wal), pgdata, starts)
    for (const relation of found) {
      yield* refuseOthers(relation, pgdata)
      if (!killed.has(relation.pid)) {
        yield* Effect.logWarning(`ending Postgres process ${relation.pid}, left behind by an earlier start`)
        killed.add(relation.pid)
      }
      orNull(() => process.kill(relation.pid, "SIGKILL"))
    }
    return found[0] ?? null
  })
}

/**
 * Returns when nobody that can be seen writes any more, and has then written down that `pgdata` is where the next
 * writer will be: before it exists, so that no crash can leave one behind that is not known. `pgdata` is a real path.
 * `blindly`: something else proves that there is nobody.
 */
export const fence: (
  layout: Layout,
  pgdata: string,
  blindly: boolean
) => Effect.Effect<void, FileFailed | TimelineBusy> = Effect.fnUntraced(function* (layout, pgdata, blindly) {
  if (!blindly) yield* refuseHidden(layout)
  const starts = yield* startsOf(layout)
  if (!fs.existsSync("/proc/self/cwd")) yield* refuseLivePostmaster(layout, pgdata, starts)
  else {
    const left = yield* Effect.repeat(killLeftovers(layout, pgdata, starts), {
      schedule: Schedule.spaced("2 millis").pipe(Schedule.upTo({ duration: goneWithin })),
      until: (first) => first === null
    })
    if (left !== null) {
      const holder = `Postgres with pid ${left.pid}, which does not die`
      return yield* new TimelineBusy({ directory: layout.root, holder })
    }
  }
  yield* replaceUnflushed(layout.starts, `${pgdata}\n`, layout.owner)
})
