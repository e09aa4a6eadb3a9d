/**
 * The routes about what runs with Postgres: its communicator's metrics, the local file cache, extensions on demand, and
 * a replica's promotion. They only ask the hooks; before Postgres was located there are none, and the answer is 412.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as FS from "node:fs/promises"
import * as Http from "node:http"
import * as OS from "node:os"
import * as Path from "node:path"
import type { ComputeHooks } from "../compute/ComputeHooks.ts"
import { promotionBody } from "../compute/promotion.ts"
import type { Promotions } from "../compute/Promotions.ts"
import type { Failure } from "../errors/Failure.ts"
import { parseLsn } from "../spec/identifiers.ts"
import { maxSpecBytes } from "../spec/json.ts"
import { answered, answeredWithin, json, readBody } from "./answer.ts"
import { PromoteBody } from "./bodies.ts"
import type { ServerOptions } from "./options.ts"
import { type Refusal, refusal, refusalOf } from "./refusals.ts"

const absent = refusal(
  503,
  "communicator_absent",
  "Postgres's communicator does not answer",
  "only Neon's Postgres has one"
)

/** What the system allows for a socket's path, with its ending zero. */
const maxPath = 100

/** More than this is not a page of metrics. */
const maxBytes = 8 * 1024 * 1024

/** A socket path that is too long for the system is reached by a link in the temporary folder, gone afterwards. */
const shortened = (socket: string) =>
  Buffer.byteLength(socket) < maxPath
    ? Effect.succeed(socket)
    : Effect.acquireRelease(
        Effect.tryPromise(() => FS.mkdtemp(Path.join(OS.tmpdir(), "communicator-"))),
        (folder) => Effect.promise(() => FS.rm(folder, { recursive: true, force: true }))
      ).pipe(
        Effect.flatMap((folder) => {
          const link = Path.join(folder, "socket")
          return Effect.as(
            Effect.tryPromise(() => FS.symlink(socket, link)),
            link
          )
        }),
        Effect.mapError((): Refusal => absent)
      )

const fetchMetrics = (socketPath: string) =>
  Effect.callback<HttpServerResponse.HttpServerResponse, Refusal>((resume) => {
    const refuse = () => resume(Effect.fail(absent))
    const request = Http.get({ socketPath, path: "/autoscaling_metrics", agent: false }, (answer) => {
      const chunks: Array<Buffer> = []
      let bytes = 0
      answer
        .on("data", (chunk: Buffer) => {
          bytes += chunk.length
          if (bytes > maxBytes) request.destroy()
          else chunks.push(chunk)
        })
        .on("error", refuse)
        .on("close", refuse)
        .on("end", () =>
          resume(
            Effect.succeed(
              HttpServerResponse.uint8Array(Buffer.concat(chunks), {
                status: answer.statusCode ?? 502,
                contentType: answer.headers["content-type"] ?? "text/plain"
              })
            )
          )
        )
    }).on("error", refuse)
    return Effect.sync(() => request.destroy())
  })

/**
 * Metrics that Postgres's communicator answers on a Unix socket in PGDATA, passed on as they are. It does not exist in
 * every Postgres; without it the answer is 503.
 */
export const communicatorMetrics = (socket: string) =>
  Effect.scoped(Effect.flatMap(shortened(socket), fetchMetrics)).pipe(
    answeredWithin("the communicator's answer", Duration.seconds(5))
  )

const tooEarly = refusal(412, "too_early", "Postgres was not looked for yet", "GET /status says where the start is")
const notAnLsn = refusal(
  400,
  "lsn_malformed",
  "wal_flush_lsn: expected an LSN such as 0/16B9188",
  "send where the primary's WAL ends"
)

const accepted = HttpServerResponse.empty({ status: 202 })
const done = HttpServerResponse.empty({ status: 200 })

export const auxiliaryRoutes = (options: ServerOptions, promotions: Promotions["Service"]) => {
  const { apiVersion } = options
  const located = Effect.flatMap(options.hooks, (hooks) =>
    hooks === null ? Effect.fail(tooEarly) : Effect.succeed(hooks)
  )
  const withHooks = <A>(answer: (hooks: ComputeHooks["Service"]) => Effect.Effect<A, Failure | Refusal>) =>
    answered(Effect.flatMap(located, answer))

  /** In the reference an unknown list of extensions is 409, a store that is not configured 412. */
  const extensionRefusal = (failure: Failure): Refusal => {
    const refused = refusalOf(failure)
    const noList = apiVersion === "head" && failure._tag === "ExtensionsUnavailable" && failure.missing === "list"
    return noList ? { ...refused, status: 409 } : refused
  }

  /** The reference of 2024 looks at the last part of a path alone, the later one at all of it. */
  const extensionAsked = (filename: string): string =>
    apiVersion === "2024" ? (filename.split("/").at(-1) ?? filename) : filename

  const promote = Effect.gen(function* () {
    const { spec, wal_flush_lsn } = yield* readBody(PromoteBody, apiVersion, "invalid request body", maxSpecBytes)
    const flushLsn = yield* Effect.mapError(Effect.fromOption(parseLsn(wal_flush_lsn)), () => notAnLsn)
    const parsed = yield* Effect.fromResult(options.parseSpec(spec))
    const outcome = yield* promotions
      .promote({ spec: parsed, flushLsn })
      .pipe(answeredWithin("the promotion", options.timeouts.configure))
    return json(promotionBody(outcome), outcome._tag === "Completed" ? 200 : 500)
  })

  return {
    prewarm: ({ query }: { readonly query: { readonly from_endpoint?: string } }) =>
      withHooks(({ fileCache }) => Effect.as(fileCache.prewarm(query.from_endpoint ?? null), accepted)),
    prewarmState: () => withHooks(({ fileCache }) => Effect.map(fileCache.prewarmState, (state) => json(state))),
    cancelPrewarm: () => withHooks(({ fileCache }) => Effect.as(fileCache.cancelPrewarm, accepted)),
    offload: () => withHooks(({ fileCache }) => Effect.as(fileCache.offload, accepted)),
    offloadState: () => withHooks(({ fileCache }) => Effect.map(fileCache.offloadState, (state) => json(state))),
    promote: () => answered(promote),
    fetchExtension: ({
      params,
      query
    }: {
      readonly params: { readonly filename: string }
      readonly query: { readonly is_library?: "true" | "false" }
    }) =>
      withHooks((hooks) =>
        hooks
          .fetchExtension(extensionAsked(params.filename), query.is_library === "true")
          .pipe(
            Effect.mapError(extensionRefusal),
            Effect.as(apiVersion === "2024" ? HttpServerResponse.text("OK") : done)
          )
      )
  }
}
