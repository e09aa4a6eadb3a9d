/**
 * The compute as one effect: which parts it has, who is supervised, and in which order they come up.
 *
 * HTTP listens before a spec is asked for and before Postgres is looked for, so that whoever waits can watch. Knows no
 * command line and no signals; those are `main.ts`.
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import type * as Scope from "effect/Scope"
import * as Path from "node:path"
import { holdActor, monitor } from "../activity/ActivityMonitor.ts"
import { Applier } from "../catalog/Applier.ts"
import { Commands } from "../compute/Commands.ts"
import { ComputeHooks } from "../compute/ComputeHooks.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import { countFromZero } from "../compute/counters.ts"
import { Promotions } from "../compute/Promotions.ts"
import { type Actor, supervise } from "../compute/Supervisor.ts"
import type { ActorGaveUp, Failure } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { defaultTimeouts } from "../http/options.ts"
import { httpServer } from "../http/Server.ts"
import { logNameActor } from "../logging/Log.ts"
import { Admin } from "../pgwire/Admin.ts"
import { oomEnvironment } from "../platform/memory.ts"
import { type RunAs, Spawn } from "../platform/Spawn.ts"
import { below } from "../platform/tracing.ts"
import { osUserNames, resolveRunAs } from "../platform/users.ts"
import { configurationCheck } from "../postgres/configurationCheck.ts"
import { Pgdata } from "../postgres/Pgdata.ts"
import type { PlanInputs, StockPostgres } from "../postgres/PlanInputs.ts"
import { locatePostgres, PostgresInstall } from "../postgres/PostgresInstall.ts"
import { Postmaster } from "../postgres/Postmaster.ts"
import { printFamilies } from "../telemetry/prometheus.ts"
import { runLifecycle } from "./Lifecycle.ts"
import { logDropFamily, logDropWatch } from "./logDrops.ts"
import type { ListenOptions, ProgramOptions } from "./options.ts"
import { unlessAsked } from "./outcome.ts"
import { newSession } from "./postgresWatch.ts"
import { replicaLook } from "./replicaWatch.ts"
import { standby } from "./Promote.ts"
import { reloadActor } from "./reload.ts"
import type { ServiceManager } from "./serviceManager.ts"
import { sessionAddress, socketsOf } from "./sessionAddress.ts"
import type { Ended } from "./shutdown.ts"
import { signalActor, type Signals } from "./signals.ts"
import { storageLayer } from "./storageLayer.ts"
import { openVm, type Vm } from "./virtualMachine.ts"
import { prewarm } from "./warmUp.ts"

/** What others can do with a compute whose HTTP listens. */
export interface Listening {
  readonly httpPort: number
  readonly internalHttpPort: number | null
}

const stockPostgres = (options: ProgramOptions, runAs: RunAs | null, superuser: string): StockPostgres => ({
  superuser,
  pgdata: options.pgdata,
  sockets: socketsOf(options) ?? options.pgdata,
  osUsers: osUserNames(runAs)
})

const storageInputsOf = (options: ProgramOptions, runAs: RunAs | null, superuser: string): PlanInputs["storage"] => {
  const { storage } = options
  switch (storage._tag) {
    case "Neon":
      return storage
    case "Local":
      return { _tag: "Local", durability: storage.durability, ...stockPostgres(options, runAs, superuser) }
    case "Volume":
      return { _tag: "Volume", ...stockPostgres(options, runAs, superuser) }
  }
}

const planInputsOf = (
  options: ProgramOptions,
  { major, runAs }: PostgresInstall["Service"],
  superuser: string
): PlanInputs => ({
  apiVersion: options.apiVersion,
  postgresMajor: major,
  platform: options.host.platform,
  overcommitMemory: options.host.overcommitMemory,
  extensionServerPort: options.http.internalPort ?? options.http.externalPort,
  privilegedRole: options.privilegedRole,
  storage: storageInputsOf(options, runAs, superuser),
  port: options.at.port,
  certificate: options.hooks.tls !== null
})

const hooks = (options: ProgramOptions, runAs: RunAs | null) =>
  Effect.map(
    Effect.promise(() => import("./hooks.ts")),
    ({ makeHooks }) => makeHooks(options.hooks, runAs)
  )

/** Postgres, PGDATA, storage and what is around them, as the options say. */
const parts = (options: ProgramOptions, vm: Vm | null) =>
  Effect.gen(function* () {
    const runAs = yield* resolveRunAs(options.runAs)
    const install = locatePostgres({
      given: options.postgres,
      path: options.host.path,
      runAs,
      embeddedRoot: options.host.embeddedRoot,
      cacheDirectory: options.host.cacheDirectory
    })
    const { allowUnfenced = false } = options
    return Layer.mergeAll(
      storageLayer(options, vm),
      configurationCheck,
      newSession,
      replicaLook,
      standby,
      Pgdata.layer({ directory: options.pgdata, runAs, allowUnfenced, sockets: socketsOf(options) ?? options.pgdata }),
      Postmaster.layer({
        pgdata: options.pgdata,
        at: options.at,
        extraEnv: yield* oomEnvironment,
        readyWithin: options.postgresReadyWithin ?? null,
        ...(options.postgresLog === undefined ? {} : { sink: options.postgresLog }),
        ...(vm === null ? {} : { enter: vm.enter })
      }),
      Applier.layer({ privilegedRole: options.privilegedRole, fileCopy: options.storage._tag === "Local" })
    ).pipe(
      Layer.provideMerge(yield* hooks(options, runAs)),
      Layer.provideMerge(install),
      Layer.provideMerge(Spawn.layer)
    )
  }).pipe(Layer.unwrap)

/** What the API reads of parts that are there only later. */
interface Later {
  readonly hooks: Ref.Ref<ComputeHooks["Service"] | null>
  readonly install: Ref.Ref<PostgresInstall["Service"] | null>
  readonly vm: Ref.Ref<Vm | null>
}

const listen = (options: ListenOptions, later: Later) =>
  httpServer({
    ...options.http,
    allowedHosts: options.http.allowedHosts ?? new Set(),
    apiVersion: options.apiVersion,
    computeId: options.computeId,
    buildTag: options.buildTag,
    version: options.version,
    recentLog: options.recentLog ?? (() => []),
    install: Ref.get(later.install),
    hooks: Ref.get(later.hooks),
    // All only read what is at hand.
    otherMetrics: () =>
      [Ref.getUnsafe(later.hooks), Ref.getUnsafe(later.vm)]
        .map((part) => (part === null ? "" : Effect.runSync(part.metrics)))
        .join("") + (options.logOutput === undefined ? "" : printFamilies([logDropFamily(options.logOutput)])),
    timeouts: defaultTimeouts
  })

/** Who else takes part in a compute; nobody by default. */
export interface Outside {
  readonly signals?: Signals
  /** Who started us, and wants to be told how we are. */
  readonly serviceManager?: ServiceManager
  /** Runs beside the compute as soon as HTTP answers. */
  readonly onListening?: (listening: Listening) => Effect.Effect<void, never, ComputeState | Commands | Promotions>
}

/**
 * Runs one compute to its end, and tells how it ended. Fails only with what kept the compute from having a life at
 * all; nothing has been logged of it then, and the status says `failed`.
 */
export const program = (options: ProgramOptions, outside: Outside = {}) =>
  programOf(options, Effect.succeed(options), outside)

/** The same for a compute whose spec has to be asked for: HTTP listens first. */
export const programOf = (
  listening: ListenOptions,
  find: Effect.Effect<ProgramOptions, Failure, ComputeState>,
  outside: Outside
) =>
  Effect.scoped(runProgram(listening, find, outside)).pipe(
    Effect.provide(Layer.provideMerge(Layer.mergeAll(Commands.layer, Promotions.layer), ComputeState.layer))
  )

type Keep = <R>(actors: ReadonlyArray<Actor<R>>) => Effect.Effect<unknown, never, R | ComputeState | Scope.Scope>

const runProgram = Effect.fnUntraced(function* (
  listening: ListenOptions,
  find: Effect.Effect<ProgramOptions, Failure, ComputeState>,
  { onListening, serviceManager, signals }: Outside
) {
  yield* countFromZero
  const gaveUp = yield* Deferred.make<never, ActorGaveUp>()
  /** For as long as the program runs, the exit delay included; so in no trace of the start. */
  const keep: Keep = (actors) =>
    supervise(actors).pipe(
      Effect.catch((failure) => Deferred.fail(gaveUp, failure)),
      below(null),
      Effect.forkScoped
    )
  if (signals !== undefined) yield* keep([signalActor(signals)])
  if (serviceManager !== undefined) yield* keep([serviceManager.actor])
  const later: Later = {
    hooks: yield* Ref.make<ComputeHooks["Service"] | null>(null),
    install: yield* Ref.make<PostgresInstall["Service"] | null>(null),
    vm: yield* Ref.make<Vm | null>(null)
  }
  const http = yield* listen(listening, later)
  const ports = { httpPort: http.port, internalHttpPort: http.internalPort }
  yield* keep<ComputeState | Commands | Promotions>([
    ...http.actors,
    ...(onListening === undefined
      ? []
      : [{ name: "start-up banner", kind: "auxiliary", run: onListening(ports) } as const])
  ])
  const essential = Deferred.await(gaveUp)
  const found = yield* unlessAsked("the search for a spec", find).pipe(Effect.raceFirst(essential), Effect.result)
  if (Result.isFailure(found)) return yield* endWithoutParts(found.failure)
  const options = found.success
  yield* Effect.logInfo(`compute_ctl ${options.version}, build_tag: ${options.buildTag}`)
  yield* http.guard(options.http.verifier)
  if (signals !== undefined) {
    yield* keep([reloadActor(signals.hangUps, options.http.refetch, serviceManager ?? null)])
  }
  return yield* Effect.provide(runFound(options, http, later, keep, essential), Admin.layer(sessionAddress(options)))
})

/** The spec is here, or nobody has one for us yet. */
const runFound = Effect.fnUntraced(function* (
  options: ProgramOptions,
  http: Effect.Success<ReturnType<typeof listen>>,
  later: Later,
  keep: Keep,
  essential: Effect.Effect<never, ActorGaveUp>
) {
  const routes = http.serve({
    parseSpec: options.parseSpec,
    refetch: options.http.refetch,
    verifier: options.http.verifier,
    communicatorSocket: Path.join(options.pgdata, "neon-communicator.socket")
  })
  const vm = options.vm === null ? null : yield* openVm(options.vm)
  yield* Ref.set(later.vm, vm)
  // Sooner when somebody asks for one.
  const routesInTime = Effect.raceFirst(http.held, options.spec === null ? Effect.void : startIsOver).pipe(
    Effect.andThen(routes),
    Effect.andThen(Effect.never)
  )
  yield* keep<Admin | ComputeState | Commands | Promotions>([
    { name: "HTTP routes", kind: "essential", run: routesInTime }
  ])

  const built = yield* Layer.build(parts(options, vm)).pipe(
    (build) => unlessAsked("the start", build),
    Effect.raceFirst(essential),
    Effect.result
  )
  if (Result.isFailure(built)) return yield* endWithoutParts(built.failure)
  return yield* Effect.provide(runWithParts(options, vm, later, keep, essential), built.success)
})

/** A start needs the processor that making the routes takes; probes, `/status` and `/metrics` need no route made. */
const startIsOver = Effect.flatMap(ComputeState, ({ changes }) =>
  Stream.runHead(Stream.filter(changes, ({ status }) => status !== "empty" && status !== "init"))
)

/** There was nothing to end yet. */
const endWithoutParts = Effect.fnUntraced(function* (failure: Failure): Effect.fn.Return<Ended, Failure, ComputeState> {
  const state = yield* ComputeState
  if (failure._tag !== "Abandoned") {
    yield* Effect.ignore(state.send("Broke", { error: explain(failure) }))
    return yield* Effect.fail(failure)
  }
  yield* Effect.ignore(state.send("PostgresGone"))
  return { exit: null, failure: null }
})

const runWithParts = Effect.fnUntraced(function* (
  options: ProgramOptions,
  vm: Vm | null,
  later: Later,
  keep: Keep,
  essential: Effect.Effect<never, ActorGaveUp>
) {
  const install = yield* PostgresInstall
  yield* Ref.set(later.install, install)
  yield* Ref.set(later.hooks, yield* ComputeHooks)
  const admin = yield* Admin
  yield* admin.expectMajor(install.major)
  const applier = yield* Applier
  const state = yield* ComputeState
  for (const condition of options.degraded ?? []) yield* state.raise(condition)
  yield* keep<Admin | ComputeState | Commands | PostgresInstall | Promotions | Spawn>([
    applier.actor,
    monitor({ exitWhenIdle: options.exitWhenIdle ?? false }),
    holdActor,
    ...options.watchers,
    ...(options.spec === null && options.storage._tag === "Neon" ? [prewarm(options.pgdata)] : []),
    ...(vm === null ? [] : [vm.actor]),
    ...(options.log === undefined ? [] : [logNameActor(options.log)]),
    ...(options.logOutput === undefined ? [] : [logDropWatch(options.logOutput)])
  ])
  return yield* runLifecycle({
    spec: options.spec,
    inputs: planInputsOf(options, install, admin.superuser),
    essential,
    ...(vm === null
      ? {}
      : { beforeStart: vm.check({ command: install.postgres, args: [], runAs: install.runAs, stages: [] }) }),
    ...(options.replicaMaxLag === undefined ? {} : { replicaMaxLag: options.replicaMaxLag }),
    ...(options.exitDelay ? {} : { exitDelayOf: () => Duration.zero })
  })
})
