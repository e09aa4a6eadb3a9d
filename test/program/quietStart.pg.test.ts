/**
 * What a start with nothing to do asks of Postgres, by Postgres's own log of sessions.
 */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { launch, localArguments, place } from "./harness.ts"

const spec = {
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: {
    roles: [{ name: "web", encrypted_password: "md5" + "0".repeat(32) }],
    databases: ["shop", "office"].map((name) => ({ name, owner: "web" })),
    settings: [{ name: "log_connections", value: "on", vartype: "bool" }]
  }
}

/** Sessions of the applier by what they are for, as they are opened. */
const sessionsIn = (output: string): ReadonlyArray<string> =>
  [...output.matchAll(/connection authorized: .*compute_ctl:(\w+)/g)]
    .map(([, purpose = ""]) => purpose)
    .filter((purpose) => ["apply_config", "reconfigure", "migrations", "post_apply_config"].includes(purpose))

it.live("a start with nothing to do is one session of the applier, and so is a spec that is sent again", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const at = yield* place
      const run = Effect.fnUntraced(function* (until: RegExp | null) {
        const program = yield* launch(localArguments(at, spec), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        if (until !== null) yield* Effect.promise(() => program.prints(until))
        // What a start leaves to the background has begun long before this is answered.
        const answer = yield* Effect.promise(() =>
          program.http("/configure", {
            method: "POST",
            headers: { "content-type": "application/json" },
            body: JSON.stringify({ spec })
          })
        )
        assert.strictEqual(answer.status, 200, answer.text)
        program.signal("SIGTERM")
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
        return sessionsIn(program.output())
      })
      assert.includeMembers([...(yield* run(/Finished migration id=12/))], ["apply_config", "migrations"])
      assert.deepStrictEqual(yield* run(null), ["apply_config", "reconfigure"])
    })
  )
)
