/**
 * `compute_ctl fake KIND --script FILE`: starts what the script describes, prints how to reach it as one line of JSON,
 * and stays until it is told to end. Of the bundle it is a part of its own, which no other command loads.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as FS from "node:fs/promises"
import * as Path from "node:path"
import { causesOf } from "../../errors/policy.ts"
import { attemptPromise } from "../../platform/files.ts"
import { decodeJsonBytes } from "../../spec/json.ts"
import type { FakeKind } from "./script.ts"
import { parseScriptText, ScriptInvalid, scriptsJsonSchema } from "./scriptSchema.ts"
import { makeFake } from "./startFake.ts"

export interface FakeSettings {
  readonly kind: FakeKind
  /** The path of the script. */
  readonly script: string
  readonly host: string
  /** 0: a free one. */
  readonly port: number
}

/** What a command has of the process. */
export interface Terminal {
  readonly out: (text: string) => void
  readonly err: (text: string) => void
  /** Resolves when it is told to end. */
  readonly told: Promise<unknown>
}

const readScript = Effect.fnUntraced(function* ({ kind, script }: FakeSettings) {
  const bytes = yield* attemptPromise("read the script", script, () => FS.readFile(script))
  const text = Result.mapError(
    decodeJsonBytes(bytes),
    (message) => new ScriptInvalid({ source: script, problems: [{ path: "", message }] })
  )
  return yield* Effect.fromResult(Result.flatMap(text, (one) => parseScriptText(one, kind, script)))
})

const run = Effect.fnUntraced(function* (settings: FakeSettings, { err, out, told }: Terminal) {
  const { host, port, script } = settings
  const started = Effect.gen(function* () {
    const read = yield* readScript(settings)
    const { address } = yield* makeFake(read, { host, port, folder: Path.dirname(script), onLogLine: err })
    out(`${JSON.stringify(address)}\n`)
    return yield* Effect.never
  })
  return yield* Effect.raceFirst(
    started,
    Effect.promise(() => told)
  )
}, Effect.scoped)

/** Answers the exit code: 0 when it was told to end, 1 when it could not begin. */
export const fakeCommand = (settings: FakeSettings, terminal: Terminal): Promise<number> =>
  run(settings, terminal).pipe(
    Effect.as(0),
    Effect.catch((failure) =>
      Effect.sync(() => {
        if (failure._tag !== "ScriptInvalid") terminal.err(`${causesOf(failure).join(": ")}\n`)
        else
          for (const { message, path } of failure.problems)
            terminal.err(`${settings.script}: ${path === "" ? "" : `${path}: `}${message}\n`)
        return 1
      })
    ),
    Effect.runPromise
  )

/** `compute_ctl fake --schema`. */
export const fakeSchemaText = (): string => `${JSON.stringify(scriptsJsonSchema(), null, 2)}\n`
