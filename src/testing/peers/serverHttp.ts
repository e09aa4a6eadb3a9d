/**
 * An HTTP server of an imitation peer. When the scope ends, every connection is destroyed and the port is free.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Http from "node:http"
import { ListenFailed } from "../../errors/Failure.ts"
import type { ListenAt } from "./serverWire.ts"

export interface HttpListening {
  readonly host: string
  readonly port: number
  /** Sooner than the scope ends. */
  readonly close: Effect.Effect<void>
}

export const serveHttp = (
  what: string,
  answer: Http.RequestListener,
  { host = "127.0.0.1", port = 0 }: ListenAt = {}
): Effect.Effect<HttpListening, ListenFailed, Scope.Scope> => {
  const server = Http.createServer(answer)
  const close = Effect.callback<void>((resume) => {
    if (!server.listening) return resume(Effect.void)
    server.close(() => resume(Effect.void))
    server.closeAllConnections()
  })
  const listen = Effect.callback<HttpListening, ListenFailed>((resume) => {
    server.once("error", (cause) => resume(Effect.fail(new ListenFailed({ what, port, cause }))))
    server.listen(port, host, () => {
      const address = server.address()
      const bound = address !== null && typeof address === "object" ? address.port : 0
      resume(Effect.succeed({ host, port: bound, close }))
    })
  })
  return Effect.acquireRelease(listen, () => close)
}
