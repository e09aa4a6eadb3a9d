/**
 * The certificate service as the lifecycle uses it: for a compute that has a certificate and whose spec asks for it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { postgresConf } from "../../src/postgres/postgresqlConf.ts"
import { Certificates } from "../../src/tls/Certificates.ts"
import { selfSigned } from "../support/certificates.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { emptySpec, localFacts } from "../support/specs.ts"
import { passes } from "../support/virtualTime.ts"

describe("the certificate service", () => {
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

  it.effect("stays as it is when a later spec asks for it again: its renewals are the watch's", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const tls = { keyPath: path.join(folder, "k"), certPath: path.join(folder, "c") }
      const made = selfSigned("ec-p256")
      fs.writeFileSync(tls.certPath, made.certificate)
      fs.writeFileSync(tls.keyPath, made.key)
      yield* Effect.gen(function* () {
        const { place } = yield* Certificates
        yield* place(asking)
        fs.writeFileSync(tls.keyPath, selfSigned("rsa").key)
        // Half a renewal would be waited for.
        yield* place(asking)
        assert.strictEqual(fs.readFileSync(path.join(folder, "server.key"), "utf8"), made.key)
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
