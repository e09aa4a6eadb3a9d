/**
 * Which later specs a compute refuses: those of another tenant or timeline, and those of another mode.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { configureConflict, identityConflict } from "../../src/compute/specConflict.ts"
import type { TenantId, TimelineId } from "../../src/spec/identifiers.ts"
import type { ComputeMode, NeonStorage, ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { emptySpec } from "../support/specs.ts"

const other = "abc0".repeat(8)
const inMode = (mode: ComputeMode): ParsedSpec => ({ ...emptySpec, mode })
const modes: ReadonlyArray<ComputeMode> = [
  { _tag: "Primary" },
  { _tag: "Replica" },
  { _tag: "Static", lsn: 1n },
  { _tag: "Static", lsn: 2n }
]

describe("a later spec", () => {
  it("is of the same tenant and timeline, or each that differs is named where the spec says it", () => {
    const foreign = { ...emptySpec, tenant: other as TenantId, timeline: other as TimelineId }
    for (const conflict of [configureConflict, identityConflict]) {
      assert.isNull(conflict(emptySpec, { ...emptySpec, operationId: "later", roles: [] }))
      assert.isNull(conflict(null, foreign), "nothing runs yet")
      assert.deepStrictEqual(conflict(emptySpec, foreign)?.problems, [
        {
          path: "spec.tenant_id",
          message: `this compute runs tenant ${emptySpec.tenant}, so ${other} needs a compute of its own`
        },
        {
          path: "spec.timeline_id",
          message: `this compute runs timeline ${emptySpec.timeline}, so ${other} needs a compute of its own`
        }
      ])
    }
  })

  it("that says it in a setting is named by that setting", () => {
    const neon: NeonStorage = {
      pageservers: { shardCount: 0, stripeSize: null, shards: [], preferProtocol: "libpq" },
      safekeepers: [],
      safekeepersGeneration: null,
      token: null,
      fromSettings: new Set(["tenant"])
    }
    const settings = [
      { name: "work_mem", value: "4MB", quoted: true },
      { name: "Neon.Tenant_id", value: other, quoted: true }
    ]
    const conflict = configureConflict(emptySpec, { ...emptySpec, neon, settings, tenant: other as TenantId })
    assert.deepStrictEqual(
      conflict?.problems.map(({ path }) => path),
      ["spec.cluster.settings[1].value"]
    )
  })

  it("is of the same mode, and the way from a replica to a primary is pointed out", () => {
    for (const [index, from] of modes.entries()) {
      for (const [place, to] of modes.entries()) {
        const conflict = configureConflict(inMode(from), inMode(to))
        assert.isNull(identityConflict(inMode(from), inMode(to)))
        if (index === place) assert.isNull(conflict)
        else {
          const [problem] = conflict?.problems ?? []
          assert.strictEqual(problem?.path, "spec.mode")
          const pointed = from._tag === "Replica" && to._tag === "Primary"
          assert.strictEqual(problem?.message.includes("POST /promote"), pointed, problem?.message)
        }
      }
    }
  })

  it.effect("that is refused moves no status, and is no request", () =>
    Effect.gen(function* () {
      const commands = yield* Commands
      const state = yield* ComputeState
      yield* state.send("StartBegan", { spec: emptySpec })
      yield* state.send("PostgresReady")
      const spec = inMode({ _tag: "Replica" })
      for (const mayQueue of [true, false]) {
        const refused = yield* Effect.flip(commands.submit({ spec, mayQueue, key: null }))
        assert.strictEqual(refused._tag, "SpecConflict")
      }
      assert.strictEqual((yield* state.now).status, "running")
      assert.deepStrictEqual(yield* commands.requests.all, [])
    }).pipe(Effect.provide(Layer.provideMerge(Commands.layer, ComputeState.layer)))
  )
})
