/**
 * Asks a running compute how it is, by its probes: for HEALTHCHECK lines and scripts, without a shell or a client.
 *
 * Needs no token and no Postgres. It answers one line and an exit code; every request and the whole wait have an end.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Http from "node:http"
import { type Given, readPort, type UsageError, usageError } from "./arguments.ts"
import { defaults } from "./flags.ts"

// ---------------------------------------------------------------------------------------------------------------------
// What `compute_ctl health` is told: whom to ask, what to wait for, and for how long. Asks nobody.
// ---------------------------------------------------------------------------------------------------------------------

export interface HealthSettings {
  readonly host: string
  readonly port: number
  /** `null`: ask once whether it lives. */
  readonly wait: "ready" | "running" | null
  readonly timeoutMillis: number
}

const units = { ms: 1, s: 1_000, m: 60_000 } as const

const readTime = (given: Given): Result.Result<number, UsageError> => {
  const text = given.get("timeout")?.value ?? "30s"
  const found = /^(\d{1,6})(ms|s|m)?$/.exec(text)
  if (found === null) return usageError("--timeout", "--timeout expects a time such as 30s, 500ms or 2m")
  const unit = found[2] === "ms" || found[2] === "m" ? found[2] : "s"
  return Result.succeed(Number(found[1]) * units[unit])
}

export const readHealth = (given: Given): Result.Result<HealthSettings, UsageError> =>
  Result.gen(function* () {
    const wait = given.get("wait")?.value ?? null
    if (wait !== null && wait !== "ready" && wait !== "running") {
      return yield* usageError("--wait", "--wait expects ready or running")
    }
    if (wait === null && given.has("timeout")) return yield* usageError("--timeout", "--timeout goes with --wait only")
    return {
      host: given.get("http-host")?.value ?? "127.0.0.1",
      port: (yield* readPort(given, "http-port")) ?? defaults.externalHttpPort,
      wait,
      timeoutMillis: yield* readTime(given)
    }
  })

// ---------------------------------------------------------------------------------------------------------------------

export interface Health {
  readonly well: boolean
  /** For the terminal, without an end of line. */
  readonly text: string
}

/** For one request; a process that is there answers in a millisecond. */
const requestWithin = Duration.seconds(2)
const pause = Duration.millis(100)

interface Heard {
  readonly status: number
  readonly body: string
}

const get = ({ host, port }: HealthSettings, path: string) =>
  Effect.callback<Heard, string>((resume) => {
    const request = Http.get({ host, port, path, agent: false }, (answer) => {
      let body = ""
      answer.setEncoding("utf8").on("data", (text: string) => (body = (body + text).slice(0, 10_000)))
      answer.on("error", () => resume(Effect.fail("the answer broke off")))
      answer.on("end", () => resume(Effect.succeed({ status: answer.statusCode ?? 0, body })))
    })
    request.on("error", (error) => resume(Effect.fail(error.message === "" ? "nobody answers" : error.message)))
    return Effect.sync(() => request.destroy())
  }).pipe(Effect.timeoutOrElse({ duration: requestWithin, orElse: () => Effect.fail("no answer in time") }))

const said = (body: string, field: "status" | "error"): string | null => {
  const parsed = Result.getOrNull(Result.try((): unknown => JSON.parse(body)))
  const value = typeof parsed === "object" && parsed !== null ? Reflect.get(parsed, field) : null
  return typeof value === "string" ? value : null
}

const judge = (settings: HealthSettings, { body, status }: Heard): Health => {
  const state = said(body, "status") ?? said(body, "error") ?? `HTTP ${status}`
  return { well: status === 200 && (settings.wait !== "running" || state === "running"), text: state }
}

const look = (settings: HealthSettings): Effect.Effect<Health> =>
  get(settings, settings.wait === null ? "/livez" : "/readyz").pipe(
    Effect.map((heard) => judge(settings, heard)),
    Effect.catch((why) => Effect.succeed({ well: false, text: why }))
  )

export const health = Effect.fn("Health.health")(function* (settings: HealthSettings): Effect.fn.Return<Health> {
  const until = (yield* Clock.currentTimeMillis) + settings.timeoutMillis
  while (true) {
    const found = yield* look(settings)
    if (found.well || settings.wait === null || (yield* Clock.currentTimeMillis) >= until) return found
    yield* Effect.sleep(pause)
  }
})
