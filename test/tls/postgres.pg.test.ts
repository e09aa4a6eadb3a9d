/**
 * A real Postgres takes up a renewed certificate by a reload, under a session that stays, and the first one with the
 * spec that asks for it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as crypto from "node:crypto"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import * as tlsModule from "node:tls"
import { sslLines } from "../../src/postgres/postgresqlConf.ts"
import { firstCertificate, placePair } from "../../src/tls/Certificates.ts"
import { awaitPair } from "../../src/tls/pair.ts"
import { edSigner, tokenOf } from "../http/tokens.ts"
import { launch, localArguments, place } from "../program/harness.ts"
import { selfSigned } from "../support/certificates.ts"
import { least } from "../support/fixtures.ts"
import { freePort, runAs, startPostgres } from "../support/postgres.ts"
import { eventually } from "../support/waiting.ts"

/** The certificate that Postgres shows to who asks for TLS. */
const shown = async (port: number): Promise<string> => {
  const raw = net.connect(port, "127.0.0.1")
  await once(raw, "connect")
  raw.write(Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]))
  const [answer] = (await once(raw, "data")) as [Buffer]
  if (answer.toString() !== "S") throw new Error("Postgres speaks no TLS")
  const secure = tlsModule.connect({ socket: raw, rejectUnauthorized: false })
  await once(secure, "secureConnect")
  const { raw: der } = secure.getPeerCertificate()
  secure.destroy()
  return new crypto.X509Certificate(der).fingerprint256
}
const fingerprint = (pem: string) => new crypto.X509Certificate(pem).fingerprint256

describe("Postgres with the compute's certificate", () => {
  it.live(
    "shows it, and the next one after a reload",
    () =>
      Effect.gen(function* () {
        const postgres = yield* startPostgres()
        const options = {
          tls: { keyPath: path.join(postgres.folder, "tls.key"), certPath: path.join(postgres.folder, "tls.crt") },
          pgdata: postgres.pgdata,
          runAs
        }
        const put = ({ certificate, key }: { readonly certificate: string; readonly key: string }) => {
          fs.writeFileSync(options.tls.certPath, certificate)
          fs.writeFileSync(options.tls.keyPath, key)
        }
        const [first, second] = [selfSigned("rsa"), selfSigned("ec-p256")]
        put(first)
        yield* firstCertificate(options)
        const session = yield* postgres.connect()
        fs.appendFileSync(path.join(postgres.pgdata, "postgresql.conf"), `${sslLines.join("\n")}\n`)
        yield* session.simple("select pg_reload_conf()")
        yield* eventually(
          "the first",
          async () => (await shown(postgres.port).catch(() => null)) === fingerprint(first.certificate),
          postgres.log
        )
        put(second)
        yield* placePair(yield* awaitPair(options.tls), options)
        yield* session.simple("select pg_reload_conf()")
        yield* eventually(
          "the second",
          async () => (await shown(postgres.port).catch(() => null)) === fingerprint(second.certificate),
          postgres.log
        )
        assert.deepStrictEqual(yield* session.rows("select 1"), [["1"]])
      }),
    60_000
  )

  it.live(
    "shows it once a later spec asks for TLS",
    () =>
      Effect.gen(function* () {
        const at = yield* place
        const tls = { key_path: path.join(at.directory, "tls.key"), cert_path: path.join(at.directory, "tls.crt") }
        const made = selfSigned("ec-p256")
        fs.writeFileSync(tls.cert_path, made.certificate)
        fs.writeFileSync(tls.key_path, made.key)
        const config = path.join(at.directory, "config.json")
        const signer = edSigner()
        const jwk = { ...signer.jwk, use: "sig", alg: "EdDSA" }
        fs.writeFileSync(config, JSON.stringify({ spec: least, compute_ctl_config: { jwks: { keys: [jwk] }, tls } }))
        const later: Readonly<Record<string, string>> = { "-S": "-c", "--http-port": "--external-http-port" }
        const more = ["--internal-http-port", String(yield* freePort), "-i", "compute-1"]
        const args = localArguments(at, least, more)
        const given = args.map((arg, index) => (args[index - 1] === "-S" ? config : (later[arg] ?? arg)))
        const program = yield* launch(given, at.httpPort)
        yield* Effect.promise(() => program.prints(/from init to running/))
        const without = yield* Effect.promise(() => shown(at.port).catch(String))
        assert.include(without, "speaks no TLS")
        const authorization = `Bearer ${tokenOf(signer, { compute_id: "compute-1" })}`
        const answer = yield* Effect.promise(() =>
          program.http("/configure", {
            method: "POST",
            headers: { "content-type": "application/json", authorization },
            body: JSON.stringify({ spec: { ...least, features: ["tls_experimental"] } })
          })
        )
        assert.strictEqual(answer.status, 200, answer.text)
        yield* eventually(
          "the certificate",
          async () => (await shown(at.port).catch(() => null)) === fingerprint(made.certificate),
          program.output
        )
      }),
    60_000
  )
})
