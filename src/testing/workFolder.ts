/**
 * The folder of one compute in a test, which goes with the process that made it, however that process ends.
 *
 * A watchdog beside us, a shell in a session of its own, reads from a pipe that only we write to. The kernel closes it
 * when we are gone, also after `kill -9`: then the watchdog ends Postgres in order, and removes the folder and what
 * Postgres had in shared memory. The folder's name says whose it is, so that a later start finds what is left where
 * the watchdog was killed too. Without a shell the compute runs all the same, and only we clean up.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as ChildProcess from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import { attempt, attemptPromise } from "../platform/files.ts"
import { liveHolder } from "../platform/lock.ts"
import { isAlive, processOf } from "../platform/processes.ts"
import type { RunAs } from "../platform/Spawn.ts"

/**
 * `$1` is the folder, with PGDATA in it. A Postgres is one that works in PGDATA, or was started for it. Its postmaster
 * alone gets the signals of an end in order: what it has for children reads them otherwise. One that is only being
 * started is waited for, unless it is told that all is over. Of System V's segments it removes the one of
 * postmaster.pid, and only when nobody uses it; other shared memory of a Postgres on local storage is files in PGDATA.
 */
const script = `
trap '' HUP INT QUIT TERM PIPE
work=$1
pgdata=$work/pgdata
read -r message

called_postgres() {
  while read -r pid; do
    read -r name 2>/dev/null <"/proc/$pid/comm" || continue
    case $name in postgres*|initdb) echo "$pid" ;; esac
  done
}
ours() {
  if [ -e /proc/self/comm ]; then
    {
      ls -l /proc/[0-9]*/cwd 2>/dev/null | grep -F -e "-> $pgdata" | sed 's|.* /proc/\\([0-9]*\\)/cwd -> .*|\\1|'
      grep -lsF -e "$pgdata" /proc/[0-9]*/cmdline | sed 's|/proc/\\([0-9]*\\)/.*|\\1|'
    } | sort -u | called_postgres
  else
    ps -axww -o pid= -o command= | grep -F -e "-D $pgdata" | grep -v -F -e 'grep -F' | awk '{ print $1 }'
  fi
}
postmaster() {
  recorded=$(sed -n 1p "$pgdata/postmaster.pid" 2>/dev/null)
  [ -n "$recorded" ] && ours | grep -x -e "$recorded"
}
stop() {
  asked=
  left=$2
  while [ "$left" -gt 0 ]; do
    [ -z "$(ours)" ] && return 0
    if [ -z "$asked" ]; then
      asked=$(postmaster)
      [ -n "$asked" ] && kill "-$1" "$asked" 2>/dev/null
    fi
    sleep 0.1
    left=$((left - 1))
  done
  return 1
}
destroy() {
  for pid in $(ours); do
    kill -KILL "$pid" 2>/dev/null
  done
  sleep 0.1
  [ -z "$(ours)" ]
}
segment() {
  line=$(sed -n 7p "$pgdata/postmaster.pid" 2>/dev/null)
  [ -n "$line" ] && [ -r /proc/sysvipc/shm ] || return 0
  set -- $line
  while read -r key id mode size creator last attached rest; do
    [ "$key $id $attached" = "$1 $2 0" ] && ipcrm -m "$id" 2>/dev/null
  done </proc/sysvipc/shm
}

looks=5
[ "$message" = over ] && looks=0
while [ "$looks" -gt 0 ] && [ -z "$(postmaster)" ]; do
  sleep 0.1
  looks=$((looks - 1))
done
stop INT 100 || stop QUIT 50 || destroy || destroy || destroy
segment
tries=5
while [ "$tries" -gt 0 ] && ! rm -rf "$work" 2>/dev/null; do
  sleep 0.1
  tries=$((tries - 1))
done
`

/** When all is over there is nothing left to stop: it looks, and removes. */
const dismissedWithin = "30 seconds"
/** A folder that is being made has no lock yet. */
const settledMillis = 60_000

/** `null`: there is no shell here. */
const watch = async (work: string, stdin: "pipe" | "ignore"): Promise<ChildProcess.ChildProcess | null> => {
  const watchdog = ChildProcess.spawn("/bin/sh", ["-c", script, "compute-watchdog", work], {
    // A session of its own: neither Ctrl-C nor the end of our terminal or process group reaches it.
    detached: true,
    cwd: "/",
    stdio: [stdin, "ignore", "ignore"],
    env: { PATH: "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/run/current-system/sw/bin" }
  })
  watchdog.on("error", () => {})
  // It must not keep a process alive that has nothing else to do.
  watchdog.unref()
  const pipe = watchdog.stdin
  if (pipe !== null && "unref" in pipe && typeof pipe.unref === "function") pipe.unref()
  pipe?.on("error", () => {})
  try {
    await once(watchdog, "spawn")
    return watchdog
  } catch {
    return null
  }
}

const dismiss = (watchdog: ChildProcess.ChildProcess): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    if (watchdog.exitCode !== null || watchdog.signalCode !== null) return resume(Effect.void)
    watchdog.ref()
    watchdog.once("exit", () => resume(Effect.void))
    watchdog.stdin?.end("over\n")
  }).pipe(Effect.timeoutOrElse({ duration: dismissedWithin, orElse: () => Effect.void }))

const startedAt = (pid: number): string => processOf(pid)?.startedAt ?? "0"

const ownName = () => `compute-${process.pid}-${startedAt(process.pid)}-`

/** Whether who made this folder is gone. In another container its pid means nothing, but its lock does. */
const isAbandoned = Effect.fnUntraced(function* (folder: string) {
  const [, digits, ticks] = /\/compute-(\d{1,10})-(\d{1,20})-[A-Za-z0-9]{6}$/.exec(folder) ?? []
  const stat = fs.lstatSync(folder, { throwIfNoEntry: false })
  if (digits === undefined || stat === undefined || !stat.isDirectory()) return false
  const pid = Number(digits)
  if (isAlive(pid) && (ticks === "0" || startedAt(pid) === ticks)) return false
  const lock = `${folder}/pgdata.lock`
  if (!fs.existsSync(lock)) return (yield* Clock.currentTimeMillis) - stat.mtimeMs > settledMillis
  return (yield* liveHolder(lock)) === null
})

const isOurs = (folder: string, runAs: RunAs | null): boolean => {
  const uid = fs.lstatSync(folder, { throwIfNoEntry: false })?.uid
  return uid !== undefined && (uid === process.geteuid?.() || uid === runAs?.uid)
}

/** Ends and removes what dead processes of this user left in `parent`. Begins it, and does not wait. */
const sweep = Effect.fnUntraced(function* (parent: string, runAs: RunAs | null) {
  const names = yield* attempt("list", parent, () => fs.readdirSync(parent))
  for (const name of names.filter((one) => one.startsWith("compute-"))) {
    const folder = path.join(parent, name)
    if (!isOurs(folder, runAs) || !(yield* isAbandoned(folder))) continue
    yield* Effect.logWarning(`removing ${folder} and its Postgres, which a process that was killed left behind`)
    yield* Effect.promise(() => watch(folder, "ignore"))
  }
})

const make = Effect.fnUntraced(function* (parent: string, runAs: RunAs | null) {
  const folder = yield* attempt("make a folder in", parent, () => {
    const made = fs.mkdtempSync(path.join(fs.realpathSync(parent), ownName()))
    if (runAs !== null) fs.chownSync(made, runAs.uid, runAs.gid)
    return made
  })
  const watchdog = yield* attemptPromise("watch over", folder, () => watch(folder, "pipe"))
  if (watchdog === null)
    yield* Effect.logWarning(
      "there is no /bin/sh, so nobody ends Postgres when this process is killed before it could do so itself"
    )
  return { folder, watchdog }
})

/**
 * A folder in `parent`, of the user that Postgres runs as; `pgdata` in it is the place for PGDATA. It is gone with the
 * scope, and with this process.
 */
export const workFolder = Effect.fnUntraced(function* (parent: string, runAs: RunAs | null) {
  yield* Effect.ignore(sweep(parent, runAs))
  const { folder } = yield* Effect.acquireRelease(make(parent, runAs), ({ folder, watchdog }) =>
    Effect.gen(function* () {
      if (watchdog !== null) yield* dismiss(watchdog)
      yield* Effect.orDie(
        attemptPromise("remove", folder, () => fs.promises.rm(folder, { recursive: true, force: true, maxRetries: 5 }))
      )
    })
  )
  return folder
})
