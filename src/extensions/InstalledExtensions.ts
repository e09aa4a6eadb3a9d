/**
 * The inventory of installed extensions: taken after the start and now and then, and kept for the metrics
 * (docs/reference/compute_ctl.md#after-the-start).
 *
 * A failure is logged and never stops the compute. How it is counted is in `countExtensions.ts`.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { within } from "../errors/within.ts"
import { Admin } from "../pgwire/Admin.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import type { Family } from "../telemetry/prometheus.ts"
import { countExtensions, type ExtensionCounts, inventoryBody, inventoryFamily } from "./countExtensions.ts"

/** Of a compute that is never suspended, or suspended by a default we do not know. */
const unsuspendedSeconds = 3600

/** `suspendTimeoutSeconds` is `null` until the spec has been applied to the catalog. */
export const inventoryInterval = (given: number, suspendTimeoutSeconds: number | null): number =>
  suspendTimeoutSeconds === null ? given : suspendTimeoutSeconds > 0 ? suspendTimeoutSeconds : unsuspendedSeconds

/** Twice the interval, so that a compute which is about to be suspended is not asked; it never shrinks. */
export const inventoryPeriod = (before: number, intervalSeconds: number): number =>
  Math.max(before, 2 * intervalSeconds)

/** For all databases. */
const countWithin = Duration.minutes(5)

const readAllFiles = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_available_extensions"
const readWithin = Duration.seconds(10)

export interface InstalledExtensionsOptions {
  readonly apiVersion: ApiVersion
  /** `--installed-extensions-collection-interval`; counts until a spec has been applied. */
  readonly intervalSeconds: number
}

export class InstalledExtensions extends Context.Service<
  InstalledExtensions,
  {
    readonly options: InstalledExtensionsOptions
    /** Asks every database, and remembers the answer for `family`. */
    readonly take: Effect.Effect<ExtensionCounts, WireFailed | TimedOut>
    /** Reads every control file there is, as users' tools do; fails when one of them is broken. */
    readonly readFiles: Effect.Effect<void, WireFailed | TimedOut>
    /** The gauge of the last inventory; without samples before the first. */
    readonly family: Effect.Effect<Family>
  }
>()("compute/inventory/InstalledExtensions") {
  static readonly layer = (options: InstalledExtensionsOptions): Layer.Layer<InstalledExtensions, never, Admin> =>
    Layer.effect(InstalledExtensions, make(options))
}

const make = Effect.fnUntraced(function* (options: InstalledExtensionsOptions) {
  const admin = yield* Admin
  const last = yield* Ref.make<ExtensionCounts>([])
  return InstalledExtensions.of({
    options,
    take: countExtensions(admin, "inventory").pipe(
      within("the inventory of extensions", countWithin),
      Effect.tap((counts) => Ref.set(last, counts))
    ),
    readFiles: Effect.scoped(
      Effect.flatMap(admin.connect("get_installed_extensions"), (wire) => wire.rows(readAllFiles, readWithin))
    ).pipe(Effect.asVoid),
    family: Effect.map(Ref.get(last), (counts) => inventoryFamily(counts, options.apiVersion))
  })
})

const logFailure = <A>(effect: Effect.Effect<A, WireFailed | TimedOut>) =>
  Effect.catch(effect, (failure) =>
    Effect.as(Effect.logWarning(`the inventory of extensions could not be taken: ${explain(failure)}`), null)
  )

/** A primary's first inventory, as one line that log pipelines look for. */
const logFirst = Effect.gen(function* () {
  const inventory = yield* InstalledExtensions
  const state = yield* ComputeState
  if ((yield* state.now).spec?.mode._tag !== "Primary") return
  const counts = yield* logFailure(inventory.take)
  if (counts !== null)
    yield* Effect.logInfo(`[NEON_EXT_STAT] ${JSON.stringify(inventoryBody(counts, inventory.options.apiVersion))}`)
})

/** A file with a fault makes the list of extensions fail for every user, and Postgres names it. */
const checkFiles = Effect.gen(function* () {
  const state = yield* ComputeState
  const read = yield* Effect.result((yield* InstalledExtensions).readFiles)
  if (Result.isSuccess(read)) return yield* state.clear("extension_unusable")
  // Without a code Postgres has not said so, but is gone.
  if (read.failure._tag === "TimedOut" || read.failure.sqlState === undefined) return
  yield* state.raise({
    code: "extension_unusable",
    message: `the list of available extensions cannot be read, because a file is broken: ${explain(read.failure)}`
  })
})

/** Once after the start, then every period; starts with a pause, so that a short-lived compute is asked once. */
export const inventoryActor: Actor<InstalledExtensions | ComputeState> = {
  name: "extension inventory",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    const inventory = yield* InstalledExtensions
    const state = yield* ComputeState
    yield* state.until("running")
    yield* checkFiles
    yield* logFirst
    let periodSeconds = 0
    while (true) {
      const { applyReport, spec } = yield* state.now
      const suspendTimeout = applyReport === null ? null : (spec?.suspendTimeoutSeconds ?? null)
      periodSeconds = inventoryPeriod(
        periodSeconds,
        inventoryInterval(inventory.options.intervalSeconds, suspendTimeout)
      )
      yield* Effect.sleep(Duration.seconds(periodSeconds))
      if ((yield* state.now).status !== "running") continue
      yield* checkFiles
      yield* logFailure(inventory.take)
    }
  })
}
