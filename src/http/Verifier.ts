/**
 * Checks a token's signature, expiry and beginning against a JSON Web Key Set that may change
 * (docs/reference/compute_ctl.md#authorization), also because the file that it came from did. What the claims allow is
 * decided in `authorize.ts`.
 *
 * Keys are tried in order, whatever `kid` says, each by its own algorithm, so that one kind can be rotated for the
 * other. A set that comes later counts only when each key in it can verify; otherwise the keys stay as they are, since
 * nobody could send better ones then. Of the first set those count that can.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { createHash } from "node:crypto"
import * as FS from "node:fs/promises"
import type { Actor } from "../compute/Supervisor.ts"
import { type Failure, type Problem, SpecInvalid } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { attemptPromise } from "../platform/files.ts"
import { isTimely, unverified } from "./authorize.ts"
import { readKeySet } from "./jwk.ts"
import { verifyToken } from "./jws.ts"
import type { Refusal } from "./refusals.ts"

/** The claims of a token whose signature and times are good, undecoded; or why it is not (`unverified`). */
export type Verify = (token: Redacted.Redacted<string>) => Effect.Effect<unknown, Refusal>

export interface Verifier {
  readonly verify: Verify
  /** The same for a token that was checked before, at once; `null`: it must be checked. */
  readonly recall: (token: string, nowSeconds: number) => unknown | null
  /** What is wrong with a set, before anything is done with it; `null`: nothing. */
  readonly check: (jwks: ReadonlyArray<unknown>) => SpecInvalid | null
  /** Are these the keys that were taken last, in any order? */
  readonly isCurrent: (jwks: ReadonlyArray<unknown>) => boolean
  /** These keys count from the next token on; or what is wrong with them, and the old ones stay. */
  readonly rotate: (jwks: ReadonlyArray<unknown>) => Effect.Effect<void, SpecInvalid>
  /** To be done after each rotation. */
  readonly onRotated: (then: Effect.Effect<void>) => void
  /** How many keys count now. */
  readonly count: () => number
  /** What was wrong with the set that it began with; empty once another one counts. */
  readonly problems: () => ReadonlyArray<Problem>
}

/** A poller sends the same token again and again; its signature is checked once. */
const maxRemembered = 256

const digest = (text: string): string => createHash("sha256").update(text).digest("base64")

const invalid = (problems: ReadonlyArray<Problem>): SpecInvalid =>
  new SpecInvalid({
    source: "keys of the API",
    problems: problems.map(({ message, path }) => ({ path: `compute_ctl_config.jwks.${path}`, message }))
  })

const check = (jwks: ReadonlyArray<unknown>): SpecInvalid | null => {
  const { problems } = readKeySet(jwks)
  if (problems.length > 0) return invalid(problems)
  return jwks.length > 0 ? null : invalid([{ path: "keys", message: "expected a key" }])
}

const spelled = (jwks: ReadonlyArray<unknown>): string =>
  jwks
    .map((jwk) => JSON.stringify(jwk))
    .sort()
    .join()

/** A verifier for these keys. With none that can be used it refuses everybody. */
export const verifierOf = (jwks: ReadonlyArray<unknown>): Verifier => {
  /** Claims by digest of the token, never the token; forgotten with the keys that proved them. */
  let remembered = new Map<string, Readonly<Record<string, unknown>>>()
  let taken = jwks
  let afterwards: Effect.Effect<void> = Effect.void
  let known = readKeySet(jwks)

  const claimsOf = (text: string): Readonly<Record<string, unknown>> | null => {
    const name = digest(text)
    const before = remembered.get(name)
    if (before !== undefined) return before
    const claims = verifyToken(text, known.keys)
    if (claims === null) return null
    if (remembered.size >= maxRemembered) remembered.clear()
    remembered.set(name, claims)
    return claims
  }

  return {
    recall: (token, nowSeconds) => {
      const claims = remembered.get(digest(token))
      return claims !== undefined && isTimely(claims, nowSeconds) ? claims : null
    },
    verify: (token) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const claims = claimsOf(Redacted.value(token))
        return claims !== null && isTimely(claims, now / 1000) ? Effect.succeed(claims) : Effect.fail(unverified)
      }),
    check,
    isCurrent: (next) => spelled(next) === spelled(taken),
    rotate: (next) =>
      Effect.suspend(() => {
        const wrong = check(next)
        if (wrong !== null) return Effect.fail(wrong)
        taken = next
        known = readKeySet(next)
        remembered = new Map()
        return afterwards
      }),
    onRotated: (then) => {
      afterwards = then
    },
    count: () => known.keys.length,
    problems: () => known.problems
  }
}

// -- keys in a file ------------------------------------------------------------------------------------------------

const checkEvery = Duration.seconds(1)

/** Changes whenever the file does. */
const markOf = (path: string) =>
  attemptPromise("look at", path, () => FS.stat(path)).pipe(
    Effect.map(({ ctimeMs, ino, mtimeMs, size }) => `${ino} ${size} ${mtimeMs} ${ctimeMs}`)
  )

export interface WatchedKeys {
  readonly path: string
  /** The keys that the start found in the file. */
  readonly given: ReadonlyArray<unknown>
  /** Reads the keys that are in the file now. */
  readonly read: Effect.Effect<ReadonlyArray<unknown>, Failure>
}

/**
 * Hands the verifier new keys when the file that they came from changes. It polls: what mounts files into containers
 * replaces links and folders, which no watcher of a single file sees. A file that cannot be read or is no
 * configuration changes nothing, and is logged once. The first look reads, too: the file may have changed between the
 * start's own reading and this.
 */
export const keyWatcher = ({ given, path, read }: WatchedKeys, verifier: Verifier): Actor => ({
  name: "key watcher",
  kind: "auxiliary",
  run: Effect.suspend(() => {
    let lastWarning: string | null = null
    let seen: string | null = null
    const look = Effect.gen(function* () {
      const mark = yield* markOf(path)
      if (mark === seen) return
      const keys = yield* read
      const isFirstLook = seen === null
      // Only what was read whole counts as seen.
      seen = mark
      lastWarning = null
      if (isFirstLook && JSON.stringify(keys) === JSON.stringify(given)) return
      yield* verifier.rotate(keys)
      yield* Effect.logInfo(`the HTTP API takes the ${keys.length} keys of ${path} from now on`)
    })
    const keep = Effect.fnUntraced(function* (failure: Failure) {
      const why = causesOf(failure).join(": ")
      if (lastWarning === why) return
      lastWarning = why
      yield* Effect.logWarning(`the HTTP API keeps its keys: ${why}`)
    })
    return Effect.forever(Effect.andThen(Effect.sleep(checkEvery), Effect.catch(look, keep)))
  })
})
