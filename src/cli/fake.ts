/**
 * The flags of `compute_ctl fake`. What it does is in `testing/fakes`, which is loaded only then. Reads nothing.
 */
import * as Result from "effect/Result"
import { type Given, type Read, readPort, readText, usageError } from "./given.ts"

const fakeKinds = ["compute", "control-plane", "pageserver", "safekeeper"] as const

export interface FakeSettings {
  readonly kind: (typeof fakeKinds)[number]
  readonly script: string
  readonly host: string
  readonly port: number
  readonly untilStdinCloses: boolean
}

/** `null`: the schema of the scripts is asked for. */
export const readFake = (given: Given, word: string | undefined): Read<FakeSettings | null> =>
  Result.gen(function* () {
    const schema = given.get("schema")
    if (schema !== undefined) {
      return word === undefined && given.size === 1
        ? null
        : yield* usageError(schema.as, `${schema.as} prints the schema of every script, and takes nothing else`)
    }
    const kind = fakeKinds.find((one) => one === word)
    if (kind === undefined) return yield* usageError(null, `fake needs what to be: ${fakeKinds.join(", ")}`)
    const script = yield* readText(given, "script")
    if (script === null) return yield* usageError("--script", "fake needs --script FILE")
    return {
      kind,
      script,
      host: (yield* readText(given, "host")) ?? "127.0.0.1",
      port: (yield* readPort(given, "port")) ?? 0,
      untilStdinCloses: given.has("until-stdin-closes")
    }
  })
