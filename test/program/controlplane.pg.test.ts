/**
 * The program and its control plane, as processes: a spec that is pulled, a restart without the control plane, and a
 * pooled compute that waits.
 */
import { assert, describe, it } from "@effect/vitest"
import { makeFakeControlPlane } from "compute-ctl/testing"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { eventually } from "../support/waiting.ts"
import { launch, type Place, place, rows, runAsArguments } from "./harness.ts"
import { endsWithoutLastSync, setUp, specOf } from "./neonPeers.ts"

const computeId = "compute-quiet-meadow"

const spec = (settings: Readonly<Record<string, string>> = {}) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: {
    roles: [],
    databases: [],
    settings: Object.entries(settings).map(([name, value]) => ({ name, value, vartype: "string" }))
  }
})
const attached = (one: unknown) => ({ spec: one, status: "attached", compute_ctl_config: { jwks: { keys: [] } } })

const pulling = (at: Place, uri: string, more: ReadonlyArray<string>) => [
  "-D",
  `${at.directory}/pgdata`,
  "-C",
  `postgresql://cloud_admin@127.0.0.1:${at.port}/postgres`,
  "-p",
  uri,
  "-i",
  computeId,
  "--api-dialect",
  "2024",
  "--http-port",
  String(at.httpPort),
  ...runAsArguments,
  ...more
]
const local = (at: Place) => ["--storage", `local:${at.directory}/storage`]
const token = { NEON_CONTROL_PLANE_TOKEN: "c0ntrol" }

const configure = (one: unknown): RequestInit => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ spec: one })
})

describe("while the control plane is away", () => {
  it.live(
    "HTTP answers, the status says what is waited for, each attempt is logged; a compute without a spec ends at once",
    () =>
      Effect.gen(function* () {
        const at = yield* place
        const answer = () => ({ spec: null, status: "empty" })
        let away = Infinity
        const { uri } = yield* makeFakeControlPlane({
          computeId,
          token: "c0ntrol",
          answer,
          fault: "503",
          get failFirst() {
            return away
          }
        })
        const program = yield* launch(pulling(at, uri, local(at)), at.httpPort, token)
        const status = async () => JSON.parse((await program.http("/status")).text) as Record<string, unknown>
        yield* Effect.promise(() => program.prints(/the control plane gave no spec \(attempt 4\): .* attempt is in/))
        const gaveNone = /the spec: the control plane gave none \(attempt \d+\): it answered 503 Service Unavailable/
        const waiting = yield* eventually("a pause between two attempts", async () => {
          const now = await status()
          return gaveNone.test(String(now["waiting_for"])) ? now : null
        })
        assert.deepStrictEqual([waiting["status"], waiting["error"]], ["empty", null])
        const readyz = yield* eventually("the same of a probe", async () => {
          const { status, text } = await program.http("/readyz")
          return gaveNone.test(text) ? status : null
        })
        assert.strictEqual(readyz, 503)
        away = 0

        // Waits for the keys, which come with the spec.
        const activity = yield* Effect.promise(() => program.http("/activity"))
        assert.strictEqual(activity.status, 200)
        assert.include(String((yield* Effect.promise(status))["waiting_for"]), "POST /configure")
        const attempts = [...program.output().matchAll(/getting spec from control plane: (\S+) \(attempt (\d+)\)/g)]
        assert.isAbove(attempts.length, 4)
        for (const [index, [, url, attempt]] of attempts.entries())
          assert.deepStrictEqual(
            [url, Number(attempt)],
            [`${uri}/compute/api/v2/computes/${computeId}/spec`, index + 1]
          )
        assert.notInclude(program.output(), "c0ntrol")

        assert.strictEqual((yield* Effect.promise(() => program.http("/terminate", { method: "POST" }))).status, 200)
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0, "without the exit delay of 30 s")
      }),
    25_000
  )
})

describe("a restart while the control plane is down", () => {
  it.live(
    "uses the last spec that worked, where the operator allows it, and logs that",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const kept = `${at.directory}/pgdata.last-good-spec.json`
          const allowed = [...local(at), "--allow-last-good-spec"]
          yield* Effect.scoped(
            Effect.gen(function* () {
              const { uri } = yield* makeFakeControlPlane({
                computeId,
                token: "c0ntrol",
                answer: () => attached(spec({ work_mem: "5MB" }))
              })
              const first = yield* launch(pulling(at, uri, allowed), at.httpPort, token)
              yield* Effect.promise(() => first.reaches("running"))
              const changed = yield* Effect.promise(() =>
                first.http("/configure", configure(spec({ work_mem: "6MB" })))
              )
              assert.strictEqual(changed.status, 200, changed.text)
              first.signal("SIGTERM")
              assert.strictEqual((yield* Effect.promise(() => first.exit)).code, 0)
            })
          )
          assert.strictEqual(fs.statSync(kept).mode & 0o777, 0o600)

          const down = yield* makeFakeControlPlane({ computeId, answer: () => null, fault: "500" })
          const second = yield* launch(pulling(at, down.uri, allowed), at.httpPort, token)
          yield* Effect.promise(() => second.reaches("running"))
          assert.deepStrictEqual(
            yield* rows(at, "show work_mem"),
            [["6MB"]],
            "the latest that worked, also when it came by /configure"
          )
          assert.match(
            second.output(),
            /WARN .*the control plane is down, so the last good spec \(.*\) stands in for a fresh one/
          )
          second.signal("SIGTERM")
          assert.strictEqual((yield* Effect.promise(() => second.exit)).code, 0)

          for (const [args, environment, why] of [
            [pulling(at, down.uri, local(at)), token, /gave no spec \(1 attempts\): it answered 500/],
            [pulling(at, down.uri, allowed).map((arg) => (arg === computeId ? "another" : arg)), token, /gave no spec/]
          ] as const) {
            const refused = yield* launch(args, at.httpPort, environment)
            assert.strictEqual((yield* Effect.promise(() => refused.exit)).code, 1)
            assert.match(refused.output(), why)
          }
          const strict = yield* makeFakeControlPlane({ computeId, token: "an0ther", answer: () => attached(spec()) })
          const refused = yield* launch(pulling(at, strict.uri, allowed), at.httpPort, token)
          assert.strictEqual((yield* Effect.promise(() => refused.exit)).code, 1)
          assert.match(refused.output(), /it answered 401/, "a control plane that says no is not down")
          assert.notInclude(refused.output(), "c0ntrol")
        })
      ),
    90_000
  )
})

describe("POST /refresh_configuration", () => {
  it.live(
    "applies the spec of now, is tried again while there is no good one, and ends the compute when there is none",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          let answer: unknown = attached(spec({ work_mem: "5MB" }))
          const { seen, uri } = yield* makeFakeControlPlane({ computeId, token: "c0ntrol", answer: () => answer })
          const program = yield* launch(pulling(at, uri, local(at)), at.httpPort, token)
          yield* Effect.promise(() => program.reaches("running"))
          const refresh = () => Effect.promise(() => program.http("/refresh_configuration", { method: "POST" }))

          answer = attached(spec({ work_mem: "6MB" }))
          assert.strictEqual((yield* refresh()).status, 200)
          yield* Effect.promise(() => program.prints(/parameter "work_mem" changed to "6MB"/))
          yield* Effect.promise(() => program.reaches("running"))
          assert.lengthOf(yield* seen, 2)

          answer = attached({ format_version: "one" })
          assert.strictEqual((yield* refresh()).status, 200)
          yield* Effect.promise(() => program.prints(/the spec could not be refreshed: .*format_version/))
          assert.deepStrictEqual(yield* rows(at, "show work_mem"), [["6MB"]])
          answer = attached(spec({ work_mem: "7MB" }))
          yield* Effect.promise(() => program.prints(/parameter "work_mem" changed to "7MB"/))
          yield* Effect.promise(() => program.reaches("running"))

          answer = { spec: null, status: "empty", compute_ctl_config: { jwks: { keys: [] } } }
          yield* refresh()
          yield* Effect.promise(() => program.exit)
          assert.match(program.output(), /there is no spec for this compute any more, so it ends/)
        })
      ),
    60_000
  )
})

describe("a pooled compute", () => {
  it.live(
    "waits for its spec and runs with it; a warm-up that stock Postgres cannot do is logged and skipped",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { addresses, at, pageserver } = yield* setUp(["ok"])
          const { uri } = yield* makeFakeControlPlane({
            computeId,
            token: "c0ntrol",
            answer: () => ({ spec: null, status: "empty" })
          })
          const program = yield* launch(pulling(at, uri, []), at.httpPort, token)
          yield* Effect.promise(() => program.prints(/Postgres could not be warmed up: /))
          assert.strictEqual((yield* Effect.promise(() => program.status())).status, "empty")
          assert.isFalse(fs.existsSync(`${at.directory}/pgdata.warmup`))
          const answer = yield* Effect.promise(() =>
            program.http("/configure", configure(specOf(at, pageserver.url, addresses)))
          )
          assert.strictEqual(answer.status, 200, answer.text)
          assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
          yield* endsWithoutLastSync(program)
        })
      ),
    60_000
  )
})
