/**
 * Which extensions are installed in which databases: asked on demand, after the start, and now and then
 * (reference section 4.9).
 *
 * May miss: a database that cannot be asked is told and left out, and no failure stops the compute. Few sessions at
 * a time, one database each; they are our own, so they never count as activity.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import type { Counted, ExtensionCounts, Installed } from "../compute/ComputeHooks.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { TimedOut, type WireFailed } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { Admin } from "../pgwire/Admin.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import type { Family } from "../telemetry/prometheus.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Which extensions are installed in how many databases, what that looks like in the log and as a metric, and how
// often it is asked (reference section 4.9). Asks nobody.
// ---------------------------------------------------------------------------------------------------------------------

const compare = (one: string, other: string): number => (one < other ? -1 : one > other ? 1 : 0)

/** One element per database. In the order of names, so that two inventories can be compared. */
export const count = (databases: ReadonlyArray<ReadonlyArray<Installed>>): ExtensionCounts => {
  const counted = new Map<string, Counted>()
  for (const one of databases.flat()) {
    const key = JSON.stringify([one.name, one.version, one.ownedBySuperuser])
    counted.set(key, { ...one, databases: (counted.get(key)?.databases ?? 0) + 1 })
  }
  return [...counted.values()].sort(
    (one, other) => compare(one.name, other.name) || compare(one.version, other.version)
  )
}

const flag = (owned: boolean): string => (owned ? "1" : "0")

/** The older generation lists an extension once, with the versions it has somewhere. */
const byName = (inventory: ExtensionCounts) =>
  [...new Set(inventory.map(({ name }) => name))].map((name) => {
    const same = inventory.filter((one) => one.name === name)
    return {
      extname: name,
      versions: [...new Set(same.map(({ version }) => version))],
      n_databases: same.reduce((sum, one) => sum + one.databases, 0)
    }
  })

/** What `/installed_extensions` answers and the log line carries. */
export const inventoryBody = (
  inventory: ExtensionCounts,
  apiVersion: ApiVersion
): { readonly extensions: ReadonlyArray<unknown> } => ({
  extensions:
    apiVersion === "2024"
      ? byName(inventory)
      : inventory.map((one) => ({
          extname: one.name,
          version: one.version,
          n_databases: one.databases,
          owned_by_superuser: flag(one.ownedBySuperuser)
        }))
})

/** Made afresh of each inventory, so what is not installed any more leaves no sample. */
export const inventoryFamily = (inventory: ExtensionCounts, apiVersion: ApiVersion): Family => ({
  name: apiVersion === "2024" ? "installed_extensions" : "compute_installed_extensions",
  type: "gauge",
  help: "Number of databases where the version of extension is installed",
  samples:
    apiVersion === "head"
      ? inventory.map((one) => ({
          labels: { extension_name: one.name, version: one.version, owned_by_superuser: flag(one.ownedBySuperuser) },
          value: one.databases
        }))
      : [...Map.groupBy(inventory, ({ name, version }) => JSON.stringify([name, version])).values()].map((same) => ({
          labels: { extension_name: same[0]?.name ?? "", version: same[0]?.version ?? "" },
          value: same.reduce((sum, one) => sum + one.databases, 0)
        }))
})

/** Of a compute that is never suspended, or suspended by a default we do not know. */
const unsuspendedSeconds = 3600

/** `suspendTimeoutSeconds` is `null` until the spec has been applied to the catalog. */
export const inventoryInterval = (given: number, suspendTimeoutSeconds: number | null): number =>
  suspendTimeoutSeconds === null ? given : suspendTimeoutSeconds > 0 ? suspendTimeoutSeconds : unsuspendedSeconds

/** Twice the interval, so that a compute which is about to be suspended is not asked; it never shrinks. */
export const inventoryPeriod = (before: number, intervalSeconds: number): number =>
  Math.max(before, 2 * intervalSeconds)

// ---------------------------------------------------------------------------------------------------------------------

/** More databases than this are not asked. */
const mostDatabases = 500
/** Sessions at the same time. */
const atOnce = 2
/** For one database's answer, and for all of them. */
const answerWithin = Duration.seconds(10)
const within = Duration.minutes(5)

/** Half dropped databases (`datconnlimit` -2) refuse everybody. */
const databasesSql = `SELECT datname FROM pg_catalog.pg_database
WHERE datallowconn AND datconnlimit <> -2 ORDER BY oid LIMIT ${mostDatabases}`

const installedSql = "SELECT extname, extversion, (extowner = 10)::int FROM pg_catalog.pg_extension"

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

  const ask = (sql: string, database?: string) =>
    Effect.scoped(
      Effect.flatMap(admin.connect("get_installed_extensions", database), (wire) => wire.rows(sql, answerWithin))
    )

  const askOne = (database: string) =>
    Effect.result(ask(installedSql, database)).pipe(
      Effect.flatMap((answer) =>
        Result.isSuccess(answer)
          ? Effect.succeed(
              answer.success.map((row): Installed => ({
                name: row[0] ?? "",
                version: row[1] ?? "",
                ownedBySuperuser: row[2] === "1"
              }))
            )
          : // It may have been dropped since it was listed.
            Effect.as(leftOut(database, answer.failure), [])
      )
    )

  const take = Effect.gen(function* () {
    const names = (yield* ask(databasesSql)).flatMap(([name]) => (name === null || name === undefined ? [] : [name]))
    const counts = count(yield* Effect.forEach(names, askOne, { concurrency: atOnce }))
    yield* Ref.set(last, counts)
    return counts
  }).pipe(
    Effect.timeoutOrElse({
      duration: within,
      orElse: () =>
        Effect.fail(new TimedOut({ what: "the inventory of extensions", millis: Duration.toMillis(within) }))
    }),
    Effect.withSpan("InstalledExtensions.take")
  )

  return InstalledExtensions.of({
    options,
    take,
    family: Effect.map(Ref.get(last), (counts) => inventoryFamily(counts, options.apiVersion))
  })
})

const leftOut = (database: string, failure: WireFailed | TimedOut) =>
  Effect.logWarning(`database ${JSON.stringify(database)} is not in the inventory: ${causesOf(failure).join(": ")}`)

const told = <A>(effect: Effect.Effect<A, WireFailed | TimedOut>) =>
  Effect.catch(effect, (failure) =>
    Effect.as(
      Effect.logWarning(`the inventory of extensions could not be taken: ${causesOf(failure).join(": ")}`),
      null
    )
  )

/** A primary's first inventory, as one line that log pipelines look for. */
const first = Effect.gen(function* () {
  const inventory = yield* InstalledExtensions
  const state = yield* ComputeState
  if ((yield* state.now).spec?.mode._tag !== "Primary") return
  const counts = yield* told(inventory.take)
  if (counts !== null)
    yield* Effect.logInfo(`[NEON_EXT_STAT] ${JSON.stringify(inventoryBody(counts, inventory.options.apiVersion))}`)
})

/** Once after the start, then every period; starts with a pause, so that a short-lived compute is asked once. */
export const inventoryActor: Actor<InstalledExtensions | ComputeState> = {
  name: "inventory keeper",
  kind: "auxiliary",
  run: Effect.gen(function* () {
    const inventory = yield* InstalledExtensions
    const state = yield* ComputeState
    yield* state.until("running")
    yield* first
    let periodSeconds = 0
    while (true) {
      const { applyReport, spec } = yield* state.now
      const suspendTimeout = applyReport === null ? null : (spec?.suspendTimeoutSeconds ?? null)
      periodSeconds = inventoryPeriod(
        periodSeconds,
        inventoryInterval(inventory.options.intervalSeconds, suspendTimeout)
      )
      yield* Effect.sleep(Duration.seconds(periodSeconds))
      if ((yield* state.now).status === "running") yield* told(inventory.take)
    }
  })
}
