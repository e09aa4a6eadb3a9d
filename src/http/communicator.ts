/**
 * Metrics that Postgres's communicator answers on a Unix socket in PGDATA, passed on as they are.
 *
 * It does not exist in every Postgres; without it the answer says so. A socket path that is too long for the system
 * is reached by a link in the temporary folder, which is gone afterwards.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as FS from "node:fs/promises"
import * as Http from "node:http"
import * as OS from "node:os"
import * as Path from "node:path"
import { type Refusal, refusal } from "./httpAnswer.ts"
import { within } from "./answer.ts"

const absent = refusal(503, "communicator_absent", "Postgres's communicator does not answer", "only Neon's Postgres has one")

/** What the system allows, with room for the ending zero. */
const maxPath = 100

/** More than this is not a page of metrics. */
const maxBytes = 8 * 1024 * 1024

const shortened = (socket: string) =>
  Buffer.byteLength(socket) < maxPath
    ? Effect.succeed(socket)
    : Effect.acquireRelease(
      Effect.tryPromise(() => FS.mkdtemp(Path.join(OS.tmpdir(), "communicator-"))),
      (folder) => Effect.promise(() => FS.rm(folder, { recursive: true, force: true }))
    ).pipe(Effect.flatMap((folder) => {
      const link = Path.join(folder, "socket")
      return Effect.as(Effect.tryPromise(() => FS.symlink(socket, link)), link)
    }), Effect.mapError((): Refusal => absent))

const fetchMetrics = (socketPath: string) =>
  Effect.callback<HttpServerResponse.HttpServerResponse, Refusal>((resume) => {
    const refuse = () => resume(Effect.fail(absent))
    const request = Http.get({ socketPath, path: "/autoscaling_metrics", agent: false }, (answer) => {
      const chunks: Array<Buffer> = []
      let bytes = 0
      answer.on("data", (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes > maxBytes) request.destroy()
        else chunks.push(chunk)
      }).on("error", refuse).on("close", refuse).on("end", () =>
        resume(Effect.succeed(HttpServerResponse.uint8Array(Buffer.concat(chunks), {
          status: answer.statusCode ?? 502,
          contentType: answer.headers["content-type"] ?? "text/plain"
        }))))
    }).on("error", refuse)
    return Effect.sync(() => request.destroy())
  })

export const communicatorMetrics = (socket: string) =>
  Effect.scoped(Effect.flatMap(shortened(socket), fetchMetrics)).pipe(within("the communicator's answer", Duration.seconds(5)))
