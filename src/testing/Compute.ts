/**
 * A real compute as a scoped layer: real Postgres, real HTTP, ports and folders of its own, nothing left behind, also
 * when the process that has it is killed (`workFolder.ts`).
 *
 * Local storage in a temporary folder keeps the data for the life of the layer. The layer is built when the compute
 * is `running`; it fails with what the compute failed with.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as path from "node:path"
import type { Snapshot } from "../compute/snapshot.ts"
import { type Failure, SpecInvalid, type TimedOut, type WireFailed } from "../errors/Failure.ts"
import type { ProgramOptions } from "../lifecycle/options.ts"
import { sessionAddress } from "../lifecycle/sessionAddress.ts"
import type { Ended } from "../lifecycle/shutdown.ts"
import { defaultSuperuser as superuser } from "../pgwire/Admin.ts"
import { generatePassword } from "../pgwire/scramVerifier.ts"
import { connect, type Wire } from "../pgwire/Wire.ts"
import { attemptPromise, makeFolder } from "../platform/files.ts"
import { resolveRunAs } from "../platform/users.ts"
import { parseSpec } from "../spec/parseSpec.ts"
import type { StartedCompute, StartRequest } from "./computeProgram.ts"
import { leaveAncestor } from "./ancestor.ts"
import { logLines } from "./logLines.ts"
import type { Ancestor, ComputeOptions, TestDatabase } from "./options.ts"
import { type DatabaseOptions, testDatabase } from "./testDatabases.ts"
import { programOf } from "./postgresOption.ts"
import { printUrl, withPasswords } from "./passwords.ts"

const emptyCluster = { format_version: 1, suspend_timeout_seconds: -1, cluster: { roles: [], databases: [] } }

/**
 * A real compute as a service: real Postgres and HTTP, gone with the scope.
 *
 * @example
 * ```ts
 * const orders = Effect.gen(function* () {
 *   const compute = yield* Compute
 *   const wire = yield* compute.connect("shop")
 *   return yield* wire.rows("SELECT current_database()")
 * })
 * const answer = orders.pipe(Effect.scoped, Effect.provide(Compute.layer({ spec })))
 * ```
 */
export class Compute extends Context.Service<
  Compute,
  {
    /** `postgresql://…` of the superuser on 127.0.0.1, with a password of this layer's making. */
    readonly url: string
    /** The same for another database and role; a role that has a password of its own in the spec logs in with that. */
    readonly urlOf: (database: string, role?: string) => string
    /** `http://127.0.0.1:port`: `/status` and the rest. */
    readonly httpUrl: string
    readonly now: Effect.Effect<Snapshot>
    /** The last lines of the log, Postgres's too, oldest first. */
    readonly log: Effect.Effect<ReadonlyArray<string>>
    /** A superuser session that is gone with the scope. */
    readonly connect: (database?: string) => Effect.Effect<Wire, WireFailed, Scope.Scope>
    /** Sends a new spec, as `/configure` does, and waits until it is applied. */
    readonly configure: (spec: unknown) => Effect.Effect<Snapshot, Failure>
    /** A database of one test, copied from a template that is migrated once; gone with the scope. */
    readonly database: <E = never, R = never>(
      options?: DatabaseOptions<E, R>
    ) => Effect.Effect<TestDatabase, E | WireFailed | TimedOut, R | Scope.Scope>
    /** Everything as it was at the first start, at the same URLs: another cluster. Ends every session. */
    readonly reset: Effect.Effect<void, Failure>
    /** Ends the compute and waits for the end. The scope does it too. */
    readonly terminate: Effect.Effect<Ended, Failure>
  }
>()("compute/testing/Compute") {
  /**
   * A cluster that `fill` makes once, and of which `branchOf` gives each test its own: its compute has ended then.
   * It is gone with the scope, so branches end before.
   *
   * @example
   * ```ts
   * const seeded = Compute.ancestor({ spec }, (compute) =>
   *   Effect.scoped(Effect.flatMap(compute.connect("shop"), (wire) => wire.rows("CREATE TABLE orders ()")))
   * )
   * const branch = Layer.unwrap(Effect.map(seeded, (branchOf) => Compute.layer({ branchOf })))
   * ```
   */
  static readonly ancestor = <E = never, R = never>(
    options: ComputeOptions,
    fill: (compute: Compute["Service"]) => Effect.Effect<unknown, E, R>
  ): Effect.Effect<Ancestor, Failure | E, R | Scope.Scope> => makeAncestor(options, fill)

  /**
   * Ready when the compute is `running`; fails with what the compute failed with.
   *
   * @example
   * ```ts
   * const shop = Compute.layer({ spec, postgres: 17, log: "silent" })
   * ```
   */
  static readonly layer = (options: ComputeOptions = {}): Layer.Layer<Compute, Failure> =>
    Layer.effect(
      Compute,
      Effect.map(live(options), ({ compute }) => compute)
    )

  /**
   * A client of `@effect/sql-pg` for a database, as a role of the spec or as the superuser.
   *
   * @example
   * ```ts
   * const shop = Compute.sql("shop", "web").pipe(Layer.provideMerge(Compute.layer({ spec })))
   * ```
   */
  static readonly sql = (database = "postgres", role?: string) =>
    Layer.unwrap(
      Effect.gen(function* () {
        const { urlOf } = yield* Compute
        // Not before somebody wants it.
        const client = yield* Effect.promise(() => import("@effect/sql-pg/PgClient"))
        return client.layer({ url: Redacted.make(urlOf(database, role)) })
      })
    )
}

/** Over the socket, where no password is asked for. */
const sessionTo = (options: ProgramOptions, database: string) => {
  const { host, port } = sessionAddress(options)
  return connect({ host, port, user: superuser, database, connectWithin: Duration.seconds(10) })
}

const parserWith = (password: Redacted.Redacted<string>) => (input: unknown) =>
  Result.map(parseSpec(input, { source: "Compute.layer", storage: "local" }), withPasswords(password))

/** A compute in a scope of its own, that can make room for the next. */
interface Current {
  readonly started: StartedCompute
  readonly scope: Scope.Closeable
}

const startIn = Effect.fnUntraced(function* (parent: Scope.Scope, request: StartRequest, port?: Effect.Effect<number>) {
  const scope = yield* Scope.fork(parent)
  // Most of what there is to load. Whoever imports the library may start no compute, or not in this process.
  const { startProgram } = yield* Effect.promise(() => import("./computeProgram.ts"))
  return yield* startProgram(request, port).pipe(
    Effect.provideService(Scope.Scope, scope),
    Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause))),
    Effect.map((started): Current => ({ started, scope }))
  )
})

const removeStorage = (directory: string) => {
  const storage = path.join(directory, "storage")
  return attemptPromise("remove", storage, () => fs.promises.rm(storage, { recursive: true, force: true }))
}

const refused = (message: string) => new SpecInvalid({ source: "Compute.configure", problems: [{ path: "", message }] })

const refuseKept = ({ branchOf, directory }: ComputeOptions) =>
  branchOf === undefined || directory === undefined
    ? Effect.void
    : Effect.fail(refused("a branch goes with its compute: give it no directory"))

/** A branch is what its ancestor was started with, unless it says otherwise: then there is nothing to apply. */
const inherit = (options: ComputeOptions): ComputeOptions => {
  const { branchOf } = options
  if (branchOf === undefined) return options
  const { password, postgres, spec } = branchOf
  return { password, spec, ...(postgres === undefined ? {} : { postgres }), ...options }
}

const live = Effect.fn("Compute.layer")(function* (wanted: ComputeOptions) {
  yield* refuseKept(wanted)
  const options = inherit(wanted)
  const password = options.password === undefined ? generatePassword() : Redacted.make(options.password)
  const log = logLines(options.log ?? "onFailure")
  const parse = parserWith(password)
  const runAs = yield* resolveRunAs(null)
  const directory = options.directory === undefined ? null : path.resolve(options.directory)
  if (directory !== null) yield* makeFolder(directory, runAs)
  const request: StartRequest = {
    spec: yield* Effect.fromResult(parse(options.spec ?? emptyCluster)),
    parseSpec: parse,
    postgres: yield* programOf(options.postgres),
    durability: options.durability ?? "process",
    directory,
    runAs,
    branchOf: options.branchOf ?? null,
    log,
    httpPort: 0
  }
  const scope = yield* Effect.scope
  const first = yield* startIn(scope, request)
  const current = yield* Ref.make(first)
  const { httpPort } = first.started
  const { port } = first.started.options.at
  const running = Effect.map(Ref.get(current), ({ started }) => started)
  const urlOf = (database: string, role: string = superuser) =>
    printUrl({ database, role, port, password: Redacted.value(password) })
  const connectTo = (database: string) =>
    Effect.flatMap(running, ({ options: program }) => sessionTo(program, database))
  const again = startIn(scope, { ...request, httpPort }, Effect.succeed(port))
  const compute = Compute.of({
    url: urlOf("postgres"),
    urlOf,
    httpUrl: `http://127.0.0.1:${httpPort}`,
    now: Effect.flatMap(running, ({ state }) => state.now),
    log: Effect.sync(log.lines),
    connect: (database = "postgres") => connectTo(database),
    database: (wanted) => testDatabase({ connect: connectTo, urlOf }, wanted),
    configure: (input) =>
      Effect.gen(function* () {
        const { commands, options: program } = yield* running
        return yield* commands.configure(yield* Effect.fromResult(program.parseSpec(input)))
      }).pipe(
        Effect.provide(log.logger),
        Effect.catchTag("IllegalTransition", ({ message }) => Effect.fail(refused(message)))
      ),
    reset: Effect.gen(function* () {
      yield* Scope.close((yield* Ref.get(current)).scope, Exit.void)
      if (directory !== null) yield* removeStorage(directory)
      yield* Ref.set(current, yield* again)
    }),
    terminate: Effect.flatMap(running, ({ terminate }) => terminate)
  })
  const ancestor = Effect.gen(function* () {
    const storage = yield* leaveAncestor(yield* running).pipe(Effect.provide(log.logger))
    const { postgres } = options
    const made = { storage, spec: options.spec ?? emptyCluster, password: Redacted.value(password) }
    return (postgres === undefined ? made : { ...made, postgres }) satisfies Ancestor
  })
  return { compute, ancestor }
})

const vacuumedWithin = Duration.minutes(10)

/** What reading a table for the first time would write to it is written once, and not by every branch. */
const settle = Effect.fnUntraced(function* ({ connect: to }: Compute["Service"]) {
  const databases = yield* Effect.scoped(
    Effect.flatMap(to(), (wire) =>
      wire.rows("SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate")
    )
  )
  for (const [name] of databases)
    yield* Effect.scoped(
      Effect.flatMap(to(name ?? undefined), (wire) => wire.rows("VACUUM (FREEZE, ANALYZE)", vacuumedWithin))
    )
})

const makeAncestor = Effect.fn("Compute.ancestor")(function* <E, R>(
  options: ComputeOptions,
  fill: (compute: Compute["Service"]) => Effect.Effect<unknown, E, R>
) {
  const { ancestor, compute } = yield* live(options)
  yield* fill(compute)
  yield* settle(compute)
  return yield* ancestor
})
