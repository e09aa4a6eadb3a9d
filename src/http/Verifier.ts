/**
 * Checks a token's signature, expiry and beginning against a JSON Web Key Set that may change
 * (docs/reference/compute_ctl.md#authorization), also because the file that it came from did. What the claims allow is
 * decided in `authorize.ts`.
 *
 * One algorithm is accepted: EdDSA, or RS256 as soon as one key declares it. Keys are tried in order, whatever `kid`
 * says. A set without a key that can be used never replaces one that has: nobody could send a better one then.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { compactVerify } from "jose/jws/compact/verify"
import { importJWK } from "jose/key/import"
import { createHash } from "node:crypto"
import * as FS from "node:fs/promises"
import type { Actor } from "../compute/Supervisor.ts"
import type { Failure } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { attemptPromise } from "../platform/files.ts"
import { isTimely, unverified } from "./authorize.ts"
import type { Refusal } from "./refusals.ts"

/** The claims of a token whose signature and times are good, undecoded; or why it is not (`unverified`). */
export type Verify = (token: Redacted.Redacted<string>) => Effect.Effect<unknown, Refusal>

export interface Verifier {
  readonly verify: Verify
  /** The same for a token that was checked before, at once; `null`: it must be checked. */
  readonly recall: (token: string, nowSeconds: number) => unknown | null
  /** These keys count from the next token on; false: none of them is usable, and the old ones stay. */
  readonly rotate: (jwks: ReadonlyArray<unknown>) => Effect.Effect<boolean>
}

const Jwk = Schema.Record(Schema.String, Schema.Unknown)
const decodeJwk = Schema.decodeUnknownEffect(Jwk)

const Payload = Schema.fromJsonString(Schema.Record(Schema.String, Schema.Unknown))
const decodePayload = Schema.decodeUnknownOption(Payload)

const declaresRsa = (jwk: unknown): boolean =>
  typeof jwk === "object" && jwk !== null && "alg" in jwk && jwk.alg === "RS256"

const readKeys = Effect.fnUntraced(function* (jwks: ReadonlyArray<unknown>) {
  const algorithm = jwks.some(declaresRsa) ? "RS256" : "EdDSA"
  const keys = yield* Effect.forEach(jwks, (jwk, index) =>
    decodeJwk(jwk).pipe(
      Effect.flatMap((fields) => Effect.tryPromise(() => importJWK(fields, algorithm))),
      Effect.option,
      Effect.tap((key) =>
        Option.isNone(key) ? Effect.logWarning(`key ${index} of the JWKS cannot be used`) : Effect.void
      )
    )
  )
  return { algorithm, keys: keys.flatMap((key) => (Option.isSome(key) ? [key.value] : [])) }
})

type Keys = Effect.Success<ReturnType<typeof readKeys>>

/** A poller sends the same token again and again; its signature is checked once. */
const maxRemembered = 256

const digest = (text: string): string => createHash("sha256").update(text).digest("base64")

/** A verifier for these keys, which are read at the first token. With none that can be used it refuses everybody. */
export const verifierOf = (jwks: ReadonlyArray<unknown>): Verifier => {
  /** Claims by digest of the token, never the token; forgotten with the keys that proved them. */
  let remembered = new Map<string, Readonly<Record<string, unknown>>>()
  let known: Keys | undefined
  const adopt = (keys: Keys) =>
    Effect.sync(() => {
      known = keys
      remembered = new Map()
      return keys
    })
  // Keys that were rotated in while the first were being read stay.
  const adoptFirst = (keys: Keys) => Effect.suspend(() => (known === undefined ? adopt(keys) : Effect.succeed(known)))
  const current = Effect.suspend(() =>
    known === undefined ? Effect.flatMap(readKeys(jwks), adoptFirst) : Effect.succeed(known)
  )

  const check = Effect.fnUntraced(function* (text: string) {
    const { algorithm, keys } = yield* current
    const memory = remembered
    const name = digest(text)
    const before = memory.get(name)
    if (before !== undefined) return before
    for (const key of keys) {
      const verified = yield* Effect.option(
        Effect.tryPromise(() => compactVerify(text, key, { algorithms: [algorithm] }))
      )
      if (Option.isNone(verified)) continue
      const claims = decodePayload(new TextDecoder().decode(verified.value.payload))
      if (Option.isNone(claims)) return yield* Effect.fail(unverified)
      if (memory.size >= maxRemembered) memory.clear()
      memory.set(name, claims.value)
      return claims.value
    }
    return yield* Effect.fail(unverified)
  })

  return {
    recall: (token, nowSeconds) => {
      const claims = remembered.get(digest(token))
      return claims !== undefined && isTimely(claims, nowSeconds) ? claims : null
    },
    verify: Effect.fnUntraced(function* (token) {
      const claims = yield* check(Redacted.value(token))
      const now = yield* Clock.currentTimeMillis
      return isTimely(claims, now / 1000) ? claims : yield* Effect.fail(unverified)
    }),
    rotate: Effect.fnUntraced(function* (next) {
      const keys = yield* readKeys(next)
      if (keys.keys.length === 0) {
        yield* Effect.logWarning("a JWKS without a usable key was sent; the keys stay as they are")
        return false
      }
      yield* adopt(keys)
      return true
    })
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
      if (yield* verifier.rotate(keys))
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
