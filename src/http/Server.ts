/**
 * The HTTP endpoint: one port or two, until the scope closes. Ports listen first and answer the probes, `/status` and
 * `/metrics` from then on; the routes are made by `serve`, and whoever asks for one before that is held, not refused.
 *
 * The external port speaks to the network, with tokens when there is a verifier. The internal port has no tokens and
 * so is bound to loopback alone. At the end in-flight requests have two seconds.
 */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as HttpRouter from "effect/http/HttpRouter"
import type * as HttpServer from "effect/http/HttpServer"
import * as Layer from "effect/Layer"
import type * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as FS from "node:fs/promises"
import { createServer, type Server } from "node:http"
import type { Server as SecureServer } from "node:https"
import type { ComputeHooks } from "../compute/ComputeHooks.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { type Failure, FileFailed, ListenFailed, type SpecInvalid } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import type { PostgresInstall } from "../postgres/PostgresInstall.ts"
import type { ApiVersion, ParsedSpec } from "../spec/ParsedSpec.ts"
import { bodyOf, refusal } from "./answer.ts"
import { externalApi, internalApi, wholeApi } from "./Api.ts"
import { Auth } from "./Auth.ts"
import { controlHandlers, insideHandlers, openHandlers } from "./handlers.ts"
import { envelope, makeTraffic, type Traffic } from "./middleware.ts"
import { type Quick, quickAnswers } from "./probes.ts"
import { type Routes, routeTable } from "./routes.ts"
import type { Verifier } from "./Verifier.ts"

// ---------------------------------------------------------------------------------------------------------------------
// What the HTTP endpoint is told by the program that opens it.
// ---------------------------------------------------------------------------------------------------------------------

export interface EndpointOptions {
  readonly apiVersion: ApiVersion
  /** Where the external port listens. `::` is every address of both families. */
  readonly host: string
  /** With 0 the system chooses a free one. */
  readonly externalPort: number
  /** Listens on loopback only, without tokens. `null`: the external port serves everything, under its own rules. */
  readonly internalPort: number | null
  /** Files of the external port's certificate, read again when they change. `null`: plain HTTP. */
  readonly tls: { readonly certPath: string; readonly keyPath: string } | null
  /** Whether `/configure` may bring a spec: not when the spec was given at the start (2024). */
  readonly liveConfigAllowed: boolean
  readonly parseSpec: (input: unknown) => Result.Result<ParsedSpec, SpecInvalid>
  /** Looks for the spec where it came from. A spec of `null`: there is none for us any more. `null`: it came from nowhere. */
  readonly refetch: Effect.Effect<ParsedSpec | null, Failure> | null
  readonly computeId: string
  /** Checks a token's signature and times. `null`: no tokens are asked for. */
  readonly verifier: Verifier | null
  /** Label of `compute_ctl_up`. */
  readonly buildTag: string
  readonly version: string
  /** `null` until Postgres was looked for: the port opens before that. */
  readonly install: Effect.Effect<PostgresInstall["Service"] | null>
  /** What is around Postgres; `null` until Postgres was looked for. */
  readonly hooks: Effect.Effect<ComputeHooks["Service"] | null>
  /** Prometheus text of others; read at every `/metrics`, so it has to be at hand. */
  readonly otherMetrics: () => string
  /** Where Postgres's communicator answers for its metrics. */
  readonly communicatorSocket: string
  /** How long a caller may wait for the end of an order; the order itself goes on. */
  readonly patience: { readonly configure: Duration.Duration; readonly terminate: Duration.Duration }
}

// ---------------------------------------------------------------------------------------------------------------------
// Opens ports: plain or with TLS, on the addresses they are for, with limits against slow and many peers.
// ---------------------------------------------------------------------------------------------------------------------

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

const opened = (
  listening: readonly [Listening, ...ReadonlyArray<Listening>],
  actors: ReadonlyArray<Actor>
): Opened => ({ listening, port: listening[0].port, actors })

const grace = Duration.seconds(2)
const loopbacks = ["127.0.0.1", "::1"] as const

/** A peer that sends its request in drops is cut off; connections are bounded, with room for a thousand who watch. */
const timeLimits = {
  headersTimeout: 10_000,
  requestTimeout: 30_000,
  keepAliveTimeout: 5_000,
  connectionsCheckingInterval: 5_000
}
const maxConnections = 4096
/** Those who come at once, before the first is accepted. */
const backlog = 1024

type Answer = Parameters<Quick>

/** One connection can send many requests without waiting for answers. */
const mostHeld = maxConnections
const tooMany = refusal(503, "not_open", "too many requests wait for the routes to be made", "ask again in a second")

/** Holds what must wait for the routes, for as long as the peer does. What `quick` answers never goes further. */
const gate = (raw: Server, quick: Quick): (() => void) => {
  const held: Array<Answer> = []
  let pass = (...answer: Answer): void => {
    if (held.length < mostHeld) return void held.push(answer)
    const [, response] = answer
    response
      .writeHead(503, { "content-type": "application/json", "retry-after": "1" })
      .end(JSON.stringify(bodyOf(tooMany)))
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
  Effect.gen(function* () {
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
export const listenInternal = Effect.fnUntraced(function* (port: number, quick: Quick) {
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
  Effect.tryPromise({
    try: () => FS.readFile(path),
    catch: (cause) => new FileFailed({ operation: "read", path, cause })
  })

const readTls = ({ certPath, keyPath }: TlsFiles) => Effect.all({ cert: readFile(certPath), key: readFile(keyPath) })

const reloadEvery = Duration.seconds(5)

/** A new certificate is taken up as soon as both files are whole; until then the old one serves. */
const keepCertificate = (
  server: SecureServer,
  files: TlsFiles,
  first: Effect.Success<ReturnType<typeof readTls>>
): Actor => ({
  name: "certificate keeper",
  policy: "permanent",
  run: Effect.gen(function* () {
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
          }).pipe(
            Effect.andThen(
              Effect.sync(() => {
                current = next
                told = false
              })
            ),
            Effect.andThen(Effect.logInfo("the HTTP API has a new certificate"))
          )
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
export const listenExternal = Effect.fnUntraced(function* ({ externalPort, host, tls }: EndpointOptions, quick: Quick) {
  // Without a host Node listens on every address of both families, or of IPv4 alone where IPv6 is missing. Saying
  // `::` would mean the same, and cost ten milliseconds for a look-up of it.
  const on = host === "::" ? {} : { host }
  if (tls === null)
    return opened([yield* listen("the HTTP API", createServer(timeLimits), on, externalPort, quick)], [])
  const refuse = (cause: unknown) => new ListenFailed({ what: "the HTTP API with TLS", port: externalPort, cause })
  const files = yield* Effect.mapError(readTls(tls), refuse)
  // Only who asks for TLS pays for it.
  const { createServer: createSecure } = yield* Effect.promise(() => import("node:https"))
  const raw = yield* Effect.try({
    try: () => createSecure({ ...timeLimits, ...files, minVersion: "TLSv1.2" }),
    catch: refuse
  })
  return opened([yield* listen("the HTTP API", raw, on, externalPort, quick)], [keepCertificate(raw, tls, files)])
})

// ---------------------------------------------------------------------------------------------------------------------

export const defaultPatience = { configure: Duration.minutes(10), terminate: Duration.minutes(5) } as const

/** `/Status` is not `/status`: what a request is counted and guarded as must be what it reaches. */
const exact = { caseSensitive: true, ignoreDuplicateSlashes: false, ignoreTrailingSlash: false } as const

const exactRouter = Layer.provide(HttpRouter.layer, Layer.succeed(HttpRouter.RouterConfig, exact))

/** Makes the routes, and lets in who has been waiting for them. */
const serve = Effect.fnUntraced(function* <E, R>(
  { listening }: Opened,
  api: Routes,
  routes: Layer.Layer<never, E, R>,
  traffic: Traffic
) {
  const built = yield* Layer.build(Layer.provideMerge(routes, Layer.fresh(exactRouter)))
  const router = yield* Effect.provide(HttpRouter.HttpRouter, built)
  const app = envelope(router.asHttpEffect(), routeTable(api), traffic)
  for (const { open, server } of listening) {
    yield* server.serve(app)
    open()
  }
})

export const endpoint = Effect.fn("Http.endpoint")(function* (options: EndpointOptions) {
  const { computeId, apiVersion, internalPort } = options
  const state = yield* ComputeState
  const traffic = makeTraffic()
  const verifier = apiVersion === "head" ? options.verifier : null
  const external = yield* listenExternal(options, yield* quickAnswers(options, state, traffic, { verifier }))
  const internal =
    internalPort === null
      ? null
      : yield* listenInternal(internalPort, yield* quickAnswers(options, state, traffic, null))

  const serveAll = Effect.gen(function* () {
    const guarded = Auth.layer({ verify: verifier?.verify ?? null, computeId })
    const unguarded = Auth.layer({ verify: null, computeId })
    const open = openHandlers(options, traffic)
    const control = Layer.provide(controlHandlers(options), guarded)
    const inside = Layer.provide(insideHandlers(options), internal === null ? guarded : unguarded)
    const services = NodeHttpServer.layerHttpServices

    if (internal === null) {
      yield* serve(
        external,
        wholeApi(),
        Layer.provide(HttpApiBuilder.layer(wholeApi()), [open, control, inside, services]),
        traffic
      )
    } else {
      yield* serve(
        external,
        externalApi(),
        Layer.provide(HttpApiBuilder.layer(externalApi()), [open, control, services]),
        traffic
      )
      yield* serve(
        internal,
        internalApi(),
        Layer.provide(HttpApiBuilder.layer(internalApi()), [open, inside, services]),
        traffic
      )
    }
  })
  return {
    port: external.port,
    /** `null` when the external port serves everything. */
    internalPort: internal?.port ?? null,
    /** To be supervised: what has to be done while it listens. */
    actors: external.actors,
    /** Makes the routes, once. It takes the event loop for a while: best while something else is waited for. */
    serve: serveAll.pipe(Scope.provide(yield* Effect.scope), Effect.withSpan("Http.serve"))
  }
})
