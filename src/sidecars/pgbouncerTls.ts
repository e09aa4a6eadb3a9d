/**
 * Whether pgbouncer shows the certificate that its configuration names. One that it cannot use is an error in its log
 * and nowhere else: it goes on with what it had before, and could not start again.
 */
import * as PgProtocol from "@effect/sql-pg/PgProtocol"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { X509Certificate } from "node:crypto"
import * as fs from "node:fs"
import * as net from "node:net"
import * as tls from "node:tls"

const answerWithin = Duration.seconds(3)

/** `none`: no TLS is spoken there. `null`: nobody could be asked, or not without a certificate of our own. */
type Shown = Buffer | "none" | null

const shownAt = (host: string, port: number): Effect.Effect<Shown> =>
  Effect.callback<Shown>((resume) => {
    const socket = net.connect({ host, port })
    const end = (shown: Shown) => {
      socket.destroy()
      resume(Effect.succeed(shown))
    }
    socket.once("error", () => end(null))
    socket.once("close", () => end(null))
    socket.once("connect", () => socket.write(PgProtocol.encodeSslRequest()))
    socket.once("data", ([answer]) => {
      if (answer !== "S".charCodeAt(0)) return end("none")
      const secure = tls.connect({ socket, rejectUnauthorized: false })
      secure.once("error", () => end(null))
      secure.once("secureConnect", () => end(secure.getPeerCertificate().raw ?? null))
    })
    return Effect.sync(() => socket.destroy())
  }).pipe(
    Effect.timeoutOption(answerWithin),
    Effect.map((found) => (found._tag === "Some" ? found.value : null))
  )

/** The first of the file; `null`: it is none, or not for us to read. */
const certificateIn = (file: string): Buffer | null => {
  try {
    return new X509Certificate(fs.readFileSync(file)).raw
  } catch {
    return null
  }
}

/** What is wrong; `null`: nothing that could be seen. `setting` has what pgbouncer says it runs with. */
export const tlsFault = Effect.fnUntraced(function* (setting: (name: string) => string) {
  const [address = ""] = setting("listen_addr").split(",")
  const mode = setting("client_tls_sslmode")
  // Over a socket of Unix there is no TLS.
  if (address.trim() === "" || mode === "" || mode === "disable") return null
  const shown = yield* shownAt(address.trim() === "*" ? "127.0.0.1" : address.trim(), Number(setting("listen_port")))
  if (shown === null) return null
  if (shown === "none") return `it speaks no TLS, although client_tls_sslmode is ${mode}`
  const wanted = certificateIn(setting("client_tls_cert_file"))
  return wanted === null || wanted.equals(shown) ? null : "the certificate it shows is not that of client_tls_cert_file"
})
