/**
 * Which extensions are installed in how many databases: asked of Postgres, and what that looks like in the log and as a
 * metric (docs/reference/compute_ctl.md#after-the-start).
 *
 * The sessions are our own, so they never count as activity.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import type { Admin } from "../pgwire/Admin.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import type { Family } from "../telemetry/prometheus.ts"

/** An extension as one database has it. */
export interface InstalledExtension {
  readonly name: string
  readonly version: string
  /** Whether its owner is the first superuser (oid 10). */
  readonly ownedBySuperuser: boolean
}

interface CountedExtension extends InstalledExtension {
  readonly databases: number
}

export type ExtensionCounts = ReadonlyArray<CountedExtension>

const compare = (one: string, other: string): number => (one < other ? -1 : one > other ? 1 : 0)

/** One element per database. In the order of names, so that two inventories can be compared. */
export const count = (databases: ReadonlyArray<ReadonlyArray<InstalledExtension>>): ExtensionCounts => {
  const counted = new Map<string, CountedExtension>()
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

// -- asking Postgres

/** More databases than this are not asked. */
const mostDatabases = 500
/** Sessions at the same time. */
const atOnce = 2
/** For one database's answer. */
const answerWithin = Duration.seconds(10)

/** Half dropped databases (`datconnlimit` -2) refuse every connection. */
const databasesSql = `SELECT datname FROM pg_catalog.pg_database
WHERE datallowconn AND datconnlimit <> -2 ORDER BY oid LIMIT ${mostDatabases}`

const installedSql = "SELECT extname, extversion, (extowner = 10)::int FROM pg_catalog.pg_extension"

const runQuery = (admin: Admin["Service"], sql: string, database?: string) =>
  Effect.scoped(
    Effect.flatMap(admin.connect("get_installed_extensions", database), (wire) => wire.rows(sql, answerWithin))
  )

const logSkipped = (database: string, failure: WireFailed | TimedOut) =>
  Effect.logWarning(`database ${JSON.stringify(database)} is not in the inventory: ${explain(failure)}`)

/** Of one database. */
const extensionsIn = (admin: Admin["Service"], database: string) =>
  runQuery(admin, installedSql, database).pipe(
    Effect.map((rows) =>
      rows.map(([name, version, owned]): InstalledExtension => ({
        name: name ?? "",
        version: version ?? "",
        ownedBySuperuser: owned === "1"
      }))
    )
  )

/**
 * Asks every database that takes connections, a few at a time. One that cannot be asked (it may have been dropped since
 * it was listed) is logged and left out for `inventory`, which shows what it can; an `answer` would be a wrong one, and
 * fails.
 */
export const countExtensions = Effect.fn("InstalledExtensions.count")(function* (
  admin: Admin["Service"],
  purpose: "inventory" | "answer"
): Effect.fn.Return<ExtensionCounts, WireFailed | TimedOut> {
  const names = (yield* runQuery(admin, databasesSql)).flatMap(([name]) => name ?? [])
  const ask = (name: string) =>
    purpose === "answer"
      ? extensionsIn(admin, name)
      : Effect.catch(extensionsIn(admin, name), (failure) => Effect.as(logSkipped(name, failure), []))
  return count(yield* Effect.forEach(names, ask, { concurrency: atOnce }))
})
