/**
 * Which user Postgres runs as (never root, because Postgres refuses to), and whether that user can get to a file.
 *
 * Reads the local user database only; a user known to a directory service alone is named by its number.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { RunAsInvalid } from "../errors/Failure.ts"
import type { RunAs } from "./Spawn.ts"

// Access: from owners and modes on the way alone; access lists, capabilities and network file systems with rules of
// their own are not looked at.

/** Read and execute, or pass through, as one octal digit of a mode. */
const readAndExecute = 0o5
const passThrough = 0o1

const allows = (stat: fs.Stats, user: RunAs, wanted: number): boolean => {
  const shift = stat.uid === user.uid ? 6 : stat.gid === user.gid ? 3 : 0
  return ((stat.mode >> shift) & wanted) === wanted
}

const ancestors = (file: string): ReadonlyArray<string> => {
  const parent = path.dirname(file)
  return parent === file ? [] : [...ancestors(parent), parent]
}

/**
 * The first path that keeps the user out, or `null`. `null` for the user means ourselves: then the kernel is asked.
 * A file that does not exist keeps everybody out.
 */
export const barrier = (file: string, user: RunAs | null): string | null => {
  const absolute = path.resolve(file)
  try {
    if (user === null) {
      fs.accessSync(absolute, fs.constants.R_OK | fs.constants.X_OK)
      return null
    }
    const real = fs.realpathSync(absolute)
    const on = [...new Set([...ancestors(absolute), ...ancestors(real)])]
    const closed = on.find((parent) => !allows(fs.statSync(parent), user, passThrough))
    return closed ?? (allows(fs.statSync(real), user, readAndExecute) ? null : real)
  } catch {
    return absolute
  }
}

// The user.

/** What the host has. */
export interface HostUsers {
  /** Our own effective uid. */
  readonly uid: number
  /** Content of /etc/passwd; empty where there is none. */
  readonly passwd: string
}

/** The usual number of `nobody`, for images whose user database is cut down. */
const nobody: RunAs = { name: "nobody", uid: 65534, gid: 65534 }

const users = (passwd: string): ReadonlyArray<RunAs> =>
  passwd.split("\n").flatMap((line) => {
    const [name, , uid, gid] = line.split(":")
    const user = { name: name ?? "", uid: Number(uid), gid: Number(gid) }
    const whole = uid !== "" && gid !== "" && Number.isInteger(user.uid) && Number.isInteger(user.gid)
    return whole && user.name !== "" ? [user] : []
  })

/**
 * `name` is a user's name or number, `null` when nobody was named. The result is `null` when we simply stay who we
 * are: only root can become somebody else.
 */
export const chooseRunAs = (name: string | null, host: HostUsers): Result.Result<RunAs | null, RunAsInvalid> => {
  const known = users(host.passwd)
  const find = (wanted: string) => known.find((user) => user.name === wanted || String(user.uid) === wanted)
  if (name === null) return Result.succeed(host.uid === 0 ? (find("postgres") ?? find("nobody") ?? nobody) : null)
  const refuse = (detail: string) => Result.fail(new RunAsInvalid({ user: name, detail }))
  const found = find(name) ?? (/^\d{1,10}$/.test(name) ? { name, uid: Number(name), gid: Number(name) } : undefined)
  if (found === undefined) return refuse("there is no such user")
  if (found.uid === 0) return refuse("Postgres does not run as root")
  if (host.uid === 0) return Result.succeed(found)
  return found.uid === host.uid ? Result.succeed(null) : refuse("only root can become another user")
}

export const resolveRunAs = (name: string | null): Effect.Effect<RunAs | null, RunAsInvalid> =>
  Effect.suspend(() =>
    Effect.fromResult(chooseRunAs(name, { uid: process.geteuid?.() ?? -1, passwd: readText("/etc/passwd") }))
  )

/**
 * How the operating system calls us, and who Postgres runs as; `null`: it has no name for one of them, as in a
 * container that runs as a number. Ours also where a directory service knows it.
 */
export const osUserNames = (runAs: RunAs | null): ReadonlyArray<string> | null => {
  const own = ownName()
  if (own === null || (runAs !== null && /^\d+$/.test(runAs.name))) return null
  return [...new Set([own, runAs?.name ?? own])]
}

/** By the name that the loader looks for. */
export const nssWrapper = "libnss_wrapper.so"

/**
 * A user database for one process whose user has no name (`null`: ourselves), and the environment that nss_wrapper
 * reads it by. Where that library is not installed, the environment does nothing but a line of ld.so on stderr.
 */
export const namedByWrapper = (runAs: RunAs | null, folder: string) => {
  const uid = runAs?.uid ?? process.geteuid?.() ?? -1
  const gid = runAs?.gid ?? process.getegid?.() ?? -1
  const [passwd, group] = [`${folder}/passwd`, `${folder}/group`] as const
  return {
    files: [
      { file: passwd, text: `postgres:x:${uid}:${gid}::/:/bin/false\n` },
      { file: group, text: `postgres:x:${gid}:\n` }
    ],
    env: { LD_PRELOAD: nssWrapper, NSS_WRAPPER_PASSWD: passwd, NSS_WRAPPER_GROUP: group }
  }
}

const ownName = (): string | null => {
  try {
    return os.userInfo().username
  } catch {
    return null
  }
}

/** In which a user is beside its own, by the content of /etc/group. */
export const groupsIn = (content: string, { gid, name }: RunAs): ReadonlyArray<number> => [
  ...new Set(
    content.split("\n").flatMap((line) => {
      const [, , number = "", members = ""] = line.split(":")
      return /^\d{1,10}$/.test(number) && Number(number) !== gid && members.split(",").includes(name)
        ? [Number(number)]
        : []
    })
  )
]

export const supplementaryGroups = (user: RunAs): ReadonlyArray<number> => groupsIn(readText("/etc/group"), user)

/** Empty where there is none. */
const readText = (file: string): string => {
  try {
    return fs.readFileSync(file, "utf8")
  } catch {
    return ""
  }
}
