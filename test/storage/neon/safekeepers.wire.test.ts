/**
 * The fast path over real sockets: imitation safekeepers that agree, lag, refuse, hang, break or want another token.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type { TenantId, TimelineId } from "../../../src/spec/identifiers.ts"
import { NeonDeadlines } from "../../../src/storage/neon/deadlines.ts"
import { checkSynced } from "../../../src/storage/neon/safekeepers.ts"
import { makeFakeSafekeeper, type SafekeeperMode } from "../../../src/testing/peers/FakeSafekeeper.ts"

const tenant = "0".repeat(32) as TenantId
const timeline = "1".repeat(32) as TimelineId
const flush = 0x16b9188n

const start = (modes: ReadonlyArray<SafekeeperMode>, token?: string) =>
  Effect.forEach(modes, (mode) =>
    makeFakeSafekeeper({ tenant, timeline, flush, mode, ...(token === undefined ? {} : { token }) })
  )

/** `pingMillis` is long where an answer is expected: the machine may be busy. */
const ask = (safekeepers: ReadonlyArray<string>, pingMillis = 5000, token: string | null = null) =>
  Effect.gen(function* () {
    const deadlines = yield* NeonDeadlines
    return yield* checkSynced({
      tenant,
      timeline,
      safekeepers,
      token: token === null ? null : Redacted.make(token)
    }).pipe(Effect.provideService(NeonDeadlines, { ...deadlines, ping: Duration.millis(pingMillis) }))
  })

describe("asking the safekeepers", () => {
  const table: ReadonlyArray<{
    modes: ReadonlyArray<SafekeeperMode>
    expected: "synced" | RegExp
    pingMillis?: number
  }> = [
    { modes: ["ok", "ok", "ok"], expected: "synced" },
    { modes: ["ok"], expected: "synced" },
    { modes: ["ok", "refuse", "ok"], expected: "synced" },
    { modes: ["reset", "ok", "ok"], expected: "synced" },
    { modes: ["ok", "lag"], expected: /flushed 0\/16B9088 and committed 0\/16B9088/ },
    { modes: ["ok", "unknown timeline"], expected: /does not know the timeline/ },
    {
      modes: ["ok", "wrong token"],
      expected: /1 of 2 safekeepers answered, 2 are needed: .*log in to .*JWT authentication error \(SQLSTATE XX000\)/
    },
    { modes: ["ok", "another tenant's token"], expected: /query .*: JWT authentication error \(SQLSTATE XX000\)/ },
    { modes: ["ok", "refuse"], expected: /ECONNREFUSED/ },
    { modes: ["ok", "reset"], expected: /ECONNRESET|closed the connection/ },
    { modes: ["ok", "hang"], expected: /no answer within 300 ms/, pingMillis: 300 },
    { modes: ["hang", "hang", "refuse"], expected: /0 of 3 safekeepers answered/, pingMillis: 300 }
  ]
  for (const { expected, modes, pingMillis } of table) {
    it.live(`${modes.join(", ")}: ${expected}`, () =>
      Effect.gen(function* () {
        const status = yield* ask(
          (yield* start(modes)).map((safekeeper) => safekeeper.address),
          pingMillis
        )
        if (expected === "synced") assert.deepStrictEqual(status, { _tag: "Synced", lsn: flush })
        else assert.match(status._tag === "Synced" ? "synced" : status.reason, expected)
      })
    )
  }

  it.live("introduces itself as the safekeepers expect", () =>
    Effect.gen(function* () {
      const [safekeeper] = yield* start(["ok"], "t0ken")
      if (safekeeper === undefined) return assert.fail()
      const status = yield* ask([safekeeper.address], 5000, "t0ken")
      assert.strictEqual(status._tag, "Synced")
      assert.deepStrictEqual(yield* safekeeper.seen, [
        {
          user: "no_user",
          options: `-c timeline_id=${timeline} tenant_id=${tenant}`,
          password: "t0ken",
          command: "TIMELINE_STATUS"
        }
      ])
    })
  )

  it.live("never shows the token it was refused with", () =>
    Effect.gen(function* () {
      const [safekeeper] = yield* start(["ok"], "right")
      const status = yield* ask([safekeeper?.address ?? ""], 5000, "s3cret")
      assert.strictEqual(status._tag, "Refused")
      assert.notInclude(JSON.stringify(status), "s3cret")
    })
  )

  it.live("an address that cannot be used is a reply like any other", () =>
    Effect.gen(function* () {
      const [safekeeper] = yield* start(["ok"])
      const status = yield* ask([safekeeper?.address ?? "", "host:port", ""])
      assert.match(status._tag === "Synced" ? "synced" : status.reason, /address cannot be used/)
    })
  )

  it.live("does not wait for a silent one when a quorum has answered", () =>
    Effect.gen(function* () {
      const safekeepers = yield* start(["hang", "ok", "ok"])
      const status = yield* ask(
        safekeepers.map((safekeeper) => safekeeper.address),
        3_600_000
      )
      assert.strictEqual(status._tag, "Synced")
    })
  )
})
