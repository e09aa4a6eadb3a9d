/**
 * One way to answer: a request is guarded, counted and logged as the route that answers it, however its path is
 * spelled.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { declared, pathFor } from "./declared.ts"
import { peer } from "./smallPort.ts"
import { ask, inMemoryServices, open, reach, shortTimeouts } from "./testServer.ts"

/** Sends a target as it is: `fetch` would tidy it up. Answers the status. */
const send = Effect.fnUntraced(function* (port: number, method: string, target: string) {
  const one = yield* peer(port)
  one.send(`${method} ${target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`)
  yield* one.closed
  return /^HTTP\/1\.1 (\d+)/.exec(one.heard())?.[1]
})

const percent = (char: string): string => `%${char.charCodeAt(0).toString(16)}`

/** What some servers and proxies take for the same path. */
const otherSpellings = (path: string): ReadonlyArray<string> =>
  [
    path.replace(/\w/, percent),
    path.replaceAll(/[a-z]/g, percent),
    path.replace(/^\/(\w+)/, "/$1;x"),
    `/${path}`,
    `/.${path}`,
    `/x/..${path}`,
    path.replace(/[a-z]/, (char) => char.toUpperCase())
  ].filter((other) => other !== path)

describe("a path", () => {
  it.live("that is spelled in another way is no route to anybody", () =>
    Effect.gen(function* () {
      yield* reach("running")
      const { port } = yield* open({ timeouts: shortTimeouts })
      const requests = declared.flatMap((route) =>
        otherSpellings(pathFor(route)).map((target) => ({ method: route.method, target }))
      )
      const answers = yield* Effect.forEach(requests, ({ method, target }) => send(port, method, target), {
        concurrency: 16
      })
      for (const [n, { method, target }] of requests.entries())
        assert.strictEqual(answers[n], "404", `${method} ${target}`)
      assert.strictEqual((yield* (yield* ComputeState).now).status, "running")
      const { text } = yield* ask(port, "GET", "/metrics")
      const counted = [...text.matchAll(/^compute_ctl_http_requests_total\{.*route="(.*?)".*\} (\d+)$/gm)]
      assert.deepStrictEqual([...new Set(counted.map(([, route]) => route))], ["unmatched"])
      const sum = counted.reduce((sum, [, , count]) => sum + Number(count), 0)
      assert.strictEqual(sum, requests.length)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("is logged as it was sent, and its route is what is counted", () => {
    const lines: Array<string> = []
    const keep = Logger.make(({ message }) => void lines.push(String(message)))
    return Effect.gen(function* () {
      const { port } = yield* open()
      assert.strictEqual(yield* send(port, "POST", "/%63onfigure"), "404")
      assert.strictEqual(yield* send(port, "GET", "http://localhost:1/operations/a?timeout=0"), "404")
      assert.strictEqual(yield* send(port, "GET", "http://localhost:1/livez"), "200")
      const logged = (uri: string) => lines.some((line) => line.includes(` uri=${uri} `) && line.includes("finished"))
      assert.isTrue(logged("/%63onfigure"))
      assert.isTrue(logged("/operations/a"))
      const { text } = yield* ask(port, "GET", "/metrics")
      for (const labels of [
        'method="POST",route="unmatched",status="404"',
        'method="GET",route="/operations/:id",status="404"',
        'method="GET",route="/livez",status="200"'
      ])
        assert.include(text, `compute_ctl_http_requests_total{${labels}} 1\n`)
    }).pipe(
      Effect.provide(inMemoryServices),
      Effect.provide(Logger.layer([keep])),
      Effect.provideService(References.MinimumLogLevel, "Debug")
    )
  })
})
