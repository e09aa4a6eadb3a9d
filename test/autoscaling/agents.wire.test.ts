/**
 * Agents over real WebSockets, with nothing to manage: who gets in, who stays, and what no message can do.
 */
import { WebSocket } from "@effect/platform-node/NodeWS"
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as http from "node:http"
import { listen } from "../../src/autoscaling/VmMonitor.ts"
import { eventually } from "../support/waiting.ts"
import { connectAgent, dial, GiB, nothingManaged, startMonitor } from "./scriptedAgent.ts"

const healthy = Effect.fnUntraced(function* (agent: Effect.Success<ReturnType<typeof dial>>, id: number) {
  yield* agent.send("HealthCheck", id)
  assert.deepStrictEqual(yield* agent.next, { type: "HealthCheck", id })
})

const fetchStatus = (port: number, path: string, method = "GET") =>
  Effect.promise(async (signal) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method, signal })
    await response.text()
    return response.status
  }).pipe(Effect.timeout("10 seconds"))

/** What an upgrade request is answered; headers replace those of a good one. */
const upgradeStatus = (port: number, path: string, headers: Readonly<Record<string, string>> = {}) =>
  Effect.callback<number | undefined>((resume) => {
    const request = http.request({
      port,
      path,
      host: "127.0.0.1",
      headers: {
        connection: "Upgrade",
        upgrade: "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        ...headers
      }
    })
    const done = (response: http.IncomingMessage) => {
      resume(Effect.succeed(response.statusCode))
      response.socket.destroy()
    }
    request
      .on("error", () => undefined)
      .once("response", done)
      .once("upgrade", done)
      .end()
  }).pipe(Effect.timeout("10 seconds"))

describe("the server of the vm-monitor", () => {
  it.live("has one route, and a request that is refused disturbs no connection", () =>
    Effect.gen(function* () {
      const { port, counts } = yield* startMonitor()
      const agent = yield* connectAgent(port)
      assert.strictEqual(yield* fetchStatus(port, "/"), 404)
      assert.strictEqual(yield* fetchStatus(port, "/metrics"), 404)
      assert.strictEqual(yield* fetchStatus(port, "/monitor", "POST"), 405)
      assert.strictEqual(yield* fetchStatus(port, "/monitor"), 426)
      assert.strictEqual(yield* upgradeStatus(port, "/"), 404)
      assert.strictEqual(yield* upgradeStatus(port, "/monitor/"), 404)
      assert.strictEqual(yield* upgradeStatus(port, "/monitor", { "sec-websocket-version": "7" }), 400)
      assert.strictEqual(yield* upgradeStatus(port, "/monitor", { "sec-websocket-key": "short" }), 400)
      assert.strictEqual(yield* upgradeStatus(port, "/monitor", { upgrade: "h2c" }), 400)
      yield* healthy(agent, 2)
      assert.deepInclude(yield* counts, { connected: 1, connections: 1 })
      assert.strictEqual(yield* upgradeStatus(port, "/monitor?x=1"), 101)
      assert.deepInclude(yield* agent.closed, { code: 1001 })
    })
  )

  it.live("a burst of requests waits its turn: each is answered, in order, and none is refused", () =>
    Effect.gen(function* () {
      const { port } = yield* startMonitor()
      const agent = yield* connectAgent(port)
      const ids = Array.from({ length: 200 }, (_, n) => 2 + 2 * n)
      for (const id of ids) yield* agent.send("DownscaleRequest", id, { target: { cpu: 1, mem: GiB } })
      for (const id of ids) assert.deepInclude(yield* agent.next, { type: "DownscaleResult", Ok: true, id })
      yield* healthy(agent, 1000)
    })
  )

  it.live("offers nothing that was not asked for, not even compression that was", () =>
    Effect.gen(function* () {
      const { port } = yield* startMonitor()
      const socket = new WebSocket(`ws://127.0.0.1:${port}/monitor`, { perMessageDeflate: true })
      const headers = yield* Effect.callback<Record<string, unknown>>((resume) => {
        socket.once("upgrade", (response) => resume(Effect.succeed(response.headers)))
        socket.once("error", (cause) => resume(Effect.die(cause)))
      })
      socket.terminate()
      assert.notProperty(headers, "sec-websocket-extensions")
      assert.notProperty(headers, "sec-websocket-protocol")
    })
  )

  it.live("fails when its address is taken or is no address", () =>
    Effect.gen(function* () {
      const { port } = yield* startMonitor()
      const taken = yield* Effect.flip(
        listen({ ...nothingManaged, address: `127.0.0.1:${port}` }, Effect.succeed(null))
      )
      assert.strictEqual(taken.message, `cannot listen for the vm-monitor on port ${port}`)
      const nonsense = yield* Effect.flip(listen({ ...nothingManaged, address: "everywhere" }, Effect.succeed(null)))
      assert.match(String(nonsense.cause), /it is not host:port/)
    })
  )

  it.live("closes connections with a reason when it ends, and its port is free", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { port } = yield* Scope.provide(startMonitor(), scope)
      const agent = yield* connectAgent(port)
      const silent = yield* dial(port)
      assert.deepInclude(yield* agent.closed, { code: 1001 })
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* silent.closed, { code: 1001, reason: "the monitor is going away" })
      yield* listen({ ...nothingManaged, address: `127.0.0.1:${port}` }, Effect.succeed(null))
    })
  )
})

describe("the handshake", () => {
  it.live.each([`{"min":1,"max":1}`, ` {"max":5,"x":{"y":[1]},"min":0}\n`])(
    "%s is answered with the version",
    (range) =>
      Effect.gen(function* () {
        const { port } = yield* startMonitor()
        const agent = yield* dial(port)
        yield* agent.sendRaw(range)
        assert.deepStrictEqual(yield* agent.next, { version: 1 })
        yield* healthy(agent, 2)
      })
  )

  it.live.each([
    [`{"min":0,"max":0}`, "Received protocol version range <invalid: zero> which does not overlap with v1.0"],
    [`{"min":2,"max":2}`, "Received protocol version range <unknown: 2> which does not overlap with v1.0"],
    [`{"min":2,"max":1}`, "Received protocol version range <unknown: 2> to v1.0 whose ends are the wrong way round"],
    [`{"content":{},"type":"HealthCheck","id":2}`, `Received no protocol version range: expected {"min": 1, "max": 1}`],
    ["😀 junk", `Received no protocol version range: expected {"min": 1, "max": 1}`]
  ] as const)("%s is refused, and the next agent is welcome", ([range, error]) =>
    Effect.gen(function* () {
      const { port, until } = yield* startMonitor()
      const agent = yield* dial(port)
      yield* agent.sendRaw(range)
      assert.deepStrictEqual(yield* agent.next, { error })
      assert.deepInclude(yield* agent.closed, { code: 1002 })
      yield* until(({ connected, refused }) => connected === 0 && refused === 1)
      yield* healthy(yield* connectAgent(port), 2)
    })
  )

  it.live("in binary is refused", () =>
    Effect.gen(function* () {
      const { port } = yield* startMonitor()
      const agent = yield* dial(port)
      yield* agent.sendRaw(new TextEncoder().encode(`{"min":1,"max":1}`))
      assert.property(yield* agent.next, "error")
      assert.deepInclude(yield* agent.closed, { code: 1002 })
    })
  )

  it.live("may follow a ping, but not four seconds of silence", () =>
    Effect.gen(function* () {
      const { port } = yield* startMonitor()
      const began = yield* Clock.currentTimeMillis
      const agent = yield* dial(port)
      agent.socket.ping()
      assert.deepStrictEqual(yield* agent.closed, { code: 1002, reason: "no handshake within four seconds" })
      const took = (yield* Clock.currentTimeMillis) - began
      assert.isTrue(took >= 3_950 && took < 7_000, `${took} ms`)
      const late = yield* dial(port)
      late.socket.ping()
      yield* late.sendRaw(`{"min":1,"max":1}`)
      assert.deepStrictEqual(yield* late.next, { version: 1 })
    })
  )
})

describe("the newest agent wins", () => {
  it.live("and the old one is closed with that reason", () =>
    Effect.gen(function* () {
      const { port, until } = yield* startMonitor()
      const old = yield* connectAgent(port)
      yield* healthy(old, 2)
      const newer = yield* connectAgent(port)
      assert.deepStrictEqual(yield* old.closed, { code: 1001, reason: "replaced by a newer connection" })
      yield* healthy(newer, 2)
      assert.deepInclude(yield* until(({ connected }) => connected === 1), { connections: 2, replaced: 1 })
    })
  )

  it.live("also before the old one has said anything", () =>
    Effect.gen(function* () {
      const { port } = yield* startMonitor()
      const mute = yield* dial(port)
      const newer = yield* connectAgent(port)
      assert.deepInclude(yield* mute.closed, { code: 1001 })
      yield* healthy(newer, 2)
    })
  )

  it.live("of eight that come at once exactly one stays", () =>
    Effect.gen(function* () {
      const { port, until } = yield* startMonitor()
      const agents = yield* Effect.all(
        Array.from({ length: 8 }, () => dial(port)),
        { concurrency: 8 }
      )
      assert.deepInclude(yield* until(({ connected, connections }) => connected === 1 && connections === 8), {
        replaced: 7
      })
      // Seven are closed; until the Close frame has arrived, they look open from here.
      const open = yield* eventually("the closing of seven", () => {
        const left = agents.filter(({ socket }) => socket.readyState === WebSocket.OPEN)
        return left.length <= 1 ? left : null
      })
      assert.strictEqual(open.length, 1)
      for (const agent of open) {
        yield* agent.sendRaw(`{"min":1,"max":1}`)
        assert.deepStrictEqual(yield* agent.next, { version: 1 })
      }
    })
  )

  it.live("an agent that vanishes is not counted any more", () =>
    Effect.gen(function* () {
      const { port, until } = yield* startMonitor()
      const agent = yield* connectAgent(port)
      agent.socket.terminate()
      yield* until(({ connected }) => connected === 0)
      const polite = yield* connectAgent(port)
      polite.socket.close(1000, "normal exit")
      assert.deepInclude(yield* polite.closed, { code: 1000 })
      yield* until(({ connected }) => connected === 0)
    })
  )
})

describe("a connection", () => {
  it.live("with nothing managed everything is granted, with the request's id", () =>
    Effect.gen(function* () {
      const { port, counts } = yield* startMonitor()
      const agent = yield* connectAgent(port)
      yield* agent.send("UpscaleNotification", 2, { granted: { cpu: 0.5, mem: 2 * GiB } })
      assert.deepStrictEqual(yield* agent.next, { type: "UpscaleConfirmation", id: 2 })
      yield* agent.sendRaw(
        `{"id":4,"type":"DownscaleRequest","more":null,"content":{"target":{"mem":${GiB},"cpu":0.25,"x":1}}}`
      )
      assert.deepStrictEqual(yield* agent.next, {
        type: "DownscaleResult",
        Ok: true,
        Status: "monitor is not managing cgroup or file cache",
        id: 4
      })
      assert.deepInclude(yield* counts, { upscalesConfirmed: 1, downscalesGranted: 1 })
    })
  )

  it.live("an unusable message is answered with its id, or 0, and forgotten", () =>
    Effect.gen(function* () {
      const { port, counts } = yield* startMonitor()
      const agent = yield* connectAgent(port)
      const cases: ReadonlyArray<readonly [string, number, string]> = [
        ["not json", 0, "Received a message that is not JSON"],
        ["[".repeat(60_000), 0, "Received a message that is not JSON"],
        [`{"type":"Foo","id":2,"content":{}}`, 2, 'Received message of unknown type: "Foo"'],
        [
          `{"type":"UpscaleConfirmation","id":3,"content":{}}`,
          3,
          'Received message of unknown type: "UpscaleConfirmation"'
        ],
        [`{"type":"HealthCheck","id":4}`, 4, "Received a message without type, id or content"],
        [
          `{"type":"DownscaleRequest","id":6,"content":{"target":{"mem":"1Gi"}}}`,
          6,
          'Received message of type "DownscaleRequest" with unusable content'
        ]
      ]
      for (const [text, id, error] of cases) {
        yield* agent.sendRaw(text)
        assert.deepStrictEqual(yield* agent.next, { type: "InvalidMessage", error, id })
      }
      yield* agent.sendRaw(new Uint8Array([1, 2, 3]))
      yield* healthy(agent, 8)
      assert.deepInclude(yield* counts, { unusableMessages: cases.length + 1, connected: 1 })
    })
  )

  it.live("the agent's error messages, also about ids that were never used, are never answered", () =>
    Effect.gen(function* () {
      const { port, counts } = yield* startMonitor()
      const agent = yield* connectAgent(port)
      yield* agent.send("InvalidMessage", 7, { error: 'Received message of unknown type: "Foo"\nnew line' })
      yield* agent.send("InternalError", 9_999, { error: "x".repeat(20_000) })
      yield* healthy(agent, 10)
      assert.deepInclude(yield* counts, { agentErrors: 2 })
    })
  )

  it.live("a peer that sends nothing but unusable messages is disconnected", () =>
    Effect.gen(function* () {
      const { port } = yield* startMonitor()
      const agent = yield* connectAgent(port)
      yield* Effect.forEach(
        Array.from({ length: 100 }, (_, n) => n),
        (n) => agent.sendRaw(`junk ${n}`),
        { discard: true }
      )
      assert.deepStrictEqual(yield* agent.closed, { code: 1008, reason: "this is not the agent's protocol" })
      yield* healthy(yield* connectAgent(port), 2)
    })
  )

  it.live("a frame beyond the limit ends the connection with 1009", () =>
    Effect.gen(function* () {
      const { port } = yield* startMonitor()
      const agent = yield* connectAgent(port)
      yield* agent.sendRaw("x".repeat(65 * 1024))
      assert.deepInclude(yield* agent.closed, { code: 1009 })
      yield* healthy(yield* connectAgent(port), 2)
    })
  )

  it.live("a flood is answered in order, to the last", () =>
    Effect.gen(function* () {
      const { port, counts } = yield* startMonitor()
      const agent = yield* connectAgent(port)
      const count = 20_000
      for (let id = 2; id <= 2 * count; id += 2) yield* agent.send("HealthCheck", id)
      for (let id = 2; id <= 2 * count; id += 2) assert.deepStrictEqual(yield* agent.next, { type: "HealthCheck", id })
      assert.strictEqual((yield* counts).healthChecks, count)
      assert.strictEqual(agent.waiting(), 0)
    })
  )

  it.live("a flood of requests is refused beyond what can be worked on, and each has one answer", () =>
    Effect.gen(function* () {
      const { port, counts } = yield* startMonitor()
      const agent = yield* connectAgent(port)
      const ids = Array.from({ length: 2_000 }, (_, n) => 2 * n + 2)
      for (const id of ids) yield* agent.send("DownscaleRequest", id, { target: { cpu: 1, mem: GiB } })
      const answers = yield* Effect.forEach(ids, () => agent.next)
      assert.deepStrictEqual(
        answers.map(({ id }) => Number(id)).toSorted((a, b) => a - b),
        ids
      )
      for (const { type } of answers) assert.include(["DownscaleResult", "InternalError"], type)
      yield* healthy(agent, 9_000)
      const { downscalesGranted } = yield* counts
      assert.strictEqual(downscalesGranted, answers.filter(({ type }) => type === "DownscaleResult").length)
      assert.isAbove(downscalesGranted, 0)
    })
  )

  it.live(
    "a peer that does not read is not read from any more, and in the end is disconnected",
    () =>
      Effect.gen(function* () {
        const { port, counts, until } = yield* startMonitor()
        const agent = yield* connectAgent(port, 30)
        agent.socket.pause()
        // More than all buffers on the way hold; what is not taken from the socket stays on the agent's side.
        const text = `{"content":{},"type":"${"F".repeat(400)}","id":2}`
        const check = `{"content":{},"type":"HealthCheck","id":4}`
        for (let n = 0; n < 150_000; n++) agent.socket.send(n % 16 === 0 ? check : text)
        const before = yield* until(({ healthChecks }) => healthChecks > 100)
        // Until it is disconnected, what it wants to send stays with it.
        const kept = new Map<number, number>()
        yield* until(({ connected }) => {
          const bytes = agent.socket.bufferedAmount
          kept.set(bytes, (kept.get(bytes) ?? 0) + 1)
          return connected === 0
        })
        const stalled = [...kept].filter(([bytes, looks]) => bytes > 20_000_000 && looks > 100)
        assert.strictEqual(stalled.length, 1, "one amount that stood still for half a second or more")
        const after = yield* counts
        assert.isBelow(after.healthChecks + after.unusableMessages, 150_000)
        assert.isAtLeast(after.healthChecks, before.healthChecks)
        yield* healthy(yield* connectAgent(port), 2)
      }),
    60_000
  )
})
