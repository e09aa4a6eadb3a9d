/**
 * An OpenTelemetry collector on a real socket that remembers what it was sent.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { once } from "node:events"
import * as http from "node:http"
import type { AddressInfo } from "node:net"

interface SentSpan {
  readonly name: string
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly traceState?: string
  readonly attributes: ReadonlyArray<{ readonly key: string; readonly value: Readonly<Record<string, unknown>> }>
}

export interface Collector {
  readonly endpoint: string
  readonly spans: () => ReadonlyArray<SentSpan>
  /** Everything it was sent, as it came: requests' lines, headers and bodies. */
  readonly raw: () => string
}

/** `answer` `null`: takes requests and never answers, as one that hangs. */
export const collector = (answer: number | null = 200): Effect.Effect<Collector, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const bodies: Array<string> = []
      const heads: Array<string> = []
      const server = http
        .createServer((request, response) => {
          const chunks: Array<Buffer> = []
          request
            .on("data", (chunk: Buffer) => chunks.push(chunk))
            .on("end", () => {
              heads.push(`${request.method} ${request.url} ${JSON.stringify(request.headers)}`)
              bodies.push(Buffer.concat(chunks).toString("utf8"))
              if (answer !== null) response.writeHead(answer, { "content-type": "application/json" }).end("{}")
            })
        })
        .listen(0, "127.0.0.1")
      await once(server, "listening")
      return { server, bodies, heads }
    }),
    ({ server }) =>
      Effect.sync(() => {
        server.closeAllConnections()
        server.close()
      })
  ).pipe(
    Effect.map(({ bodies, heads, server }) => ({
      endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      spans: () =>
        bodies.flatMap((body) => {
          const sent = JSON.parse(body) as {
            resourceSpans: ReadonlyArray<{ scopeSpans: ReadonlyArray<{ spans: ReadonlyArray<SentSpan> }> }>
          }
          return sent.resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(({ spans }) => spans))
        }),
      raw: () => [...heads, ...bodies].join("\n")
    }))
  )
