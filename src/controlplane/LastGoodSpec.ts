/**
 * The last spec that this compute ran with, kept in a file for a restart at which the control plane is down.
 *
 * It holds the secrets of the spec, so it is ours alone (0600) and is written only when the operator asked for it. It
 * is kept once Postgres runs with it, and never used for another compute. The file is what the control plane answered.
 */
import * as Effect from "effect/Effect"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as fs from "node:fs/promises"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Condition } from "../compute/snapshot.ts"
import type { Actor } from "../compute/Supervisor.ts"
import type { Failure } from "../errors/Failure.ts"
import { replaceFile } from "../platform/files.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

const Kept = Schema.Struct({ compute_id: Schema.String, answer: Schema.Unknown })
const decode = Schema.decodeUnknownResult(Schema.fromJsonString(Kept))

export interface LastGoodSpec {
  /** From which answer a spec was parsed; what becomes good later is kept in these words. */
  readonly remember: (spec: ParsedSpec, answer: unknown) => void
  /** From what came over HTTP: the spec alone, with the rest of the control plane's last answer. */
  readonly rememberSpec: (spec: ParsedSpec, input: unknown) => void
  /** The kept answer; `null`: there is none for this compute. */
  readonly read: Effect.Effect<unknown | null>
  /** Writes the file whenever a remembered spec runs. */
  readonly watcher: Actor<ComputeState>
}

/** A control plane that said no is not down. */
export const isDown = (failure: Failure): boolean => failure._tag === "ControlPlaneFailed" && failure.refused !== true

export const standIn = (failure: Failure, path: string): Condition => ({
  code: "last_good_spec",
  message: `the control plane is down, so the last good spec (${path}) stands in for a fresh one: ${failure.message}`
})

export const lastGoodSpec = (path: string, computeId: string): LastGoodSpec => {
  const answers = new WeakMap<ParsedSpec, unknown>()
  let latest: object = { status: "attached" }

  const keep = Effect.fnUntraced(function* (answer: unknown) {
    const content = JSON.stringify({ compute_id: computeId, answer })
    yield* replaceFile({ path, content, mode: 0o600, owner: null }).pipe(
      Effect.catch((failure) =>
        Effect.logWarning("the spec could not be kept for a restart without the control plane", failure)
      )
    )
  })

  return {
    remember: (spec, answer) => {
      if (typeof answer === "object" && answer !== null) latest = answer
      answers.set(spec, answer)
    },
    rememberSpec: (spec, input) => void answers.set(spec, { ...latest, status: "attached", spec: input }),
    read: Effect.tryPromise(() => fs.readFile(path, "utf8")).pipe(
      Effect.map((text) => Result.getOrNull(decode(text))),
      Effect.map((kept) => (kept === null || kept.compute_id !== computeId ? null : (kept.answer ?? null))),
      Effect.orElseSucceed(() => null)
    ),
    watcher: {
      name: "spec keeper",
      kind: "auxiliary",
      run: Effect.gen(function* () {
        const state = yield* ComputeState
        const last = yield* Ref.make<ParsedSpec | null>(null)
        yield* state.changes.pipe(
          Stream.filter(({ spec, status }) => status === "running" && spec !== null),
          Stream.runForEach(
            Effect.fnUntraced(function* ({ spec }) {
              const answer = spec === null ? undefined : answers.get(spec)
              if (answer === undefined || (yield* Ref.getAndSet(last, spec)) === spec) return
              yield* keep(answer)
            })
          )
        )
      })
    }
  }
}
