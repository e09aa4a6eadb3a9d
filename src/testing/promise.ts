/**
 * What `compute-ctl/promise` exports: a real compute, and fakes, for tests that do not use Effect.
 *
 * For vitest, jest, `node:test` and whatever else awaits a promise; any client of Postgres gets a URL.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { Compute } from "./Compute.ts"
import type { Ancestor, ComputeOptions, TemplateOptions, TestDatabase } from "./options.ts"
import { verifierOf as passwordVerifier } from "./passwords.ts"
import type { FakeAddress, FakeFaults, FakeOptions, FakeScript, FakeSeen } from "./fakes/script.ts"
import { clusterAt, testDatabase } from "./testDatabases.ts"

export type { Ancestor, ComputeOptions, FakeAddress, FakeFaults, FakeOptions, FakeScript, FakeSeen }

/**
 * What Postgres stores for a password (SCRAM-SHA-256), as a spec has it in `encrypted_password`. Another one at each
 * call, since its salt is random.
 *
 * @example
 * ```ts
 * const roles = [{ name: "web", encrypted_password: verifierOf("a password of the test") }]
 * ```
 */
export const verifierOf: (password: string) => string = passwordVerifier

export interface PromisedDatabaseOptions extends TemplateOptions {
  /** Fills the template, once per cluster, whoever comes first; gets its URL. Nobody connects to it afterwards. */
  readonly migrate?: (url: string) => Promise<unknown>
}

/** Dropped at the end of an `await using`, with whoever is connected to it then. */
export interface DisposableDatabase extends TestDatabase, AsyncDisposable {
  readonly drop: () => Promise<void>
}

export interface RunningCompute extends AsyncDisposable {
  /** `postgresql://…` of the superuser in the database `postgres`. */
  readonly url: string
  /** The same for another database, and for a role of the spec. */
  readonly urlOf: (database: string, role?: string) => string
  /** `http://127.0.0.1:port`: `/status` and the rest. */
  readonly httpUrl: string
  /** The last lines of its log, Postgres's too, oldest first. */
  readonly log: () => ReadonlyArray<string>
  /** Applies a new spec, as `/configure` does. */
  readonly configure: (spec: unknown) => Promise<void>
  /** A database of one test, copied from a template that is migrated once. */
  readonly database: (options?: PromisedDatabaseOptions) => Promise<DisposableDatabase>
  /** Everything as it was at the start, at the same URLs: another cluster. Ends every session. */
  readonly reset: () => Promise<void>
  /** Ends the compute; nothing of it is left. The end of an `await using` does it too, and so does our process's. */
  readonly stop: () => Promise<void>
}

const migrationOf = ({ migrate, ...rest }: PromisedDatabaseOptions) => ({
  ...rest,
  ...(migrate === undefined
    ? {}
    : { migrate: (url: string) => Effect.tryPromise({ try: () => migrate(url), catch: (cause) => cause }) })
})

/** Waits for it; where it fails, nothing of it is left. */
const inScope = async <A, E>(make: Effect.Effect<A, E, Scope.Scope>) => {
  const scope = Effect.runSync(Scope.make())
  const close = () => Effect.runPromise(Scope.close(scope, Exit.void))
  const made = await Effect.runPromiseExit(Effect.provideService(make, Scope.Scope, scope))
  if (Exit.isSuccess(made)) return { made: made.value, close }
  await close()
  throw Cause.squash(made.cause)
}

const disposable = async <E>(make: Effect.Effect<TestDatabase, E, Scope.Scope>): Promise<DisposableDatabase> => {
  const { close: drop, made } = await inScope(make)
  return { ...made, drop, [Symbol.asyncDispose]: drop }
}

/**
 * A database of one test in a compute that another process started, of which it has the URL, such as vitest's
 * `globalSetup`. The template is migrated once, whichever process comes first.
 *
 * @example
 * ```ts
 * await using database = await databaseAt(url, { migrate })
 * ```
 */
export const databaseAt = (url: string, options: PromisedDatabaseOptions = {}): Promise<DisposableDatabase> =>
  disposable(testDatabase(clusterAt(url), migrationOf(options)))

/** What a compute has while it runs, but for its end. */
export type SeededCompute = Pick<RunningCompute, "configure" | "database" | "httpUrl" | "log" | "url" | "urlOf">

export interface MadeAncestor extends AsyncDisposable {
  /** For `branchOf`; plain data, which vitest's `globalSetup` can provide. */
  readonly ancestor: Ancestor
  /** Removes it, once its branches have ended. The end of an `await using` does it too, and so does our process's. */
  readonly remove: () => Promise<void>
}

const useOf = (compute: Compute["Service"]): SeededCompute => ({
  url: compute.url,
  urlOf: compute.urlOf,
  httpUrl: compute.httpUrl,
  log: () => Effect.runSync(compute.log),
  configure: async (spec) => void (await Effect.runPromise(compute.configure(spec))),
  database: (wanted = {}) => disposable(compute.database(migrationOf(wanted)))
})

/**
 * Makes a cluster once, of which `branchOf` gives each test its own, with all that `fill` put into it. Rejects with
 * what it failed with.
 *
 * @example
 * ```ts
 * await using made = await makeAncestor({ spec }, (pg) => migrate(pg.urlOf("shop", "web")))
 * await using pg = await startCompute({ branchOf: made.ancestor })
 * ```
 */
export const makeAncestor = async (
  options: ComputeOptions,
  fill: (pg: SeededCompute) => Promise<unknown>
): Promise<MadeAncestor> => {
  const filled = (compute: Compute["Service"]) =>
    Effect.tryPromise({ try: () => fill(useOf(compute)), catch: (cause) => cause })
  const { close, made } = await inScope(Compute.ancestor(options, filled))
  return { ancestor: made, remove: close, [Symbol.asyncDispose]: close }
}

/**
 * Starts a compute and waits until its Postgres takes connections and has what the spec says. Rejects with what it
 * failed with.
 *
 * @example
 * ```ts
 * await using pg = await startCompute({
 *   spec: { format_version: 1, cluster: { roles: [{ name: "web" }], databases: [{ name: "shop", owner: "web" }] } }
 * })
 * const url = pg.urlOf("shop", "web")
 * ```
 */
export const startCompute = async (options: ComputeOptions = {}): Promise<RunningCompute> => {
  const { close: stop, made } = await inScope(Layer.build(Compute.layer(options)))
  const compute = Context.get(made, Compute)
  return {
    ...useOf(compute),
    reset: () => Effect.runPromise(compute.reset),
    stop,
    [Symbol.asyncDispose]: stop
  }
}

export interface RunningFake extends FakeAddress, AsyncDisposable {
  /** What it has been asked. */
  readonly seen: () => FakeSeen
  /** Arms more of what goes wrong, behind what is armed already. Rejects with what is wrong with it. */
  readonly fault: (faults: FakeFaults) => Promise<void>
  /** As it was at the start: nothing seen, the script from its beginning, of a compute a new life. */
  readonly reset: () => Promise<void>
  /** Ends it. The end of an `await using` does it too. */
  readonly stop: () => Promise<void>
}

/**
 * Starts a fake compute, control plane, pageserver or safekeeper, as a script says. Rejects with what is wrong with the
 * script, by its path. Nothing of fakes is loaded before the first one.
 *
 * @example
 * ```ts
 * await using compute = await startFake({ kind: "compute", steps: [{ at: "start", delay: "2s" }] })
 * const status = await fetch(`${compute.url}/status`)
 * ```
 */
export const startFake = async (script: FakeScript, options: FakeOptions = {}): Promise<RunningFake> => {
  const { startedFake } = await import("./fakes/fakes.ts")
  const { address, stop, ...fake } = await startedFake(script, options)
  return { ...address, ...fake, stop, [Symbol.asyncDispose]: stop }
}
