/**
 * Watching: waiting for a status, the stream of statuses, history, timeline, and pages a person can read.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import { get } from "node:http"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { maxHistory } from "../../src/compute/snapshot.ts"
import { statuses, table } from "../../src/compute/transitions.ts"
import { declared } from "./declared.ts"
import { ask, inBackground, inMemoryServices, join, open, reach, refusedOf } from "./testServer.ts"

/** Reads events until there are `count`, or the stream ends. */
const events = (port: number, path: string, count: number, headers: Record<string, string> = {}) =>
  Effect.callback<ReadonlyArray<string>>((resume) => {
    let text = ""
    const received = () =>
      text
        .split("\n\n")
        .slice(0, -1)
        .filter((event) => event.startsWith("event: status"))
    const request = get({ port, host: "127.0.0.1", path, headers, agent: false }, (response) => {
      response
        .setEncoding("utf8")
        .on("data", (chunk: string) => {
          text += chunk
          if (received().length >= count) {
            request.destroy()
            resume(Effect.succeed(received()))
          }
        })
        .on("close", () => resume(Effect.succeed(received())))
    })
    request.on("error", () => undefined)
    return Effect.sync(() => request.destroy())
  }).pipe(Effect.timeoutOrElse({ duration: "10 seconds", orElse: () => Effect.die(new Error("no event came")) }))

const statusOf = (event: string): string => JSON.parse(event.split("data: ")[1] ?? "{}").status

describe("GET /status?wait_for", () => {
  it.live("answers when the status comes, and at once when it is there", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const { port } = yield* open()
      const waiting = yield* inBackground(ask(port, "GET", "/status?wait_for=running&timeout=9s"))
      const either = yield* inBackground(ask(port, "GET", "/status?wait_for=failed,running&timeout=9"))
      yield* state.send("StartBegan")
      yield* state.send("PostgresReady", { postgresAlive: true })
      for (const fiber of [waiting, either]) assert.strictEqual(JSON.parse((yield* join(fiber)).text).status, "running")
      assert.strictEqual(
        JSON.parse((yield* ask(port, "GET", "/status?wait_for=running&timeout=9m")).text).status,
        "running"
      )
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("answers what is, when the time is over", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      const before = yield* Clock.currentTimeMillis
      const answer = yield* ask(port, "GET", "/status?wait_for=running&timeout=200ms")
      assert.deepStrictEqual([answer.status, JSON.parse(answer.text).status], [200, "empty"])
      assert.isAtLeast((yield* Clock.currentTimeMillis) - before, 190)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("does not wait for what can not come any more", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const { port } = yield* open()
      const waiting = yield* inBackground(ask(port, "GET", "/status?wait_for=running&timeout=9s"))
      yield* state.send("TerminateFastAsked")
      yield* state.send("PostgresGone")
      assert.strictEqual(JSON.parse((yield* join(waiting)).text).status, "terminated")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("400 for a status that does not exist, or a time that is none; 2024 knows one termination_pending", () =>
    Effect.gen(function* () {
      yield* reach("termination_pending_fast")
      const { port } = yield* open()
      for (const query of [
        "wait_for=asleep",
        "wait_for=",
        "wait_for=running,",
        "wait_for=termination_pending",
        "wait_for=running&timeout=soon"
      ]) {
        const answer = yield* ask(port, "GET", `/status?${query}`)
        assert.strictEqual(answer.status, 400, query)
        refusedOf(answer)
      }
      const old = yield* open({ apiVersion: "2024" })
      const answer = yield* ask(old.port, "GET", "/status?wait_for=termination_pending&timeout=9s")
      assert.strictEqual(JSON.parse(answer.text).status, "termination_pending")
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live(
    "a thousand who wait and a thousand who poll during an apply: none fails",
    () =>
      Effect.gen(function* () {
        const state = yield* ComputeState
        yield* reach("configuration")
        const { port } = yield* open()
        const waiting = yield* inBackground(
          Effect.forEach(Array.from({ length: 1000 }), () => ask(port, "GET", "/status?wait_for=running&timeout=25s"), {
            concurrency: "unbounded"
          })
        )
        const polled = yield* Effect.forEach(
          Array.from({ length: 1000 }),
          (_, n) => ask(port, "GET", n % 2 === 0 ? "/status" : "/metrics"),
          { concurrency: "unbounded" }
        )
        assert.isTrue(polled.every(({ status }) => status === 200))
        yield* state.send("ConfigureDone")
        for (const { status, text } of yield* join(waiting))
          assert.deepStrictEqual([status, JSON.parse(text).status], [200, "running"])
      }).pipe(Effect.provide(inMemoryServices)),
    60_000
  )
})

describe("the stream of statuses", () => {
  for (const [path, headers] of [
    ["/status/stream", {}],
    ["/status", { accept: "text/event-stream" }]
  ] as const) {
    it.live(`${path}: first what is, then every change, and it ends with the compute`, () =>
      Effect.gen(function* () {
        const state = yield* ComputeState
        const { port } = yield* open()
        assert.deepStrictEqual((yield* events(port, path, 1, headers)).map(statusOf), ["empty"])
        const all = yield* inBackground(events(port, path, 99, headers))
        // Somebody must be listening before the compute ends.
        yield* events(port, path, 1, headers)
        yield* state.send("StartBegan")
        yield* state.active(DateTime.makeUnsafe(1))
        yield* state.send("PostgresReady")
        yield* state.send("TerminateFastAsked")
        yield* state.send("PostgresGone")
        const seen = (yield* join(all)).map(statusOf)
        assert.strictEqual(seen.at(-1), "terminated")
        assert.deepStrictEqual(seen, [...new Set(seen)], "that Postgres was used is no event")
      }).pipe(Effect.provide(inMemoryServices))
    )
  }
})

describe("history", () => {
  it.live("lists each change, when, and why; the failure that caused it too", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("running")
      yield* state.send("Broke", { error: "the disk is gone" })
      const { port } = yield* open()
      const { changes, status } = JSON.parse((yield* ask(port, "GET", "/history")).text)
      assert.strictEqual(status, "failed")
      assert.deepStrictEqual(
        changes.map(({ from, to }: { from: string; to: string }) => `${from} ${to}`),
        ["empty init", "init running", "running failed"]
      )
      const row = table.find(({ from, on }) => from === "running" && on === "Broke")
      assert.deepInclude(changes[2], { error: "the disk is gone", because: row?.because })
      assert.isNotEmpty(row?.because)
      for (const { at } of changes) assert.match(at, /^\d{4}-\d\d-\d\dT.*Z$/)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("forgets the oldest of many", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("running")
      for (let n = 0; n < maxHistory; n++) {
        yield* state.send("SpecArrived")
        yield* state.send("ConfigureBegan")
        yield* state.send("ConfigureDone")
      }
      const { history } = yield* state.now
      assert.strictEqual(history.length, maxHistory)
      assert.strictEqual(history.at(-1)?.to, "running")
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("pages", () => {
  it.live("the timeline is JSON, a waterfall for a terminal, or a page, as the caller accepts", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("running")
      yield* state.note({
        steps: [
          { name: "settle <b>", startedAt: 0, millis: 25 },
          { name: "start Postgres", startedAt: 25, millis: 75 }
        ]
      })
      const { port } = yield* open()
      for (const [accept, type] of [
        ["*/*", "application/json"],
        ["text/plain", "text/plain; charset=utf-8"],
        ["text/html,*/*;q=0.8", "text/html; charset=utf-8"]
      ] as const) {
        const answer = yield* ask(port, "GET", "/timeline", { headers: { accept } })
        assert.deepStrictEqual([answer.status, answer.type], [200, type])
        assert.include(answer.text, "start Postgres")
        if (accept === "text/plain") assert.match(answer.text, / {2}start Postgres \| {12}█{36}\| +25 \+ +75 ms\n/)
        if (accept.startsWith("text/html")) {
          assert.include(answer.text, "settle &lt;b&gt;")
          assert.include(answer.text, "margin-left:25.00%")
        }
      }
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("/docs names every route, and is small", () =>
    Effect.gen(function* () {
      const { port } = yield* open()
      const { status, text, type } = yield* ask(port, "GET", "/docs")
      assert.deepStrictEqual([status, type], [200, "text/html; charset=utf-8"])
      for (const { documented, method } of declared)
        assert.include(text, `<tr><td>${method}<td><code>${documented}</code>`)
      assert.isBelow(text.length, 20_000)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("a verbose probe says what it looked at", () =>
    Effect.gen(function* () {
      for (const status of statuses) {
        yield* Effect.gen(function* () {
          yield* reach(status)
          const { port } = yield* open()
          const runs = ["running", "configuration"].includes(status)
          const answer = yield* ask(port, "GET", "/readyz?verbose")
          assert.strictEqual(answer.status, runs ? 200 : 503)
          assert.deepInclude(JSON.parse(answer.text), {
            status,
            alive: true,
            ready: runs,
            started: runs,
            postgres_alive: runs
          })
          if (!runs) refusedOf(answer)
        }).pipe(Effect.scoped, Effect.provide(inMemoryServices))
      }
    })
  )
})
