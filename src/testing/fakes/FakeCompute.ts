/**
 * A fake compute: the real lifecycle, API and checks of tokens around a simulated Postgres. What it answers is what a
 * compute answers, and a script says how long its steps take and which of them fail.
 *
 * It has one life after the other: one that has ended answers nobody, until it is reset. Touches no files; gone, with
 * its port, when the scope ends.
 */
import * as Deferred from "effect/Deferred"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto"
import { Commands } from "../../compute/Commands.ts"
import { ComputeState } from "../../compute/ComputeState.ts"
import { countFromZero } from "../../compute/counters.ts"
import { Promotions } from "../../compute/Promotions.ts"
import { supervise } from "../../compute/Supervisor.ts"
import type { Status } from "../../compute/transitions.ts"
import { ApplyFailed, CommandFailed, type Failure, PostmasterNotReady } from "../../errors/Failure.ts"
import { defaultTimeouts } from "../../http/options.ts"
import { wireStatus } from "../../http/refusals.ts"
import { httpServer } from "../../http/Server.ts"
import { type Verifier, verifierOf } from "../../http/Verifier.ts"
import { runLifecycle } from "../../lifecycle/Lifecycle.ts"
import { logLayer, newLogContext } from "../../logging/Log.ts"
import { type RecentLines, recentLines } from "../../logging/recentLines.ts"
import { parseLsn } from "../../spec/identifiers.ts"
import type { ParsedSpec } from "../../spec/ParsedSpec.ts"
import { parseSpec } from "../../spec/parseSpec.ts"
import { FaultQueue } from "../peers/faults.ts"
import { noSessions, simulatedInputs, simulatedStandby, Simulation, simulationWith } from "../Simulation.ts"
import { millisOf, timesOf } from "./httpFront.ts"
import type { ComputeScript, ComputeStep } from "./script.ts"
import { ScriptInvalid } from "./scriptSchema.ts"

export interface FakeComputeTokens {
  /** For this compute, and an administrator's; both signed by the key in `jwks`. */
  readonly token: string
  readonly adminToken: string
  readonly jwks: { readonly keys: ReadonlyArray<unknown> }
}

interface FakeCompute {
  readonly computeId: string
  /** `null`: no tokens are asked for, or by keys that somebody else has. */
  readonly tokens: FakeComputeTokens | null
  /** Where it listens on 127.0.0.1; `null`: this life has ended. */
  readonly port: () => number | null
  readonly status: () => string
  /** False: so much is armed already that it was not taken. */
  readonly arm: (step: ComputeStep) => boolean
  /** Ends this life, if it has not ended yet, and begins another. */
  readonly reset: Effect.Effect<void>
}

// -- tokens ---------------------------------------------------------------------------------------------------------

const encoded = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url")

const signed = (key: KeyObject, claims: unknown): string => {
  const text = `${encoded({ alg: "EdDSA", typ: "JWT", kid: "fake" })}.${encoded(claims)}`
  return `${text}.${sign(null, Buffer.from(text), key).toString("base64url")}`
}

const makeTokens = (computeId: string): FakeComputeTokens => {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519")
  return {
    token: signed(privateKey, { compute_id: computeId }),
    adminToken: signed(privateKey, { scope: "compute_ctl:admin", aud: ["compute"] }),
    jwks: { keys: [{ ...publicKey.export({ format: "jwk" }), kid: "fake", use: "sig", alg: "EdDSA" }] }
  }
}

// -- what the script does to a life ---------------------------------------------------------------------------------

type Steps = FaultQueue<ComputeStep>

const failureOf = (at: "start" | "configure" | "terminate", error: string): Failure => {
  switch (at) {
    case "start":
      return new PostmasterNotReady({ reason: error, log: [] })
    case "configure":
      return new ApplyFailed({ failures: [error] })
    case "terminate":
      return new CommandFailed({
        command: "postgres --sync-safekeepers",
        exit: { _tag: "Code", code: 1 },
        output: error
      })
  }
}

/** Its delay, and then what it ends with. */
const meet = (steps: Steps, at: "start" | "configure") =>
  Effect.suspend((): Effect.Effect<void, Failure> => {
    const step = steps.next((one) => one.at === at)
    if (step === null) return Effect.void
    const end = step.hang
      ? Effect.never
      : step.error === undefined
        ? Effect.void
        : Effect.fail(failureOf(at, step.error))
    return Effect.andThen(Effect.sleep(millisOf(step.delay)), end)
  })

/** The stop of Postgres takes as long as the step says; what fails is the last sync. */
const meetTheEnd = Effect.fnUntraced(function* (simulation: Simulation["Service"], steps: Steps) {
  let error: string | undefined
  yield* simulation.interfere(
    "stop",
    Effect.suspend(() => {
      const step = steps.next((one) => one.at === "terminate")
      error = step?.error
      return step?.hang ? Effect.never : Effect.sleep(millisOf(step?.delay))
    })
  )
  yield* simulation.interfere(
    "commitLsn end",
    Effect.suspend(() => (error === undefined ? Effect.void : Effect.fail(failureOf("terminate", error))))
  )
})

// -- one life -------------------------------------------------------------------------------------------------------

/** A life that answers. */
interface Listening {
  readonly port: number
  readonly status: () => Status
  /** Postgres leaves by itself, so long after it ran. */
  readonly leave: (step: ComputeStep) => void
  /** What is under way at the end takes no longer. */
  readonly hurry: Effect.Effect<void>
}

interface Life {
  readonly script: ComputeScript
  readonly spec: ParsedSpec | null
  readonly parse: (input: unknown) => ReturnType<typeof parseSpec>
  readonly verifier: Verifier | null
  readonly steps: Steps
  readonly recent: RecentLines
  readonly onListening: (life: Listening) => void
}

const optionsOf = ({ script, verifier, ...life }: Life) => {
  const { allowedHosts = [], apiVersion = "head", computeId = "compute-1", liveConfig = true } = script
  return {
    apiVersion,
    host: "127.0.0.1",
    externalPort: 0,
    internalPort: null,
    liveConfigAllowed: liveConfig,
    computeId,
    allowedHosts: new Set(allowedHosts.map((name) => name.toLowerCase())),
    tls: null,
    buildTag: "fake",
    version: "fake",
    recentLog: life.recent.entries,
    install: Effect.succeed(null),
    hooks: Effect.succeed(null),
    otherMetrics: () => "",
    timeouts: defaultTimeouts,
    parseSpec: life.parse,
    refetch: null,
    verifier,
    communicatorSocket: "/nonexistent/neon-communicator.socket"
  } as const
}

/** Until it has ended and its exit delay is over. */
const live = Effect.fnUntraced(function* (life: Life) {
  const { script, steps } = life
  const state = yield* ComputeState
  const simulation = yield* Simulation
  yield* countFromZero
  yield* simulation.interfere("ready", meet(steps, "start"))
  yield* simulation.interfere("apply reconfigure", meet(steps, "configure"))
  yield* meetTheEnd(simulation, steps)
  const options = optionsOf(life)
  // There is none.
  const http = yield* Effect.catchTag(httpServer(options), "CertificateUnusable", Effect.die)
  yield* Effect.forkScoped(Effect.ignore(supervise(http.actors)))
  yield* http.guard(options.verifier)
  yield* http.serve(options)
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  const leave = ({ delay, exitCode = 1 }: ComputeStep): void =>
    void run(
      Effect.andThen(state.until("running"), Effect.sleep(millisOf(delay))).pipe(
        Effect.andThen(simulation.kill({ _tag: "Code", code: exitCode }))
      )
    )
  run(Effect.andThen(state.until("running"), Effect.flatMap(DateTime.now, state.active)))
  const { escalate: hurry } = yield* Commands
  life.onListening({ port: http.port, status: () => state.nowUnsafe().status, leave, hurry })
  yield* runLifecycle({
    spec: life.spec,
    inputs: { ...simulatedInputs, apiVersion: options.apiVersion },
    ...(script.exitDelay === undefined ? {} : { exitDelayOf: () => Duration.millis(millisOf(script.exitDelay)) })
  })
})

const partsOf = ({ flushLsn }: ComputeScript) => {
  const lsn = Option.getOrUndefined(parseLsn(flushLsn ?? ""))
  return Layer.fresh(
    Layer.mergeAll(simulationWith([], lsn), Commands.layer, Promotions.layer, simulatedStandby, noSessions).pipe(
      Layer.provideMerge(ComputeState.layer)
    )
  )
}

// -- the fake -------------------------------------------------------------------------------------------------------

/** A life with a log of its own, whose last lines the API shows. */
const logged = (life: Omit<Life, "recent">, onLogLine: (line: string) => void) => {
  const recent = recentLines("text")
  const sink = (line: string) => {
    recent.add(line)
    onLogLine(line)
  }
  const filter = { level: "info", modules: new Map() } as const
  return live({ ...life, recent }).pipe(
    Effect.scoped,
    Effect.provide(partsOf(life.script)),
    Effect.provide(logLayer({ format: "text", filter, sink, context: newLogContext() }))
  )
}

/** The spec of the script, by the rules by which later ones are read. */
const parserOf =
  ({ apiVersion = "head", storage = "local" }: ComputeScript, source: string) =>
  (input: unknown) =>
    parseSpec(input, { source, storage, apiVersion, under: ["spec"] })

const specOf = (script: ComputeScript): Result.Result<ParsedSpec | null, ScriptInvalid> =>
  script.spec === undefined
    ? Result.succeed(null)
    : Result.mapError(
        parserOf(script, "the script")(script.spec),
        ({ problems }) => new ScriptInvalid({ source: "the script", problems })
      )

export interface FakeComputeOptions {
  /** Each line of its log, also those of a life that has ended. Default: nowhere. */
  readonly onLogLine?: (line: string) => void
}

export const makeFakeCompute = Effect.fnUntraced(function* (
  script: ComputeScript,
  { onLogLine = () => {} }: FakeComputeOptions = {}
) {
  const { apiVersion = "head", computeId = "compute-1" } = script
  const spec = yield* Effect.fromResult(specOf(script))
  const tokens = script.tokens === true && script.jwks === undefined ? makeTokens(computeId) : null
  const keys = script.jwks?.keys ?? tokens?.jwks.keys ?? null
  const steps: Steps = new FaultQueue()
  const outer = yield* Effect.scope
  let now: Listening | null = null
  let last: Status = "empty"
  let own = yield* Scope.fork(outer)

  const arm = (step: ComputeStep): boolean => {
    if (step.at !== "postgres") return steps.arm(step, timesOf(step.times))
    now?.leave(step)
    return true
  }
  const scripted = script.steps ?? []

  const begin = Effect.gen(function* () {
    for (const step of scripted) if (step.at !== "postgres") arm(step)
    const listening = yield* Deferred.make<void>()
    const onListening = (found: Listening) => {
      now = found
      for (const step of scripted) if (step.at === "postgres") arm(step)
      Deferred.doneUnsafe(listening, Effect.void)
    }
    const verifier = keys === null ? null : verifierOf(keys)
    const parse = parserOf(script, "the request")
    const life = yield* logged({ script, spec, parse, verifier, steps, onListening }, onLogLine).pipe(
      Effect.ensuring(
        Effect.sync(() => {
          last = now?.status() ?? last
          now = null
        })
      ),
      Effect.forkIn(own, { startImmediately: true })
    )
    yield* Scope.addFinalizer(
      own,
      Effect.suspend(() => {
        steps.clear()
        return now?.hurry ?? Effect.void
      })
    )
    yield* Effect.raceFirst(Deferred.await(listening), Fiber.join(life))
  })

  yield* begin
  const oneAtATime = Semaphore.makeUnsafe(1).withPermit
  return {
    computeId,
    tokens,
    port: () => now?.port ?? null,
    status: () => wireStatus(apiVersion, now?.status() ?? last),
    arm,
    reset: oneAtATime(
      Effect.gen(function* () {
        yield* Scope.close(own, Exit.void)
        own = yield* Scope.fork(outer)
        yield* Effect.orDie(begin)
      })
    )
  } satisfies FakeCompute
})
