/**
 * A process that may open few files: whatever strangers do with their connections, probes are answered, Postgres starts
 * and a spec is applied.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { once } from "node:events"
import * as fs from "node:fs"
import { connect, type Socket } from "node:net"
import { limitsFor } from "../../src/http/connections.ts"
import { eventually, launch, localArguments, place, rows, type Program } from "./harness.ts"

const onLinux = process.platform === "linux"
/** Elsewhere nothing tells a process its limit, and this many are assumed. */
const descriptors = onLinux ? 300 : 1024
const flood = descriptors + 100
/** As a container's limit does it: before the process exists, hard and soft. */
const limited = ["sh", "-c", `ulimit -n ${descriptors}; exec "$@"`, "sh"]

const spec = (roles: ReadonlyArray<string>) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: {
    roles: roles.map((name) => ({ name, encrypted_password: null, options: null })),
    databases: []
  }
})

/** Connections that send this and then nothing, whether they are let in or not. */
const strangers = (port: number, bytes: string) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const sockets: Array<Socket> = []
      for (let n = 0; n < flood; n++) {
        const socket = connect(port, "127.0.0.1")
        socket.on("error", () => undefined)
        socket.resume()
        sockets.push(socket)
        await Promise.race([once(socket, "connect"), once(socket, "close")])
        socket.write(bytes)
      }
      return sockets
    }),
    (sockets) => Effect.sync(() => sockets.forEach((socket) => socket.destroy()))
  )

const probesAnswer = (program: Program) =>
  Effect.promise(async () => {
    for (const path of ["/livez", "/readyz", "/status", "/metrics"])
      assert.strictEqual((await program.http(path, { headers: { connection: "close" } })).status, 200, path)
  })

/** Only Linux shows them. */
const openFiles = ({ pid }: Program): number => (onLinux ? fs.readdirSync(`/proc/${pid}/fd`).length : 0)

describe("with few descriptors", () => {
  it.live(
    `${flood} connections that say nothing, and as many that watch, leave room for probes and for Postgres`,
    () =>
      Effect.gen(function* () {
        const at = yield* place
        const args = localArguments(at, spec([]))
        const program = yield* launch(args, at.httpPort, {}, "none", limited)
        yield* eventually(
          "the port",
          () => program.http("/livez"),
          ({ status }) => status === 200
        )
        // They come while Postgres is being started.
        const silent = yield* strangers(at.httpPort, "GET /status HTTP/1.1\r\n")
        yield* Effect.promise(() => program.reaches("running"))
        yield* probesAnswer(program)
        assert.isAtMost(openFiles(program), descriptors)
        const { open, watching } = limitsFor(descriptors)
        const left = () => silent.filter((socket) => !socket.closed).length
        yield* eventually("the connections that there is room for", left, (count) => count <= open)

        const watchers = yield* strangers(at.httpPort, "GET /status/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        yield* probesAnswer(program)
        yield* eventually(
          "the watchers that there is room for",
          () => watchers.filter((socket) => !socket.closed).length,
          (count) => count === watching
        )
        const body = JSON.stringify({ spec: spec(["web"]) })
        const headers = { "content-type": "application/json" }
        const applied = yield* Effect.promise(() => program.http("/configure", { method: "POST", headers, body }))
        assert.strictEqual(applied.status, 200, applied.text)
        assert.deepStrictEqual(yield* rows(at, "select rolname from pg_roles where rolname = 'web'"), [["web"]])
        const { text } = yield* Effect.promise(() => program.http("/metrics"))
        assert.match(text, /^compute_ctl_http_connections_dropped_total\{reason="silent"\} [1-9]\d*$/m)
        assert.notMatch(program.output(), /EMFILE/)
        program.signal("SIGTERM")
        assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
      }),
    120_000
  )
})
