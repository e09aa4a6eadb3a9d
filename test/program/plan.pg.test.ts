/**
 * `compute_ctl plan` as a process against a real Postgres: it prints what an apply would do, and nothing once that is
 * done.
 */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { launch, localArguments, type Place, place } from "./harness.ts"

const option = (name: string, value: string) => ({ name, value, vartype: "string" })

const specWith = (roles: ReadonlyArray<string>) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: {
    roles: roles.map((name) => ({ name, encrypted_password: "md5" + "0".repeat(32) })),
    databases: [{ name: "shop", owner: "web" }],
    settings: []
  }
})

const plan = Effect.fnUntraced(function* (
  at: Place,
  spec: unknown,
  more: ReadonlyArray<string> = [],
  command = "plan"
) {
  const file = `${at.directory}/wanted.json`
  fs.writeFileSync(file, JSON.stringify(spec))
  const program = yield* launch(
    [
      command,
      "-C",
      `postgresql://cloud_admin@/postgres?host=${at.directory}/pgdata&port=${at.port}`,
      "-S",
      file,
      ...more
    ],
    at.httpPort
  )
  const { code } = yield* Effect.promise(() => program.exit)
  return { code, text: program.output() }
})

it.live("prints what would be done, then nothing once it is done", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const at = yield* place
      const program = yield* launch(localArguments(at, specWith(["web"])), at.httpPort)
      yield* Effect.promise(() => program.reaches("running"))
      assert.deepStrictEqual(yield* plan(at, specWith(["web"])), { code: 0, text: "" })

      const wanted = specWith(["web", 'late "one"'])
      const asText = yield* plan(at, wanted)
      assert.strictEqual(asText.code, 2, asText.text)
      assert.include(asText.text, "late")
      assert.notInclude(asText.text, "0".repeat(32), "no verifier is ever shown")
      const asJson = yield* plan(at, wanted, ["--json"])
      assert.strictEqual(asJson.code, 2)
      const operations: ReadonlyArray<{ readonly action: string; readonly object: string }> = JSON.parse(
        asJson.text
      ).operations
      assert.isTrue(
        operations.some(({ action, object }) => action === "create" && object.includes("late")),
        asJson.text
      )

      const moved = {
        ...wanted,
        cluster: {
          ...wanted.cluster,
          roles: [
            { name: "web", encrypted_password: "md5" + "1".repeat(32), options: [option("VALID UNTIL", "2030-01-01")] },
            {
              name: 'late "one"',
              encrypted_password: null,
              options: [{ ...option("IN ROLE", "web"), vartype: "name" }]
            }
          ],
          databases: [{ name: "shop", owner: 'late "one"', options: [option("CONNECTION LIMIT", "7")] }]
        }
      }
      const detailed = yield* plan(at, moved, ["--detailed"])
      assert.strictEqual(detailed.code, 2, detailed.text)
      const listed = detailed.text.slice(0, detailed.text.indexOf("\n\n")).split("\n")
      assert.includeMembers(listed, [
        'role "web"',
        '    password: "md5" -> "another md5"',
        '    valid until: none -> "2030-01-01T00:00:00.000Z"',
        'role "late \\"one\\""',
        "    exists: false -> true",
        '    member of "web": none -> "yes"',
        'database "shop"',
        '    owner: "web" -> "late \\"one\\""',
        "    connection limit: -1 -> 7"
      ])
      assert.include(detailed.text, "ALTER DATABASE", "what would be done follows")
      assert.notMatch(detailed.text, /[01]{32}/)
      const both = JSON.parse((yield* plan(at, moved, ["--detailed", "--json"])).text)
      assert.deepInclude(both.differences, {
        object: 'database "shop"',
        attribute: "connection limit",
        from: -1,
        to: 7,
        refused: null
      })
      assert.isNotEmpty(both.operations)
      const nothing = yield* plan(at, specWith(["web"]), ["--detailed", "--json"])
      assert.deepStrictEqual([nothing.code, JSON.parse(nothing.text).differences], [0, []])

      const body = JSON.stringify({ spec: wanted })
      const answer = yield* Effect.promise(() =>
        program.http("/configure", { method: "POST", headers: { "content-type": "application/json" }, body })
      )
      assert.strictEqual(answer.status, 200, answer.text)
      assert.deepStrictEqual(yield* plan(at, wanted), { code: 0, text: "" })

      // The same without a compute: `apply` does what `plan` prints, and answers with the receipt.
      const more = specWith(["web", 'late "one"', "by apply"])
      const applied = yield* plan(at, more, ["--json"], "apply")
      assert.strictEqual(applied.code, 0, applied.text)
      const receipt = JSON.parse(applied.text)
      assert.deepStrictEqual([receipt.kind, receipt.outcome], ["reconfigure", "done"])
      assert.deepStrictEqual(yield* plan(at, more), { code: 0, text: "" })
      const nobody = { ...more, cluster: { ...more.cluster, databases: [{ name: "orphan", owner: "nobody" }] } }
      const refused = yield* plan(at, nobody, [], "apply")
      assert.strictEqual(refused.code, 1)
      assert.match(
        refused.text,
        /1 failed[^]*create database "orphan": role "nobody" does not exist \(SQLSTATE 42704\)/
      )

      program.signal("SIGTERM")
      yield* Effect.promise(() => program.exit)
      const late = yield* plan(at, wanted)
      assert.strictEqual(late.code, 1)
      assert.match(late.text, /connect to \/.*\/pgdata:\d+: .*hint/)
    })
  )
)
