/**
 * The sidecars as the lifecycle uses them: configured from every spec, a condition while one is missing, stopped at the
 * end.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Logger from "effect/Logger"
import { TestClock } from "effect/testing"
import * as fs from "node:fs"
import * as path from "node:path"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { type SidecarOptions, Sidecars } from "../../src/sidecars/Sidecars.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { emptySpec } from "../support/specs.ts"
import { passes } from "../support/virtualTime.ts"

const optionsIn = (folder: string): SidecarOptions => ({
  pgbouncer: {
    admin: { host: "/nowhere", port: 1, user: "postgres", password: null },
    ini: path.join(folder, "pgbouncer.ini"),
    pidFile: path.join(folder, "pgbouncer.pid")
  },
  localProxy: { config: path.join(folder, "local_proxy.json"), pidFile: path.join(folder, "local_proxy.pid") },
  rsyslog: {
    directory: folder,
    workDirectory: folder,
    pidFiles: [],
    search: false,
    restartWithin: Duration.millis(50)
  },
  auditEndpoints: { plain: null, tls: null },
  pgdata: folder,
  tls: { keyPath: "/tls/key", certPath: "/tls/crt" },
  dev: false
})

const tuned = { pgbouncerSettings: new Map([["pool_size", "1"]]), localProxy: { jwks: null } }

describe("sidecars", () => {
  it.effect(
    "are configured from every spec, and one that is missing is a condition until the spec does not ask for it",
    () => {
      const lines: Array<string> = []
      const warnings = Logger.layer([
        Logger.make(({ logLevel, message }) => {
          if (logLevel === "Warn") lines.push(String(message))
        })
      ])
      return Effect.gen(function* () {
        const folder = yield* temporaryFolder
        const options = optionsIn(folder)
        yield* Effect.gen(function* () {
          const state = yield* ComputeState
          const sidecars = yield* Sidecars
          for (const actor of sidecars.actors) yield* Effect.forkChild(actor.run, { startImmediately: true })
          yield* state.note({ spec: { ...emptySpec, ...tuned } })
          yield* passes("local_proxy's file", () => fs.existsSync(options.localProxy.config))
          assert.strictEqual(fs.readFileSync(options.localProxy.config, "utf8"), "{}")
          yield* passes("the warning", () => lines.length > 0)
          assert.deepStrictEqual(lines, [`pgbouncer: there is no ${options.pgbouncer.ini}`])

          yield* state.note({ spec: { ...emptySpec, ...tuned, features: new Set(["tls_experimental"]) } })
          yield* passes("the second file", () =>
            fs.readFileSync(options.localProxy.config, "utf8").includes("/tls/crt")
          )
          const missing = fs.existsSync("/proc/locks") ? ["pgbouncer", "local_proxy"] : ["pgbouncer"]
          yield* passes("a condition for each", () => Effect.runSync(state.now).degraded.length === missing.length)
          yield* TestClock.adjust("10 minutes")
          assert.lengthOf(lines, missing.length, "one line each, however often it is tried")
          assert.deepStrictEqual(
            (yield* state.now).degraded.map(({ about, code }) => `${code} ${about}`).sort(),
            missing.map((name) => `sidecar_unusable ${name}`).sort()
          )
          yield* state.note({ spec: emptySpec })
          yield* passes("no condition", () => Effect.runSync(state.now).degraded.length === 0)
          yield* sidecars.stop
        }).pipe(Effect.provide(Sidecars.layer(options)), Effect.provide(ComputeState.layer))
      }).pipe(Effect.provide(warnings))
    }
  )

  it.effect("show an rsyslogd that takes no file until it does, beside the failed spec", () =>
    Effect.gen(function* () {
      const options = optionsIn(yield* temporaryFolder)
      yield* Effect.gen(function* () {
        const sidecars = yield* Sidecars
        const state = yield* ComputeState
        const exporting = yield* Effect.forkChild(
          Effect.flip(sidecars.onSpec({ ...emptySpec, logsExportHost: { host: "logs.example", port: 514 } }))
        )
        yield* passes("the failure", () => exporting.pollUnsafe() !== undefined)
        assert.strictEqual((yield* Fiber.join(exporting))._tag, "SidecarUnusable")
        const [condition] = (yield* state.now).degraded
        assert.deepInclude(condition, { code: "sidecar_unusable", about: "rsyslogd" })
        yield* sidecars.onSpec(emptySpec)
        assert.deepStrictEqual((yield* state.now).degraded, [])
      }).pipe(Effect.provide(Sidecars.layer(options)), Effect.provide(ComputeState.layer))
    })
  )

  it.effect("fail a start that must be audited and cannot be, and no other", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      yield* Effect.gen(function* () {
        const sidecars = yield* Sidecars
        yield* sidecars.beforeStart(emptySpec)
        yield* sidecars.onSpec(emptySpec)
        assert.strictEqual(
          (yield* Effect.flip(sidecars.beforeStart({ ...emptySpec, auditLevel: "Full" })))._tag,
          "NotSupported"
        )
        assert.deepStrictEqual(
          (yield* sidecars.families).flatMap(({ samples }) => samples),
          []
        )
      }).pipe(Effect.provide(Sidecars.layer(optionsIn(folder))), Effect.provide(ComputeState.layer))
    })
  )

  it.effect("measure the folder of an audited compute", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      fs.mkdirSync(path.join(folder, "log"))
      fs.writeFileSync(path.join(folder, "log", "audit-1.log"), "12345")
      yield* Effect.gen(function* () {
        const sidecars = yield* Sidecars
        yield* (yield* ComputeState).note({ spec: { ...emptySpec, auditLevel: "Hipaa" } })
        for (const actor of sidecars.actors) yield* Effect.forkChild(actor.run, { startImmediately: true })
        const size = sidecars.families.pipe(Effect.map(([family]) => family?.samples[0]?.value ?? null))
        let now: number | null = null
        yield* passes("the gauge", () => {
          now = Effect.runSync(size)
          return now !== null
        })
        assert.strictEqual(now, 5)
      }).pipe(Effect.provide(Sidecars.layer(optionsIn(folder))), Effect.provide(ComputeState.layer))
    })
  )
})
