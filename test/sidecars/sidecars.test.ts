/**
 * Everything beside Postgres, as the corridor meets it: told of every spec, complaining once, leaving at the end.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import { TestClock } from "effect/testing"
import * as fs from "node:fs"
import * as path from "node:path"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { postgresConf } from "../../src/postgres/postgresqlConf.ts"
import { type SidecarOptions, Sidecars } from "../../src/sidecars/Sidecars.ts"
import { Certificates } from "../../src/tls/Certificates.ts"
import { selfSigned } from "../support/certificates.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { emptySpec, localFacts } from "../support/specs.ts"
import { passes } from "../support/virtualTime.ts"

const optionsIn = (folder: string): SidecarOptions => ({
  pgbouncer: {
    admin: { host: "/nowhere", port: 1, user: "postgres", password: null },
    ini: path.join(folder, "pgbouncer.ini"),
    pidFile: path.join(folder, "pgbouncer.pid")
  },
  localProxy: { config: path.join(folder, "local_proxy.json"), pidFile: path.join(folder, "local_proxy.pid") },
  rsyslog: { directory: folder, workDirectory: folder, pidFiles: [], search: false, patience: Duration.millis(50) },
  auditEndpoints: { plain: null, tls: null },
  pgdata: folder,
  tls: { keyPath: "/tls/key", certPath: "/tls/crt" },
  dev: false
})

const tuned = { pgbouncerSettings: new Map([["pool_size", "1"]]), localProxy: { jwks: null } }

describe("what runs beside Postgres", () => {
  it.effect("is told of every spec, and what is missing is said once until it is well again", () => {
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
        yield* passes("the complaint", () => lines.length > 0)
        assert.deepStrictEqual(lines, [`pgbouncer: there is no ${options.pgbouncer.ini}`])

        yield* state.note({ spec: { ...emptySpec, ...tuned, features: new Set(["tls_experimental"]) } })
        yield* passes("the second file", () => fs.readFileSync(options.localProxy.config, "utf8").includes("/tls/crt"))
        yield* TestClock.adjust("1 minute")
        assert.lengthOf(lines, 1)
        yield* state.note({ spec: emptySpec })
        yield* sidecars.ended
      }).pipe(Effect.provide(Sidecars.layer(options)), Effect.provide(ComputeState.layer))
    }).pipe(Effect.provide(warnings))
  })

  it.effect("fails a start that must be audited and cannot be, and no other", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      yield* Effect.gen(function* () {
        const sidecars = yield* Sidecars
        yield* sidecars.before(emptySpec)
        yield* sidecars.renewed(emptySpec)
        assert.strictEqual(
          (yield* Effect.flip(sidecars.before({ ...emptySpec, auditLevel: "Full" })))._tag,
          "NotSupported"
        )
        assert.strictEqual(
          (yield* Effect.flip(sidecars.renewed({ ...emptySpec, logsExportHost: "nonsense" })))._tag,
          "NotSupported"
        )
        assert.deepStrictEqual(
          (yield* sidecars.families).flatMap(({ samples }) => samples),
          []
        )
      }).pipe(Effect.provide(Sidecars.layer(optionsIn(folder))), Effect.provide(ComputeState.layer))
    })
  )

  it.effect("measures the folder of an audited compute", () =>
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

describe("the certificate of a compute, as the corridor meets it", () => {
  const asking = { ...emptySpec, features: new Set(["tls_experimental"]) }
  it.effect("is placed and watched only when there is one and the spec asks for it", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const tls = { keyPath: path.join(folder, "k"), certPath: path.join(folder, "c") }
      const put = () => {
        const made = selfSigned("ec-p256")
        fs.writeFileSync(tls.certPath, made.certificate)
        fs.writeFileSync(tls.keyPath, made.key)
        return made
      }
      put()
      yield* Effect.flatMap(Certificates, ({ place }) => place(asking)).pipe(Effect.provide(Certificates.layer(null)))
      yield* Effect.gen(function* () {
        const { place, watch } = yield* Certificates
        yield* place(emptySpec)
        assert.isFalse(fs.existsSync(path.join(folder, "server.crt")))
        let changes = 0
        yield* Effect.forkChild(watch(Effect.sync(() => void changes++)).run, { startImmediately: true })
        yield* place(asking)
        assert.isTrue(fs.existsSync(path.join(folder, "server.crt")))
        const renewed = put()
        yield* passes("the change", () => changes === 1)
        assert.strictEqual(fs.readFileSync(path.join(folder, "server.key"), "utf8"), renewed.key)
      }).pipe(Effect.provide(Certificates.layer({ tls, pgdata: folder, runAs: null })))
    })
  )

  it("is in postgresql.conf under the same condition", () => {
    for (const storage of [{ _tag: "Neon" } as const, localFacts.storage]) {
      const facts = { ...localFacts, storage, certificate: true }
      assert.include(
        postgresConf(asking, facts, "open"),
        "\nssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n"
      )
      assert.notMatch(postgresConf(emptySpec, facts, "open"), /^ssl/m)
      assert.notMatch(postgresConf(asking, { ...facts, certificate: false }, "open"), /^ssl/m)
    }
  })
})
