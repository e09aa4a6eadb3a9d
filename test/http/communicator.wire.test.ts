/**
 * Metrics of Postgres's communicator, over a Unix socket: passed on, 503 when it is missing, 504 when it hangs.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { once } from "node:events"
import * as fs from "node:fs"
import { createServer, type RequestListener } from "node:http"
import * as os from "node:os"
import * as path from "node:path"
import { temporaryFolder } from "../support/postgres.ts"
import { ask, inMemoryServices, open, refusedOf } from "./testServer.ts"

/** Listens by a relative name, because a long absolute one is what the tests are about. */
const communicator = (socket: string, answer: RequestListener) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const server = createServer(answer)
      const link = fs.mkdtempSync(path.join(os.tmpdir(), "c-"))
      fs.symlinkSync(path.dirname(socket), path.join(link, "d"))
      server.listen(path.join(link, "d", path.basename(socket)))
      await once(server, "listening")
      return { server, link }
    }),
    ({ link, server }) =>
      Effect.sync(() => {
        server.closeAllConnections()
        server.close()
        fs.rmSync(link, { recursive: true })
      })
  )

describe("GET /autoscaling_metrics", () => {
  it.live("passes on status, type and body, also when the path is longer than the system allows", () =>
    Effect.gen(function* () {
      for (const depth of [0, 120]) {
        const folder = path.join(yield* temporaryFolder, "x".repeat(depth))
        fs.mkdirSync(folder, { recursive: true })
        const socket = path.join(folder, "neon-communicator.socket")
        yield* communicator(socket, (request, response) => {
          response
            .writeHead(request.url === "/autoscaling_metrics" ? 200 : 404, {
              "content-type": "text/plain; version=0.0.4"
            })
            .end("lfc_hits 7\n")
        })
        const { port } = yield* open({ communicatorSocket: socket })
        const { status, text, type } = yield* ask(port, "GET", "/autoscaling_metrics")
        assert.deepStrictEqual([status, type, text], [200, "text/plain; version=0.0.4", "lfc_hits 7\n"], String(depth))
      }
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live(
    "is 503 when there is none or it hangs up, and 504 when it says nothing",
    () =>
      Effect.gen(function* () {
        const absent = yield* open()
        assert.strictEqual(
          refusedOf(yield* ask(absent.port, "GET", "/autoscaling_metrics")).code,
          "communicator_absent"
        )
        const socket = path.join(yield* temporaryFolder, "socket")
        let hang = false
        yield* communicator(socket, (request) => {
          if (!hang) request.socket.destroy()
        })
        const { port } = yield* open({ communicatorSocket: socket })
        assert.strictEqual((yield* ask(port, "GET", "/autoscaling_metrics")).status, 503)
        hang = true
        assert.strictEqual((yield* ask(port, "GET", "/autoscaling_metrics")).status, 504)
      }).pipe(Effect.provide(inMemoryServices)),
    20_000
  )
})
