/**
 * Which extensions are installed in how many databases, what that looks like in the log and as a metric, and how
 * often it is asked (reference section 4.9). Asks nobody.
 */
import type { Family } from "../telemetry/prometheus.ts"
import type { Dialect } from "./plan.ts"

/** An extension as one database has it. */
export interface Installed {
  readonly name: string
  readonly version: string
  /** Whether its owner is the first superuser (oid 10). */
  readonly ownedBySuperuser: boolean
}

export interface Counted extends Installed {
  readonly databases: number
}

export type Inventory = ReadonlyArray<Counted>

const compare = (one: string, other: string): number => one < other ? -1 : one > other ? 1 : 0

/** One element per database. In the order of names, so that two inventories can be compared. */
export const count = (databases: ReadonlyArray<ReadonlyArray<Installed>>): Inventory => {
  const counted = new Map<string, Counted>()
  for (const one of databases.flat()) {
    const key = JSON.stringify([one.name, one.version, one.ownedBySuperuser])
    counted.set(key, { ...one, databases: (counted.get(key)?.databases ?? 0) + 1 })
  }
  return [...counted.values()].sort((one, other) => compare(one.name, other.name) || compare(one.version, other.version))
}

const flag = (owned: boolean): string => owned ? "1" : "0"

/** The older generation lists an extension once, with the versions it has somewhere. */
const byName = (inventory: Inventory) =>
  [...new Set(inventory.map(({ name }) => name))].map((name) => {
    const same = inventory.filter((one) => one.name === name)
    return {
      extname: name,
      versions: [...new Set(same.map(({ version }) => version))],
      n_databases: same.reduce((sum, one) => sum + one.databases, 0)
    }
  })

/** What `/installed_extensions` answers and the log line carries. */
export const inventoryBody = (inventory: Inventory, dialect: Dialect): { readonly extensions: ReadonlyArray<unknown> } => ({
  extensions: dialect === "2024" ? byName(inventory) : inventory.map((one) => ({
    extname: one.name,
    version: one.version,
    n_databases: one.databases,
    owned_by_superuser: flag(one.ownedBySuperuser)
  }))
})

/** Made afresh of each inventory, so what is not installed any more leaves no sample. */
export const inventoryFamily = (inventory: Inventory, dialect: Dialect): Family => ({
  name: dialect === "2024" ? "installed_extensions" : "compute_installed_extensions",
  type: "gauge",
  help: "Number of databases where the version of extension is installed",
  samples: dialect === "head"
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
export const inventoryPeriod = (before: number, intervalSeconds: number): number => Math.max(before, 2 * intervalSeconds)
