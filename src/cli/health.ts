/**
 * Asks a running compute by its probes whether it accepts connections: for HEALTHCHECK and scripts, without a client.
 *
 * Needs no token and no Postgres. It answers one line and an exit code; every request and the whole wait have an end.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import { printHostPort } from "../pgwire/address.ts"
import { parseMillis } from "../platform/duration.ts"
import { type Answer, ask, readTarget, textIn } from "./ask.ts"
import { type Environment, type Given, type Read, usageError } from "./given.ts"
import type { Port } from "./portsFile.ts"

export interface HealthSettings {
  readonly port: Port
  /** `null`: ask once whether it is ready. */
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
export const readHealth = (given: Given, env: Environment): Read<HealthSettings> =>
  Result.gen(function* () {
    const wait = given.get("wait")?.value ?? null
    if (wait !== null && wait !== "ready" && wait !== "running") {
      return yield* usageError("--wait", "--wait expects ready or running")
    }
    if (wait === null && given.has("timeout")) return yield* usageError("--timeout", "--timeout goes with --wait only")
    // What is wrong with the words is said before anything of this machine is looked at.
    const timeoutMillis = yield* readTime(given)
    return { port: (yield* readTarget(given, env)).probes, wait, timeoutMillis }
  })

export interface Health {
  readonly well: boolean
  /** For the terminal, without an end of line. */
  readonly text: string
}

const pause = Duration.millis(100)

const healthOf = (settings: HealthSettings, { body, status }: Answer): Health => {
  const state = textIn(body, "status") ?? textIn(body, "error") ?? `HTTP ${status}`
  return { well: status === 200 && (settings.wait !== "running" || state === "running"), text: state }
}

const look = (settings: HealthSettings): Effect.Effect<Health> =>
  ask(settings.port, "/readyz").pipe(
    Effect.map((answer) => healthOf(settings, answer)),
    Effect.catch((why) =>
      Effect.succeed({ well: false, text: `no compute answers on ${printHostPort(settings.port)}: ${why}` })
    )
  )

/** Asks once, or again until it is as wished or the time is up; the last answer counts. */
export const health = Effect.fn("Health.health")((settings: HealthSettings): Effect.Effect<Health> => {
  const once = look(settings)
  if (settings.wait === null) return once
  const schedule = Schedule.spaced(pause).pipe(Schedule.upTo({ duration: Duration.millis(settings.timeoutMillis) }))
  return Effect.repeat(once, { schedule, until: ({ well }) => well })
})
