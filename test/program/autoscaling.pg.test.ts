/**
 * The program with `AUTOSCALING`, as in a virtual machine: an agent over a real WebSocket, a real Postgres without
 * Neon's file cache, and a host that has no such cgroup.
 */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { freePort } from "../support/postgres.ts"
import { launch, localArguments, place } from "./harness.ts"

const spec = { format_version: 1, suspend_timeout_seconds: -1, cluster: { roles: [], databases: [] } }

/** Sends each message when the one before was answered; answers what came back. */
const talk = (url: string, messages: ReadonlyArray<unknown>): Promise<ReadonlyArray<unknown>> =>
  new Promise((resolve, reject) => {
    const answers: Array<unknown> = []
    const socket = new WebSocket(url)
    const next = () => {
      const message = messages[answers.length]
      if (message !== undefined) return socket.send(JSON.stringify(message))
      socket.close()
      resolve(answers)
    }
    socket.addEventListener("open", next)
    socket.addEventListener("error", () => reject(new Error(`no agent can talk to ${url}`)))
    socket.addEventListener("message", ({ data }) => {
      answers.push(JSON.parse(String(data)))
      next()
    })
  })

it.live("an agent shakes hands, asks for health, and is granted a downscale without a cgroup", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const at = yield* place
      const monitor = yield* freePort
      const args = [
        ...localArguments(at, spec),
        "--cgroup-policy",
        "run-without",
        "--vm-monitor-addr",
        `127.0.0.1:${monitor}`
      ]
      const program = yield* launch(args, at.httpPort, { AUTOSCALING: "1" })
      yield* Effect.promise(() => program.prints(/the vm-monitor listens on port/))
      const answers = yield* Effect.promise(() =>
        talk(`ws://127.0.0.1:${monitor}/monitor`, [
          { min: 1, max: 1 },
          { type: "HealthCheck", content: {}, id: 6 },
          { type: "DownscaleRequest", content: { target: { cpu: 1, mem: 1 << 30 } }, id: 8 }
        ])
      )
      assert.deepStrictEqual(answers.slice(0, 2), [{ version: 1 }, { type: "HealthCheck", id: 6 }])
      assert.deepInclude(answers[2], { type: "DownscaleResult", id: 8, Ok: true })
      assert.match((yield* Effect.promise(() => program.http("/metrics"))).text, /^compute_vm_connections_total\S* 1$/m)
      program.signal("SIGTERM")
      assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
    })
  )
)

it.live("a Postgres that must be in a cgroup which is not there is not started", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const at = yield* place
      const args = [...localArguments(at, spec), "--cgroup", "no-such-group"]
      const program = yield* launch(args, at.httpPort, { AUTOSCALING: "1" })
      const failed = yield* Effect.promise(() => program.reaches("failed"))
      assert.match(failed.error ?? "", /the cgroup \S+no-such-group cannot be used/)
      assert.isFalse(fs.existsSync(`${at.directory}/pgdata/PG_VERSION`), "PGDATA was built for nothing")
      program.signal("SIGTERM")
      assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 1)
    })
  )
)
