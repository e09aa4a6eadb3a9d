/**
 * A real Postgres takes up a renewed certificate by a reload, under a session that stays.
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
import { awaitPair, firstCertificate, placePair } from "../../src/tls/Certificates.ts"
import { selfSigned } from "../support/certificates.ts"
import { runAs, startPostgres } from "../support/postgres.ts"
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
})
