/**
 * Which user Postgres runs as: never root, because Postgres refuses to.
 *
 * Reads the local user database only; a user known to a directory service alone is named by its number.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import { RunAsInvalid } from "../errors/Failure.ts"
import type { RunAs } from "./Spawn.ts"

/** What the host says about itself. */
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
  if (name === null) return Result.succeed(host.uid === 0 ? find("postgres") ?? find("nobody") ?? nobody : null)
  const refuse = (detail: string) => Result.fail(new RunAsInvalid({ user: name, detail }))
  const found = find(name) ?? (/^\d{1,10}$/.test(name) ? { name, uid: Number(name), gid: Number(name) } : undefined)
  if (found === undefined) return refuse("there is no such user")
  if (found.uid === 0) return refuse("Postgres does not run as root")
  if (host.uid === 0) return Result.succeed(found)
  return found.uid === host.uid ? Result.succeed(null) : refuse("only root can become another user")
}

export const resolveRunAs = (name: string | null): Effect.Effect<RunAs | null, RunAsInvalid> =>
  Effect.suspend(() => Effect.fromResult(chooseRunAs(name, { uid: process.geteuid?.() ?? -1, passwd: readPasswd() })))

const readPasswd = (): string => {
  try {
    return fs.readFileSync("/etc/passwd", "utf8")
  } catch {
    return ""
  }
}
