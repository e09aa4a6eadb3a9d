/**
 * The external port with TLS: its certificate, a new one without a restart, and the internal port that stays plain.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import { get } from "node:https"
import * as path from "node:path"
import { temporaryFolder } from "../support/postgres.ts"
import { ask, inMemoryServices, open } from "./testServer.ts"

const certificate = (folder: string, name: string) => {
  const [key, cert] = [path.join(folder, "key.pem"), path.join(folder, "cert.pem")]
  const args = `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=${name}`.split(" ")
  execFileSync("openssl", [...args, "-keyout", key, "-out", cert], { stdio: "ignore" })
}

/** The status code, and whose certificate it was. */
const askSecurely = (port: number) =>
  Effect.callback<{ readonly status: number | undefined; readonly name: string | undefined }>((resume) => {
    const request = get(
      { host: "127.0.0.1", port, path: "/livez", rejectUnauthorized: false, agent: false },
      (response) => {
        const { socket } = response
        const name =
          "getPeerCertificate" in socket && typeof socket.getPeerCertificate === "function"
            ? socket.getPeerCertificate().subject?.CN
            : undefined
        response.resume().on("end", () => resume(Effect.succeed({ status: response.statusCode, name })))
      }
    )
    request.on("error", () => resume(Effect.succeed({ status: undefined, name: undefined })))
    return Effect.sync(() => request.destroy())
  })

describe("TLS", () => {
  it.live(
    "serves the certificate of the files, and the next one once it is there; the internal port is plain",
    () =>
      Effect.gen(function* () {
        const folder = yield* temporaryFolder
        certificate(folder, "first")
        const tls = { certPath: path.join(folder, "cert.pem"), keyPath: path.join(folder, "key.pem") }
        const { internalPort, port } = yield* open({ tls, internalPort: 0 })
        assert.deepStrictEqual(yield* askSecurely(port), { status: 200, name: "first" })
        assert.strictEqual((yield* ask(internalPort ?? 0, "GET", "/livez")).status, 200)
        fs.writeFileSync(tls.certPath, "half a certificate")
        assert.strictEqual((yield* askSecurely(port)).name, "first")
        certificate(folder, "second")
        yield* askSecurely(port).pipe(
          Effect.flatMap(({ name }) => (name === "second" ? Effect.void : Effect.fail("not yet"))),
          Effect.retry({ times: 100_000 }),
          Effect.timeout("30 seconds")
        )
      }).pipe(Effect.provide(inMemoryServices)),
    60_000
  )

  it.live("without its files the port does not open, and says which", () =>
    Effect.gen(function* () {
      const refused = yield* Effect.flip(open({ tls: { certPath: "/nowhere/cert.pem", keyPath: "/nowhere/key.pem" } }))
      assert.strictEqual(refused._tag, "ListenFailed")
    }).pipe(Effect.provide(inMemoryServices))
  )
})
