/**
 * The log of a real compute, as JSON: one object per line, ours and Postgres's, whatever Postgres writes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { launch, localArguments, place, rows, session } from "../program/harness.ts"
import { eventually } from "../support/waiting.ts"

const spec = (operation: string) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  operation_uuid: operation,
  project_id: "prj-1",
  branch_id: "br-1",
  endpoint_id: "ep-1",
  cluster: {
    roles: [{ name: "web" }],
    databases: [{ name: "shop", owner: "web" }],
    settings: [{ name: "log_line_prefix", value: "%m [%p] %u@%d ", vartype: "string" }]
  }
})

interface Line {
  readonly level: string
  readonly message: string
  readonly [name: string]: unknown
}

const read = (said: string): ReadonlyArray<Line> =>
  said
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      try {
        return JSON.parse(line) as Line
      } catch (cause) {
        throw new Error(`no JSON: ${line.slice(0, 300)}`, { cause })
      }
    })

describe("the log as JSON", () => {
  it.live(
    "is one object per line, ours and Postgres's, long and broken ones too, and says who we are",
    () =>
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* launch(localArguments(at, spec("op-1"), ["--log-format", "json"]), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        const configured = yield* Effect.promise(() =>
          program.http("/configure", {
            method: "POST",
            body: JSON.stringify({ spec: spec("op-2") }),
            headers: { "content-type": "application/json" }
          })
        )
        assert.strictEqual(configured.status, 200, configured.text)

        yield* rows(at, "create database raw encoding 'SQL_ASCII' template template0 locale 'C'")
        const backend = yield* Effect.scoped(
          Effect.gen(function* () {
            const wire = yield* session(at, "raw")
            // Or the bytes would have to fit the client's encoding.
            yield* wire.simple("set client_min_messages = error")
            yield* wire.simple(
              "do $$ begin raise warning '%', repeat('x', 3000000); " +
                "raise warning '%', E'broken \\xff\\xfe\\nline' || chr(1); end $$"
            )
            return wire.backendPid
          })
        )
        const broken = yield* eventually(
          "the last warning",
          () => program.output().includes('"message"') && /broken [^"]*"/.exec(program.output()),
          program.output
        )
        assert.notInclude(broken[0], "\n")
        program.signal("SIGTERM")
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)

        const lines = read(program.output())
        const postgres = lines.filter(({ source }) => source === "postgres")
        assert.isAbove(postgres.length, 5)
        assert.isAbove(lines.length - postgres.length, 5)
        for (const line of lines) {
          assert.isString(line.message)
          assert.isString(line["timestamp"])
          assert.deepInclude(
            line,
            { endpoint_id: "ep-1", branch_id: "br-1", project_id: "prj-1" },
            line.message.slice(0, 200)
          )
          assert.notProperty(line, "trace_id", "nobody follows a trace here")
        }
        assert.deepStrictEqual([...new Set(lines.map((line) => line["operation_id"]))], ["op-1", "op-2"])
        const ready =
          postgres.find(({ message }) => message.includes("ready to accept connections")) ?? assert.fail("never ready")
        assert.deepInclude(ready, { level: "INFO", severity: "LOG" })
        assert.isNumber(ready["pid"])

        const warnings = postgres.filter((line) => line["severity"] === "WARNING")
        assert.isAtLeast(warnings.length, 2)
        for (const line of warnings.filter((one) => /x{20}|broken/.test(one.message))) {
          assert.deepInclude(line, { level: "WARN", pid: backend, user: "cloud_admin", database: "raw" })
        }
        const exes = postgres.flatMap(({ message }) => /x{20,}/.exec(message)?.[0].length ?? [])
        assert.deepStrictEqual(exes, [3_000_000], "a long line is one record")
        assert.strictEqual(program.printed(), "")
        assert.isTrue(lines.some(({ message }) => message.startsWith("Postgres is ready: ")))
        assert.include(warnings.at(-1)?.message ?? "", "\n\tline\u0001")
      }),
    120_000
  )

  it.live(
    "is filtered by module, as RUST_LOG asks",
    () =>
      Effect.gen(function* () {
        const at = yield* place
        const env = { RUST_LOG: "warn,computestate=info" }
        const program = yield* launch(localArguments(at, spec("op-1"), ["--log-format", "json"]), at.httpPort, env)
        yield* Effect.promise(() => program.reaches("running"))
        program.signal("SIGTERM")
        yield* Effect.promise(() => program.exit)
        const ours = read(program.output()).filter(({ source }) => source !== "postgres")
        assert.isTrue(ours.some(({ message }) => message.startsWith("Changing compute status")))
        assert.deepStrictEqual(
          ours.filter(({ level, message }) => level === "INFO" && !message.startsWith("Changing compute status")),
          []
        )
      }),
    120_000
  )

  it.live(
    "a start that failed before it began is logged as JSON, too",
    () =>
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* launch(localArguments(at, "{", ["--log-format", "json"]), at.httpPort)
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 1)
        assert.deepInclude(read(program.output()).at(-1), { level: "ERROR" })
        assert.isFalse(fs.existsSync(`${at.directory}/pgdata/postmaster.pid`))
      }),
    60_000
  )
})
