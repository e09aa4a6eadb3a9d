/**
 * A real compute as a scoped layer: real Postgres, real HTTP, ports and folders of its own, nothing left behind.
 *
 * Local storage in a temporary folder keeps the data for the life of the layer. The layer is built when the compute
 * is `running`; it fails with what the compute failed with.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as FS from "node:fs/promises"
import * as Net from "node:net"
import * as OS from "node:os"
import * as Path from "node:path"
import { Commands } from "../compute/Commands.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import { Abandoned, type Failure, FileFailed, SpecInvalid, type WireFailed } from "../errors/Failure.ts"
import type { Ended } from "../lifecycle/shutdown.ts"
import type { ProgramOptions } from "../lifecycle/options.ts"
import { program } from "../lifecycle/Program.ts"
import { sessionAddress } from "../lifecycle/sessionAddress.ts"
import { defaultSuperuser as superuser } from "../pgwire/Admin.ts"
import { quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import { generatePassword, scramVerifier } from "../pgwire/scramVerifier.ts"
import { connect, type Wire } from "../pgwire/Wire.ts"
import { resolveRunAs } from "../platform/users.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { parseSpec } from "../spec/parseSpec.ts"

export interface ComputeOptions {
  /** The spec as the control plane would write it. Default: an empty cluster. */
  readonly spec?: unknown
  /** Path of a `postgres` program. Default: the embedded one. */
  readonly postgres?: string
  /** `process` (default) survives a kill; `os` survives a power cut and costs an fsync per commit. */
  readonly durability?: "os" | "process"
  /** Keep the storage in this folder instead of a temporary one: a second layer finds the data of the first. */
  readonly directory?: string
}

const emptyCluster = { format_version: 1, suspend_timeout_seconds: -1, cluster: { roles: [], databases: [] } }

/** A port nobody listens on right now. */
const freePort = Effect.callback<number, FileFailed>((resume) => {
  const server = Net.createServer()
  server.once("error", (cause) =>
    resume(Effect.fail(new FileFailed({ operation: "find a free port", path: "127.0.0.1", cause })))
  )
  server.listen(0, "127.0.0.1", () => {
    const address = server.address()
    server.close(() => resume(Effect.succeed(address !== null && typeof address === "object" ? address.port : 0)))
  })
})

const file = <A>(operation: string, path: string, work: () => Promise<A>) =>
  Effect.tryPromise({ try: work, catch: (cause) => new FileFailed({ operation, path, cause }) })

const folder = Effect.acquireRelease(
  Effect.gen(function* () {
    const runAs = yield* resolveRunAs(null)
    const prefix = Path.join(OS.tmpdir(), "compute-")
    const made = yield* file("make a folder like", prefix, () => FS.mkdtemp(prefix))
    if (runAs !== null) yield* file("give away", made, () => FS.chown(made, runAs.uid, runAs.gid))
    return made
  }),
  (made) => Effect.orDie(file("remove", made, () => FS.rm(made, { recursive: true, force: true })))
)

export class Compute extends Context.Service<
  Compute,
  {
    /** `postgresql://…` of the superuser on 127.0.0.1, with a password of this layer's making. */
    readonly url: string
    /** `http://127.0.0.1:port`: `/status` and the rest. */
    readonly httpUrl: string
    readonly now: Effect.Effect<Snapshot>
    /** A superuser session that is gone with the scope. */
    readonly connect: (database?: string) => Effect.Effect<Wire, WireFailed, Scope.Scope>
    /** Sends a new spec, as `/configure` does, and waits until it is applied. */
    readonly configure: (spec: unknown) => Effect.Effect<Snapshot, Failure>
    /** Ends the compute and waits for the end. The scope does it too. */
    readonly terminate: Effect.Effect<Ended, Failure>
  }
>()("compute/testing/Compute") {
  static readonly layer = (options: ComputeOptions = {}): Layer.Layer<Compute, Failure> =>
    Layer.effect(Compute, live(options))
}

const parse = (input: unknown) => parseSpec(input, { source: "Compute.layer", storage: "local" })

const programOptions = (options: ComputeOptions, directory: string, port: number, spec: ParsedSpec): ProgramOptions => {
  const pgdata = Path.join(directory, "pgdata")
  return {
    apiVersion: "head",
    spec,
    storage: { _tag: "Local", directory: Path.join(directory, "storage"), durability: options.durability ?? "process" },
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
    postgres: options.postgres ?? null,
    runAs: null,
    privilegedRole: "neon_superuser",
    exitDelay: false,
    computeId: null,
    buildTag: "library",
    vm: null,
    hooks: hookOptions(pgdata),
    http: {
      host: "127.0.0.1",
      externalPort: 0,
      internalPort: null,
      liveConfigAllowed: true,
      verifier: null,
      tls: null,
      refetch: null
    },
    watchers: [],
    version: "library",
    parseSpec: parse,
    host: {
      path: undefined,
      platform: OS.platform(),
      overcommitMemory: null,
      embeddedRoot: import.meta.dirname,
      cacheDirectory: Path.join(OS.tmpdir(), "compute-ctl-cache")
    }
  }
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

/** Over the socket, where no password is asked for. */
const sessionsOf = (options: ProgramOptions) => (database: string) => {
  const { host, port } = sessionAddress(options)
  return connect({ host, port, user: superuser, database, connectWithin: Duration.seconds(10) })
}

/** For clients of tests that know TCP only. */
const setPassword = (session: ReturnType<ReturnType<typeof sessionsOf>>, password: Redacted.Redacted<string>) =>
  Effect.scoped(
    Effect.flatMap(session, (wire) =>
      wire.simple(
        `ALTER ROLE ${quoteIdentifier(superuser)} PASSWORD ${quoteLiteral(Redacted.value(scramVerifier(password)))}`
      )
    )
  )

interface Listening {
  readonly httpPort: number
  readonly context: Context.Context<ComputeState | Commands>
}

/** Runs the program in the scope; succeeds once it listens, when its state and commands can be used. */
const listen = Effect.fnUntraced(function* (options: ProgramOptions) {
  const listening = yield* Deferred.make<Listening, Failure>()
  const fiber = yield* program(options, {
    onListening: ({ httpPort }) =>
      Effect.flatMap(Effect.context<ComputeState | Commands>(), (context) =>
        Effect.asVoid(Deferred.succeed(listening, { httpPort, context }))
      )
  }).pipe(
    Effect.tapError((failure) => Deferred.fail(listening, failure)),
    Effect.forkScoped
  )
  return { ...(yield* Deferred.await(listening)), fiber }
})

const live = Effect.fn("Compute.layer")(function* (options: ComputeOptions) {
  const directory = options.directory ?? (yield* folder)
  const port = yield* freePort
  const spec = yield* Effect.fromResult(parse(options.spec ?? emptyCluster))
  const all = programOptions(options, directory, port, spec)
  const { context, fiber, httpPort } = yield* listen(all)
  const state = Context.get(context, ComputeState)
  const commands = Context.get(context, Commands)
  const terminate = Effect.andThen(commands.terminate("immediate"), Fiber.join(fiber))
  yield* Effect.addFinalizer(() => Effect.ignore(Effect.timeout(terminate, Duration.minutes(2))))

  const reached = yield* state.until("running", "failed")
  if (reached.status === "failed") {
    const ended = yield* terminate
    return yield* Effect.fail(ended.failure ?? new Abandoned({ what: "the start" }))
  }
  const session = sessionsOf(all)
  const password = generatePassword()
  yield* setPassword(session("postgres"), password)
  return Compute.of({
    url: `postgresql://${superuser}:${Redacted.value(password)}@127.0.0.1:${port}/postgres`,
    httpUrl: `http://127.0.0.1:${httpPort}`,
    now: state.now,
    connect: (database = "postgres") => session(database),
    configure: (input) =>
      Effect.fromResult(parse(input)).pipe(
        Effect.flatMap(commands.configure),
        Effect.catchTag("IllegalTransition", (refused) =>
          Effect.fail(
            new SpecInvalid({ source: "Compute.configure", problems: [{ path: "", message: refused.message }] })
          )
        )
      ),
    terminate
  })
})
