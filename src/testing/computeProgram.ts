/**
 * The compute of a test as the program has it: on local storage, on a port of its own, with nothing around it that
 * would change this machine.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as OS from "node:os"
import * as Path from "node:path"
import { Commands } from "../compute/Commands.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { Abandoned, type Failure, PostgresPortTaken, type SpecInvalid } from "../errors/Failure.ts"
import type { ProgramOptions } from "../lifecycle/options.ts"
import { program } from "../lifecycle/Program.ts"
import type { Ended } from "../lifecycle/shutdown.ts"
import { defaultSuperuser as superuser } from "../pgwire/Admin.ts"
import type { RunAs } from "../platform/Spawn.ts"
import { LaidFiles, Lasting } from "../storage/local/disk.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { branchesOf, branchInto } from "./ancestor.ts"
import { cacheFolder } from "./cacheFolder.ts"
import { freePort, isPortTaken } from "./freePort.ts"
import type { LogLines } from "./logLines.ts"
import type { Ancestor } from "./options.ts"
import { keepUsed, takeUsed } from "./usedFolders.ts"
import { workFolder } from "./workFolder.ts"

export interface StartRequest {
  readonly spec: ParsedSpec
  readonly parseSpec: (input: unknown) => Result.Result<ParsedSpec, SpecInvalid>
  /** `null`: the embedded one. */
  readonly postgres: string | null
  readonly durability: "os" | "process"
  /** Where the storage is kept; `null`: it goes with the compute. */
  readonly directory: string | null
  readonly runAs: RunAs | null
  /** `null`: it begins empty. */
  readonly branchOf: Ancestor | null
  readonly log: LogLines
  /** Of an earlier compute, whose place this one takes. */
  readonly httpPort: number
}

export interface StartedCompute {
  readonly options: ProgramOptions
  readonly spec: ParsedSpec
  readonly runAs: RunAs | null
  readonly httpPort: number
  readonly state: ComputeState["Service"]
  readonly commands: Commands["Service"]
  /** Ends it and waits for the end. */
  readonly terminate: Effect.Effect<Ended, Failure>
}

interface Place {
  readonly work: string
  readonly port: number
  readonly cache: { readonly folder: string; readonly seeds: string }
}

const programOptions = (request: StartRequest, { cache, port, work }: Place): ProgramOptions => {
  const pgdata = Path.join(work, "pgdata")
  return {
    apiVersion: "head",
    spec: request.spec,
    storage: {
      _tag: "Local",
      directory: Path.join(request.directory ?? work, "storage"),
      seedDirectory: cache.seeds,
      durability: request.durability
    },
    pgdata,
    at: {
      host: "127.0.0.1",
      port,
      user: superuser,
      password: null,
      database: "postgres",
      options: null,
      applicationName: null
    },
    postgres: request.postgres,
    runAs: null,
    privilegedRole: "neon_superuser",
    exitDelay: false,
    computeId: null,
    buildTag: "library",
    vm: null,
    hooks: hookOptions(pgdata),
    http: {
      host: "127.0.0.1",
      externalPort: request.httpPort,
      internalPort: null,
      liveConfigAllowed: true,
      verifier: null,
      tls: null,
      refetch: null
    },
    watchers: [],
    version: "library",
    postgresLog: request.log.sink,
    parseSpec: request.parseSpec,
    host: {
      path: undefined,
      platform: OS.platform(),
      overcommitMemory: null,
      embeddedRoot: import.meta.dirname,
      cacheDirectory: cache.folder
    }
  }
}

/** Of a branch every spec is about its own timeline, whatever it says. */
const onTimeline = (request: StartRequest, branch: Pick<ParsedSpec, "tenant" | "timeline"> | null): StartRequest =>
  branch === null
    ? request
    : {
        ...request,
        spec: { ...request.spec, ...branch },
        parseSpec: (input) => Result.map(request.parseSpec(input), (spec) => ({ ...spec, ...branch }))
      }

/** Nothing of the machine around is changed, and nothing is fetched. */
const hookOptions = (pgdata: string): ProgramOptions["hooks"] => ({
  apiVersion: "head",
  buildTag: "library",
  extensionsBase: null,
  arch: OS.arch(),
  resizeSwap: false,
  diskQuotaMount: null,
  inventorySeconds: 3600,
  pgdata,
  tls: null,
  dev: true,
  autoscaling: false,
  pgbouncerPassword: null,
  auditEndpoints: { plain: null, tls: null }
})

interface Listening {
  readonly httpPort: number
  readonly context: Context.Context<ComputeState | Commands>
}

/**
 * Runs the program in the scope; succeeds once it listens, when its state and commands can be used. `laid`: of a
 * storage that goes with the compute.
 */
const listen = Effect.fnUntraced(function* (options: ProgramOptions, log: LogLines, laid: LaidFiles | null) {
  const listening = yield* Deferred.make<Listening, Failure>()
  const fiber = yield* program(options, {
    onListening: ({ httpPort }) =>
      Effect.flatMap(Effect.context<ComputeState | Commands>(), (context) =>
        Effect.asVoid(Deferred.succeed(listening, { httpPort, context }))
      )
  }).pipe(
    Effect.tapError((failure) => Deferred.fail(listening, failure)),
    Effect.provide(log.logger),
    Effect.provideService(Lasting, laid === null),
    Effect.provideService(LaidFiles, laid),
    Effect.forkScoped
  )
  return { ...(yield* Deferred.await(listening)), fiber }
})

const endWithin = Duration.minutes(2)

const startOn = Effect.fnUntraced(function* (request: StartRequest, port: number) {
  const parent = request.directory ?? OS.tmpdir()
  const work = yield* workFolder(parent, request.runAs).pipe(Effect.provide(request.log.logger))
  const cache = yield* cacheFolder(request.runAs, work).pipe(Effect.provide(request.log.logger))
  const { branchOf, runAs } = request
  const branch = branchOf === null ? null : yield* branchInto(branchOf, Path.join(work, "storage"), runAs)
  const started = onTimeline(request, branch)
  const options = programOptions(started, { work, port, cache })
  const used = branchOf === null ? cache.seeds : branchesOf(branchOf)
  const laid = request.directory === null ? yield* takeUsed(used, options.pgdata) : null
  if (laid !== null)
    yield* Effect.addFinalizer(() => Effect.ignore(keepUsed(used, options.pgdata, runAs, laid, branchOf !== null)))
  const { context, fiber, httpPort } = yield* listen(options, request.log, laid)
  const [state, commands] = [Context.get(context, ComputeState), Context.get(context, Commands)]
  const terminate = Effect.andThen(commands.terminate("immediate"), Fiber.join(fiber)).pipe(
    Effect.provide(request.log.logger)
  )
  yield* Effect.addFinalizer(() => Effect.ignore(Effect.timeout(terminate, endWithin)))
  const reached = yield* state.until("running", "failed")
  if (reached.status === "failed") {
    const ended = yield* terminate
    const failure = ended.failure ?? new Abandoned({ what: "the start" })
    if (isOfSeed(request, failure)) fs.rmSync(cache.seeds, { recursive: true, force: true })
    return yield* failure
  }
  yield* Fiber.join(fiber).pipe(
    Effect.flatMap(({ failure }) => (failure === null ? Effect.void : request.log.failed)),
    Effect.forkScoped
  )
  return { options, spec: started.spec, runAs, httpPort, state, commands, terminate } satisfies StartedCompute
})

/** Where somebody listens on the port by now, that is why Postgres did not start, however it said it. */
const portTakenInstead = (port: number) =>
  Effect.fnUntraced(function* (failure: Failure) {
    const taken = failure._tag === "PostmasterNotReady" && (yield* isPortTaken(port))
    return yield* taken ? new PostgresPortTaken({ host: "127.0.0.1", port }) : Effect.fail(failure)
  })

/** A storage that is new has only a seed's files; whose bytes are looked at when they are laid out, not before. */
const isOfSeed = (request: StartRequest, failure: Failure): boolean =>
  failure._tag === "StorageDamaged" && request.directory === null && request.branchOf === null

const moreAttempts = 4

/**
 * Starts a compute in the scope; succeeds when it is `running`. Whoever takes its port between the choice and Postgres
 * has it: then the start is made again on another one. `port` chooses. A seed cluster that is damaged is made anew.
 */
export const startProgram = (request: StartRequest, port: Effect.Effect<number, Failure> = freePort) =>
  Effect.gen(function* () {
    const chosen = yield* port
    const scope = yield* Scope.fork(yield* Effect.scope)
    return yield* startOn(request, chosen).pipe(
      Effect.provideService(Scope.Scope, scope),
      Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause))),
      Effect.catch(portTakenInstead(chosen))
    )
  }).pipe(
    Effect.retry({
      times: moreAttempts,
      while: (failure) => failure._tag === "PostgresPortTaken" || isOfSeed(request, failure)
    }),
    Effect.tapError(() => request.log.failed)
  )
