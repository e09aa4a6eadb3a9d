/**
 * Opens ports: plain or with TLS, on the addresses they are for, with limits against slow and many peers.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as HttpServer from "effect/http/HttpServer"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as FS from "node:fs/promises"
import { createServer, type Server } from "node:http"
import type { Server as SecureServer } from "node:https"
import { FileFailed, ListenFailed } from "../errors/Failure.ts"
import { causesOf } from "../errors/explain.ts"
import { bodyOf, refusal } from "./httpAnswer.ts"
import type { Actor } from "../compute/Supervisor.ts"
import type { EndpointOptions } from "./options.ts"
import type { Quick } from "./probes.ts"

/** A port that listens. It answers what `quick` answers; all else waits until it is opened. */
export interface Listening {
  readonly server: HttpServer.HttpServer["Service"]
  readonly port: number
  /** To be called once `server` serves. */
  readonly open: () => void
}

export interface Opened {
  /** More than one for the several addresses of one port. */
  readonly listening: ReadonlyArray<Listening>
  readonly port: number
  /** To be supervised while it listens. */
  readonly actors: ReadonlyArray<Actor>
}

const opened = (listening: readonly [Listening, ...ReadonlyArray<Listening>], actors: ReadonlyArray<Actor>): Opened =>
  ({ listening, port: listening[0].port, actors })

const grace = Duration.seconds(2)
const loopbacks = ["127.0.0.1", "::1"] as const

/** A peer that sends its request in drops is cut off; connections are bounded, with room for a thousand who watch. */
const timeLimits = { headersTimeout: 10_000, requestTimeout: 30_000, keepAliveTimeout: 5_000, connectionsCheckingInterval: 5_000 }
const maxConnections = 4096
/** Those who come at once, before the first is accepted. */
const backlog = 1024

type Answer = Parameters<Quick>

/** One connection can send many requests without waiting for answers. */
const mostHeld = maxConnections
const tooMany = refusal(503, "not_open", "too many requests wait for the routes to be made", "ask again in a second")

/** Holds what must wait for the routes, for as long as the peer does. What `quick` answers never goes further. */
const gate = (raw: Server, quick: Quick): () => void => {
  const held: Array<Answer> = []
  let pass = (...answer: Answer): void => {
    if (held.length < mostHeld) return void held.push(answer)
    const [, response] = answer
    response.writeHead(503, { "content-type": "application/json", "retry-after": "1" }).end(JSON.stringify(bodyOf(tooMany)))
  }
  const look = (...answer: Answer): void => {
    if (!quick(...answer)) pass(...answer)
  }
  raw.on("request", look)
  return () => {
    const slow = raw.listeners("request").filter((listener) => listener !== look)
    for (const listener of slow) raw.removeListener("request", listener as () => void)
    pass = (...answer) => {
      for (const listener of slow) listener.call(raw, ...answer)
    }
    for (const answer of held.splice(0)) if (!answer[1].destroyed) pass(...answer)
  }
}

const listen = (what: string, raw: Server, on: { readonly host?: string }, port: number, quick: Quick) =>
  Effect.gen(function*() {
    raw.maxConnections = maxConnections
    const open = gate(raw, quick)
    // An accept that failed (no file descriptors left) is an event here, and without a listener it would end the process.
    raw.on("error", () => undefined)
    const server = yield* NodeHttpServer.make(() => raw, { ...on, port, backlog, gracefulShutdownTimeout: grace })
    // Runs after the grace and before the wait for the last connection, so that no peer can make the end wait.
    yield* Effect.addFinalizer(() => Effect.sync(() => raw.closeAllConnections()))
    return { server, open, port: "port" in server.address ? server.address.port : port } satisfies Listening
  }).pipe(Effect.mapError(({ cause }) => new ListenFailed({ what, port, cause })))

const codeOf = (error: ListenFailed): unknown =>
  typeof error.cause === "object" && error.cause !== null && "code" in error.cause ? error.cause.code : undefined

/** Is this family of addresses missing on this machine? */
const noFamily = (error: ListenFailed): boolean => ["EAFNOSUPPORT", "EADDRNOTAVAIL"].includes(String(codeOf(error)))

/** Both loopback addresses, on one port: what `localhost` means is the caller's resolver's choice. */
export const listenInternal = Effect.fnUntraced(function*(port: number, quick: Quick) {
  const what = "the internal HTTP API"
  const first = yield* listen(what, createServer(timeLimits), { host: loopbacks[0] }, port, quick)
  const second = yield* listen(what, createServer(timeLimits), { host: loopbacks[1] }, first.port, quick).pipe(
    Effect.map((server) => [server]),
    Effect.catchIf(noFamily, () => Effect.succeed([]))
  )
  return opened([first, ...second], [])
})

// -- the external port -----------------------------------------------------------------------------------------

type TlsFiles = NonNullable<EndpointOptions["tls"]>

const readFile = (path: string) =>
  Effect.tryPromise({ try: () => FS.readFile(path), catch: (cause) => new FileFailed({ operation: "read", path, cause }) })

const readTls = ({ certPath, keyPath }: TlsFiles) => Effect.all({ cert: readFile(certPath), key: readFile(keyPath) })

const reloadEvery = Duration.seconds(5)

/** A new certificate is taken up as soon as both files are whole; until then the old one serves. */
const keepCertificate = (server: SecureServer, files: TlsFiles, first: Effect.Success<ReturnType<typeof readTls>>): Actor => ({
  name: "certificate keeper",
  policy: "permanent",
  run: Effect.gen(function*() {
    let current = first
    let told = false
    while (true) {
      yield* Effect.sleep(reloadEvery)
      yield* readTls(files).pipe(
        Effect.flatMap((next) => {
          if (next.cert.equals(current.cert) && next.key.equals(current.key)) return Effect.void
          return Effect.try({
            try: () => server.setSecureContext({ ...next, minVersion: "TLSv1.2" }),
            catch: (cause) => new FileFailed({ operation: "use the certificate in", path: files.certPath, cause })
          }).pipe(Effect.andThen(Effect.sync(() => {
            current = next
            told = false
          })), Effect.andThen(Effect.logInfo("the HTTP API has a new certificate")))
        }),
        Effect.catch((failure) => {
          if (told) return Effect.void
          told = true
          return Effect.logWarning(`the HTTP API keeps its certificate: ${causesOf(failure).join(": ")}`)
        })
      )
    }
  })
})

/** With TLS, an actor comes with it. */
export const listenExternal = Effect.fnUntraced(function*({ externalPort, host, tls }: EndpointOptions, quick: Quick) {
  // Without a host Node listens on every address of both families, or of IPv4 alone where IPv6 is missing. Saying
  // `::` would mean the same, and cost ten milliseconds for a look-up of it.
  const on = host === "::" ? {} : { host }
  if (tls === null) return opened([yield* listen("the HTTP API", createServer(timeLimits), on, externalPort, quick)], [])
  const refuse = (cause: unknown) => new ListenFailed({ what: "the HTTP API with TLS", port: externalPort, cause })
  const files = yield* Effect.mapError(readTls(tls), refuse)
  // Only who asks for TLS pays for it.
  const { createServer: createSecure } = yield* Effect.promise(() => import("node:https"))
  const raw = yield* Effect.try({ try: () => createSecure({ ...timeLimits, ...files, minVersion: "TLSv1.2" }), catch: refuse })
  return opened([yield* listen("the HTTP API", raw, on, externalPort, quick)], [keepCertificate(raw, tls, files)])
})
