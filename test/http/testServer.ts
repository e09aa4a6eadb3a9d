/**
 * A real HTTP server on a free port over services in memory, a stand-in for the lifecycle, and ways to ask it.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { Commands } from "../../src/compute/Commands.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { Promotions } from "../../src/compute/Promotions.ts"
import { type Status, table, type Trigger } from "../../src/compute/transitions.ts"
import { type Failure, SpecInvalid } from "../../src/errors/Failure.ts"
import { defaultTimeouts, type ServerOptions } from "../../src/http/options.ts"
import { httpServer } from "../../src/http/Server.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { noSessions } from "../../src/testing/Simulation.ts"
import { emptySpec } from "../support/specs.ts"

/** State, commands and an `Admin` without Postgres, new for each test. */
export const inMemoryServices = Layer.provideMerge(
  Layer.mergeAll(Commands.layer, noSessions),
  Layer.fresh(ComputeState.layer)
)

/** Accepts `{"format_version": 1.0, …}` and nothing else: the parser has tests of its own. */
const parseSpec: ServerOptions["parseSpec"] = (input) =>
  typeof input === "object" && input !== null && "format_version" in input
    ? Result.succeed<ParsedSpec>({
        ...emptySpec,
        operationId: "operation_uuid" in input && typeof input.operation_uuid === "string" ? input.operation_uuid : null
      })
    : Result.fail(
        new SpecInvalid({ source: "the body", problems: [{ path: "format_version", message: "is missing" }] })
      )

export const anyOptions: ServerOptions = {
  apiVersion: "head",
  host: "127.0.0.1",
  externalPort: 0,
  internalPort: null,
  liveConfigAllowed: true,
  parseSpec,
  computeId: "compute-1",
  allowedHosts: new Set(),
  verifier: null,
  tls: null,
  refetch: null,
  version: "test",
  recentLog: () => [],
  install: Effect.succeed(null),
  hooks: Effect.succeed(null),
  otherMetrics: () => "",
  communicatorSocket: "/nowhere/neon-communicator.socket",
  buildTag: "test",
  timeouts: defaultTimeouts
}

export interface Answer {
  readonly status: number
  readonly type: string | null
  readonly headers: Headers
  readonly text: string
}

export interface Ask {
  readonly body?: string | Uint8Array<ArrayBuffer>
  readonly json?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/** One request by fetch. A request that hangs is a defect after thirty seconds. */
export const ask = (
  port: number,
  method: string,
  path: string,
  { body, headers = {}, json }: Ask = {}
): Effect.Effect<Answer> =>
  Effect.promise(async (signal) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, {
      method,
      signal,
      headers: json === undefined ? headers : { "content-type": "application/json", ...headers },
      ...(json === undefined ? (body === undefined ? {} : { body }) : { body: JSON.stringify(json) })
    })
    return {
      status: response.status,
      type: response.headers.get("content-type"),
      headers: response.headers,
      text: await response.text()
    }
  }).pipe(
    Effect.timeoutOrElse({ duration: "30 seconds", orElse: () => Effect.die(new Error(`${method} ${path} hangs`)) })
  )

const decodeRefused = Schema.decodeUnknownSync(
  Schema.fromJsonString(
    Schema.Struct({
      error: Schema.NonEmptyString,
      code: Schema.NonEmptyString,
      hint: Schema.NonEmptyString,
      problems: Schema.optionalKey(Schema.Array(Schema.Struct({ path: Schema.String, message: Schema.String })))
    })
  )
)

/** Throws unless the answer is a refusal in full. */
export const refusedOf = (answer: Answer) => {
  if (!(answer.type ?? "").startsWith("application/json"))
    throw new Error(`a refusal of type ${answer.type}: ${answer.text}`)
  return decodeRefused(answer.text)
}

/** Listens, knows its keys, and has its routes. */
export const serving = Effect.fnUntraced(function* (options: ServerOptions) {
  const server = yield* httpServer(options)
  yield* server.guard(options.verifier)
  yield* server.serve(options)
  return server
})

export const open = (options: Partial<ServerOptions> = {}) =>
  serving({ ...anyOptions, ...options }).pipe(
    Effect.tap(({ actors }) => Effect.forEach(actors, ({ run }) => Effect.forkScoped(run, { startImmediately: true }))),
    Effect.provide(Promotions.layer)
  )

/** The fewest triggers from the beginning to a status, by the table itself. */
const triggersTo = (status: Status): ReadonlyArray<Trigger> => {
  const ways = new Map<Status, ReadonlyArray<Trigger>>([["empty", []]])
  for (const [from, way] of ways) {
    for (const row of table) if (row.from === from && !ways.has(row.to)) ways.set(row.to, [...way, row.on])
  }
  const way = ways.get(status)
  if (way === undefined) throw new Error(`no way to ${status}`)
  return way
}

export const reach = Effect.fnUntraced(function* (status: Status) {
  const state = yield* ComputeState
  for (const trigger of triggersTo(status)) yield* state.send(trigger).pipe(Effect.orDie)
  const everRan = ["running", "configuration"].includes(status)
  if (everRan) yield* state.note((now) => ({ postgresAlive: true, metrics: { ...now.metrics, total_startup_ms: 1 } }))
})

/** Takes commands as the lifecycle does: one at a time, each ending in running or failed. */
export const configurer = (apply: (spec: ParsedSpec) => Effect.Effect<void, Failure>) =>
  Effect.gen(function* () {
    const commands = yield* Commands
    const state = yield* ComputeState
    while (true) {
      const command = yield* commands.next
      if (command._tag === "Refresh") throw new Error("nobody asked for a refresh")
      const { answer, spec } = command
      const alive = (yield* state.now).postgresAlive
      yield* state.send(alive ? "ConfigureBegan" : "StartBegan", { spec })
      const done = alive ? "ConfigureDone" : "PostgresReady"
      yield* apply(spec).pipe(
        Effect.andThen(Effect.orDie(state.send(done))),
        Effect.tapError((failure) => Effect.orDie(state.send("Broke", { error: failure.message }))),
        Effect.tapError((failure) => answer(Result.fail(failure))),
        Effect.tap((snapshot) => answer(Result.succeed(snapshot))),
        Effect.ignore
      )
    }
  }).pipe(Effect.orDie, Effect.forkScoped({ startImmediately: true }))

/** Ends the compute when asked, with this LSN. */
export const ender = (flushLsn: bigint | null) =>
  Effect.gen(function* () {
    const state = yield* ComputeState
    yield* state.until("termination_pending_fast", "termination_pending_immediate")
    yield* state.send("PostgresGone", { flushLsn, postgresAlive: false })
  }).pipe(Effect.orDie, Effect.forkScoped({ startImmediately: true }))

export const inBackground = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.forkScoped(effect, { startImmediately: true })
export const join = Fiber.join
export const shortTimeouts = { configure: Duration.millis(100), terminate: Duration.millis(100) } as const
