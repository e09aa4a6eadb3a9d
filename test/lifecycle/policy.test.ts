/**
 * The error policy by running it: every failure there is, as the failure of a start, of a later spec and of an HTTP
 * request, and what the compute, its caller and its parent process see of it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { Failure } from "../../src/errors/Failure.ts"
import { errorPolicies, exitCodeOf, explain, hintOf } from "../../src/errors/policy.ts"
import { refusalOf } from "../../src/http/refusals.ts"
import { Simulation } from "../../src/testing/Simulation.ts"
import { emptySpec } from "../support/specs.ts"
import { begin, compute, ends, recordedLog } from "./fixture.ts"

const once = { arbitrary: { runs: 1 } }

/** A later spec that fails with it leaves the compute up; a start that does ends it. */
describe.each(Failure.members.map((member) => ({ tag: member.fields._tag.schema.literal, member })))(
  "$tag",
  ({ member, tag }) => {
    const policy = errorPolicies[tag]
    const failure = Schema.toType(member as unknown as typeof Failure)

    it.effect.prop(
      "in a start: the status has its sentence, the log its hint, and the exit code is 1",
      { failure },
      ({ failure }) => {
        const log = recordedLog()
        return Effect.gen(function* () {
          const state = yield* ComputeState
          yield* (yield* Simulation).interfere("claim", failure)
          const fiber = yield* begin()
          const ended = yield* ends(fiber)
          const { error, history, status } = yield* state.now
          assert.strictEqual(exitCodeOf(ended.exit, ended.failure), tag === "Abandoned" ? 0 : policy.exitCode)
          if (tag === "Abandoned") return assert.deepStrictEqual([status, error], ["terminated", null])
          assert.strictEqual(ended.failure, failure)
          assert.deepStrictEqual(
            history.map(({ to }) => to),
            ["init", "failed"]
          )
          assert.strictEqual(error, explain(failure))
          assert.lengthOf(
            log.lines.filter((line) => line.endsWith(`(hint: ${hintOf(failure)})`)),
            1
          )
        }).pipe(Effect.provide(compute.pipe(Layer.provideMerge(log.layer))))
      },
      once
    )

    it.effect.prop(
      "in a later spec: Postgres stays and a good spec heals it, or the compute ends, as the policy says",
      { failure },
      ({ failure }) =>
        Effect.gen(function* () {
          const commands = yield* Commands
          const state = yield* ComputeState
          yield* (yield* Simulation).interfere("apply reconfigure", failure, 1)
          const fiber = yield* begin()
          yield* state.until("running")
          const answer = yield* Effect.flip(commands.configure(emptySpec))
          assert.strictEqual(answer, failure, "the caller gets the failure as it is")
          if (policy.whileRunning === "end") {
            const ended = yield* ends(fiber)
            assert.strictEqual(ended.failure, failure)
            assert.isFalse((yield* state.now).postgresAlive)
            return assert.strictEqual(exitCodeOf(ended.exit, ended.failure), policy.exitCode)
          }
          if (tag !== "Abandoned") {
            const { error, postgresAlive, status } = yield* state.now
            const [as, because] = policy.whileRunning === "unchanged" ? ["running", null] : ["failed", explain(failure)]
            assert.deepStrictEqual([status, error, postgresAlive], [as, because, true])
            assert.strictEqual((yield* commands.configure(emptySpec)).status, "running")
          }
          yield* commands.terminate("immediate")
          const { exit } = yield* ends(fiber)
          assert.strictEqual(exitCodeOf(exit, null), 0)
        }).pipe(Effect.provide(compute)),
      once
    )

    it.prop("in an HTTP answer: status, code, sentence and hint", { failure }, ({ failure }) => {
      const { code, error, hint, status } = refusalOf(failure)
      assert.strictEqual(status, policy.httpStatus)
      assert.strictEqual(code, policy.code)
      assert.strictEqual(error, explain(failure))
      assert.strictEqual(hint, "hint" in failure && failure.hint !== "" ? failure.hint : policy.hint)
    })
  }
)
