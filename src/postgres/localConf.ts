/**
 * The settings without which local storage would lose data, and what it changes in a spec written for Neon's.
 *
 * A line of postgresql.conf counts when it is the last with its name: defaults stand before the spec's own lines,
 * what storage requires stands after them, and postgresql.auto.conf is emptied at each start. Pure.
 */
import type { GenericOption } from "../spec/ParsedSpec.ts"
import { isInclude, quoteConf, readLine, readList } from "./confText.ts"
import type { PlanInputs } from "./PlanInputs.ts"

type LocalStorage = Extract<PlanInputs["storage"], { readonly _tag: "Local" }>

/** Settings that only Neon's Postgres has and that carry no prefix: stock Postgres does not start with them. */
const neonOnly: ReadonlySet<string> = new Set([
  "max_replication_apply_lag",
  "max_replication_flush_lag",
  "max_replication_write_lag"
])

const isNeonLibrary = (name: string): boolean => /^(\$libdir\/)?neon(_[a-z_]+)?$/.test(name)

/** `null`: the setting may stand (and may yet be overridden below). */
export const refusalReason = (name: string): string | null => {
  const lower = name.toLowerCase()
  if (neonOnly.has(lower)) return "is known only to Neon's Postgres"
  if (lower === "config_file") return "cannot be set in a file"
  if (isInclude(lower)) return "would read settings from elsewhere"
  return null
}

/** The spec's settings without what stock Postgres or local storage cannot have. */
export const localSettings = (settings: ReadonlyArray<GenericOption>): ReadonlyArray<GenericOption> =>
  settings.filter(({ name }) => refusalReason(name) === null)

/** The spec's own head. Its includes may stay: what storage requires comes after whatever they bring. */
export const localHead = (text: string): string =>
  text
    .split("\n")
    .map((line) => {
      const name = readLine(line)?.name ?? ""
      return neonOnly.has(name) || name === "config_file" ? `# left out for local storage: ${line}` : line
    })
    .join("\n")

/** Postgres's limit is 107 bytes; some room is left for its lock file. */
const maxSocketPath = 100

const utf8Length = (text: string): number => encodeURIComponent(text.toWellFormed()).replace(/%../g, "_").length

/** The folder of our own socket, or `null` where its path would be too long for any socket. */
export const localSocketFolder = (pgdata: string, port: number): string | null =>
  utf8Length(`${pgdata}/.s.PGSQL.${port}`) < maxSocketPath ? pgdata : null

/** The value is a list: a folder with a comma, a quote or odd blanks must be quoted once more. */
const asListItem = (folder: string): string =>
  /[,"]|^\s|\s$/.test(folder) ? `"${folder.replaceAll('"', '""')}"` : folder

/** What holds as long as the spec says nothing else. */
export const localDefaults = (inputs: PlanInputs, storage: LocalStorage): ReadonlyArray<string> => {
  const folder = localSocketFolder(storage.pgdata, inputs.port)
  return [
    "# Defaults of local storage; the lines below may change them",
    "listen_addresses = '127.0.0.1'",
    `unix_socket_directories = ${quoteConf(folder === null ? "" : asListItem(folder))}`,
    "synchronous_commit = on",
    "max_wal_size = 1GB",
    "checkpoint_timeout = 5min"
  ]
}

export interface RequiredSetting {
  readonly name: string
  /** As it stands in the file. */
  readonly value: string
  /** Part of the warning when a spec wants something else. */
  readonly because: string
}

/**
 * The settings without which acknowledged commits could be lost, with their values as pg_settings has them too. `fsync`
 * is off until the cluster is open, and stays off where only the death of processes is to be survived.
 */
export const durabilitySettings = (fsync: "on" | "off"): ReadonlyArray<RequiredSetting> => [
  { name: "wal_level", value: "replica", because: "commits must be found in the WAL again" },
  { name: "wal_keep_size", value: "2147483647", because: "the storage decides when WAL may go" },
  { name: "fsync", value: fsync, because: "the durability that was asked for decides it" },
  { name: "full_page_writes", value: "on", because: "a base may be copied at any time" }
]

/** `given` answers the spec's value of a setting, from its head or its settings. */
export const requiredSettings = (
  inputs: PlanInputs,
  storage: LocalStorage,
  phase: "starting" | "open",
  given: (name: string) => string | null
): ReadonlyArray<RequiredSetting> => {
  const libraries = readList(given("shared_preload_libraries") ?? "")
  const stock = libraries.filter((name) => !isNeonLibrary(name))
  const standbys = given("synchronous_standby_names")
  return [
    { name: "data_directory", value: quoteConf(storage.pgdata), because: "the storage chose it" },
    { name: "hba_file", value: quoteConf(`${storage.pgdata}/pg_hba.conf`), because: "it guards the start" },
    { name: "ident_file", value: quoteConf(`${storage.pgdata}/pg_ident.conf`), because: "it guards the start" },
    { name: "port", value: String(inputs.port), because: "compute_ctl connects to it" },
    ...durabilitySettings(phase === "open" && storage.durability === "os" ? "on" : "off").map((setting) =>
      setting.name === "wal_level" && given("wal_level") === "logical" ? { ...setting, value: "logical" } : setting
    ),
    { name: "restart_after_crash", value: "off", because: "every recovery goes through the storage" },
    { name: "dynamic_shared_memory_type", value: "mmap", because: "nothing may be left behind when PGDATA goes" },
    ...(inputs.platform === "linux" && inputs.postgresMajor >= 14
      ? [{ name: "recovery_init_sync_method", value: "syncfs", because: "the start would wait for every file" }]
      : []),
    ...(stock.length === libraries.length
      ? []
      : [
          {
            name: "shared_preload_libraries",
            value: quoteConf(stock.join(",")),
            because: "Neon's libraries need Neon's storage"
          }
        ]),
    ...(standbys !== null && /\bwalproposer\b/.test(standbys)
      ? [
          {
            name: "synchronous_standby_names",
            value: "''",
            because: "there is no walproposer, so commits would wait for ever"
          }
        ]
      : [])
  ]
}
