/**
 * Asks a running compute how it is, by its probes: for HEALTHCHECK lines and scripts, without a shell or a client.
 *
 * Needs no token and no Postgres. It answers one line and an exit code; every request and the whole wait have an end.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Http from "node:http"
import { parseMillis } from "../platform/duration.ts"
import { defaults } from "./flags.ts"
import { type Given, type Read, readPort, usageError } from "./given.ts"

export interface HealthSettings {
  readonly host: string
  readonly port: number
  /** `null`: ask once whether it lives. */
  readonly wait: "ready" | "running" | null
  readonly timeoutMillis: number
}

const readTime = (given: Given): Read<number> => {
  const millis = parseMillis(given.get("timeout")?.value ?? "30s")
  return millis === null
    ? usageError("--timeout", "--timeout expects a time such as 30s, 500ms or 2m")
    : Result.succeed(millis)
}

/** Whom to ask, what to wait for, and for how long. */
export const readHealth = (given: Given): Read<HealthSettings> =>
  Result.gen(function* () {
    const wait = given.get("wait")?.value ?? null
    if (wait !== null && wait !== "ready" && wait !== "running") {
      return yield* usageError("--wait", "--wait expects ready or running")
    }
    if (wait === null && given.has("timeout")) return yield* usageError("--timeout", "--timeout goes with --wait only")
    return {
      host: given.get("http-host")?.value ?? "localhost",
      port: (yield* readPort(given, "http-port")) ?? defaults.externalHttpPort,
      wait,
      timeoutMillis: yield* readTime(given)
    }
  })

export interface Health {
  readonly well: boolean
  /** For the terminal, without an end of line. */
  readonly text: string
}

/** For one request; a process that is there answers in a millisecond. */
const requestWithin = Duration.seconds(2)
const pause = Duration.millis(100)

interface Answer {
  readonly status: number
  readonly body: string
}

const get = ({ host, port }: HealthSettings, path: string) =>
  Effect.callback<Answer, string>((resume) => {
    const request = Http.get({ host, port, path, agent: false }, (answer) => {
      let body = ""
      answer.setEncoding("utf8").on("data", (text: string) => (body = (body + text).slice(0, 10_000)))
      answer.on("error", () => resume(Effect.fail("the answer broke off")))
      answer.on("end", () => resume(Effect.succeed({ status: answer.statusCode ?? 0, body })))
    })
    request.on("error", (error) => resume(Effect.fail(error.message === "" ? "nobody answers" : error.message)))
    return Effect.sync(() => request.destroy())
  }).pipe(Effect.timeoutOrElse({ duration: requestWithin, orElse: () => Effect.fail("no answer in time") }))

const textIn = (body: string, field: "status" | "error"): string | null => {
  const parsed = Result.getOrNull(Result.try((): unknown => JSON.parse(body)))
  const value = typeof parsed === "object" && parsed !== null ? Reflect.get(parsed, field) : null
  return typeof value === "string" ? value : null
}

const healthOf = (settings: HealthSettings, { body, status }: Answer): Health => {
  const state = textIn(body, "status") ?? textIn(body, "error") ?? `HTTP ${status}`
  return { well: status === 200 && (settings.wait !== "running" || state === "running"), text: state }
}

const look = (settings: HealthSettings): Effect.Effect<Health> =>
  get(settings, settings.wait === null ? "/livez" : "/readyz").pipe(
    Effect.map((answer) => healthOf(settings, answer)),
    Effect.catch((why) => Effect.succeed({ well: false, text: why }))
  )

/** Asks once, or again until it is as wished or the time is up; the last answer counts. */
export const health = Effect.fn("Health.health")((settings: HealthSettings): Effect.Effect<Health> => {
  const ask = look(settings)
  if (settings.wait === null) return ask
  const schedule = Schedule.spaced(pause).pipe(Schedule.upTo({ duration: Duration.millis(settings.timeoutMillis) }))
  return Effect.repeat(ask, { schedule, until: ({ well }) => well })
})
