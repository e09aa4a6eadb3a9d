/**
 * The applier's loop: what becomes of a caller whose apply meets a bug, and of the callers after it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import { Applier } from "../../src/catalog/Applier.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { WireFailed } from "../../src/errors/Failure.ts"
import { causesOf, policyOf } from "../../src/errors/policy.ts"
import { Admin } from "../../src/pgwire/Admin.ts"
import { makeOwnSessions } from "../../src/pgwire/ownSessions.ts"
import { emptySpec } from "../support/specs.ts"

const refused = new WireFailed({ operation: "connect", peer: "nobody", detail: "connection refused" })

/** Sessions that begin with a bug now and then, and otherwise not at all. */
const admin = (bugs: Array<boolean>) =>
  Layer.succeed(Admin, {
    at: { host: "nobody", port: 1, user: null, password: null, database: null, options: null, applicationName: null },
    superuser: "cloud_admin",
    systemDatabase: "postgres",
    sessions: makeOwnSessions(),
    guard: () => Effect.void,
    prove: () => Effect.void,
    expectMajor: () => Effect.void,
    startupOptions: () => Effect.succeed(""),
    connect: () =>
      Effect.suspend(() => (bugs.shift() === true ? Effect.die(new Error("a bug in the plan")) : Effect.fail(refused)))
  })

describe("an apply that meets a bug", () => {
  it.live("is that caller's failure with a name, and the next apply is done by the same loop", () =>
    Effect.gen(function* () {
      const applier = yield* Applier
      let ended = false
      yield* Effect.forkChild(
        Effect.ensuring(
          applier.actor.run,
          Effect.sync(() => void (ended = true))
        )
      )
      const apply = Effect.result(applier.apply({ kind: "reconfigure", spec: emptySpec }))
      const outcomes = yield* Effect.all([apply, apply, apply, apply])
      assert.deepStrictEqual(
        outcomes.map((outcome) => (Result.isFailure(outcome) ? outcome.failure._tag : "done")),
        ["WireFailed", "Defect", "Defect", "WireFailed"]
      )
      const [, bug] = outcomes
      if (bug === undefined || Result.isSuccess(bug)) return assert.fail("a bug is a failure")
      assert.include(causesOf(bug.failure).join(": "), "a bug in the plan")
      assert.deepInclude(policyOf(bug.failure), { code: "defect", httpStatus: 500 })
      assert.isFalse(ended, "the loop goes on")
    }).pipe(
      Effect.provide(
        Layer.provideMerge(
          Applier.layer({ privilegedRole: "neon_superuser" }),
          Layer.merge(admin([false, true, true, false]), ComputeState.layer)
        )
      )
    )
  )
})
