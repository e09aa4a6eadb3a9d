/**
 * Which running compute a command is about, and one HTTP request to it. Every request has an end.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { ClientRequest, IncomingMessage } from "node:http"
import * as Http from "node:http"
import * as Https from "node:https"
import { type Environment, type Given, type Read, readText, usageError } from "./given.ts"
import { type Port, type Ports, portsOf, portsOfComputes } from "./portsFile.ts"
import { readApiVersion, readPorts, readTls } from "./RunSettings.ts"

/** Without flags that name a port, the one compute that runs here; without one, the port that is the default. */
export const readTarget = (given: Given, env: Environment): Read<Ports> =>
  Result.gen(function* () {
    const flags = (["http-port", "external-http-port", "internal-http-port"] as const).some((name) => given.has(name))
    const running = flags ? [] : portsOfComputes(env)
    const [only] = running
    if (running.length > 1) {
      const ports = running.map(({ api }) => api.port).join(", ")
      return yield* usageError(null, `several computes run here: name one by --http-port (${ports})`)
    }
    if (only !== undefined) return only
    const { externalHttpPort: httpPort, internalHttpPort } = yield* readPorts(given, yield* readApiVersion(given), [])
    const httpHost = (yield* readText(given, "http-host")) ?? "localhost"
    return portsOf({ httpHost, httpTls: yield* readTls(given) }, { httpPort, internalHttpPort })
  })

export interface Answer {
  readonly status: number
  readonly body: string
}

/** For one request; a process that is there answers in a millisecond. */
const requestWithin = Duration.seconds(2)
const longestAnswer = 1_000_000

const loopback = /^(127\.\d+\.\d+\.\d+|::1)$/

/** On loopback a certificate proves nothing: it is another name's, and who listens there is on this machine. */
const get = (
  { host, port, tls }: Port,
  path: string,
  headers: Readonly<Record<string, string>>,
  onAnswer: (answer: IncomingMessage) => void
): ClientRequest => {
  const options = { host, port, path, headers, agent: false } as const
  return tls
    ? Https.get({ ...options, rejectUnauthorized: !loopback.test(host) }, onAnswer)
    : Http.get(options, onAnswer)
}

/** Fails with why nobody answered. */
export const ask = (to: Port, path: string, headers: Readonly<Record<string, string>> = {}) =>
  Effect.callback<Answer, string>((resume) => {
    const request = get(to, path, headers, (answer) => {
      let body = ""
      answer.setEncoding("utf8").on("data", (text: string) => (body = (body + text).slice(0, longestAnswer)))
      answer.on("error", () => resume(Effect.fail("the answer broke off")))
      answer.on("end", () => resume(Effect.succeed({ status: answer.statusCode ?? 0, body })))
    })
    request.on("error", (error) =>
      resume(Effect.fail(error.message === "" ? "the connection was refused" : error.message))
    )
    return Effect.sync(() => request.destroy())
  }).pipe(Effect.timeoutOrElse({ duration: requestWithin, orElse: () => Effect.fail("no answer in time") }))

/** What a body of JSON says in a field of text. */
export const textIn = (body: string, field: "status" | "error" | "hint"): string | null => {
  const parsed = Result.getOrNull(Result.try((): unknown => JSON.parse(body)))
  const value = typeof parsed === "object" && parsed !== null ? Reflect.get(parsed, field) : null
  return typeof value === "string" ? value : null
}
