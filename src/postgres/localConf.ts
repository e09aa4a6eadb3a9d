/**
 * The settings without which local storage, or a volume, would lose data, and what they change in a spec written for
 * Neon's storage.
 *
 * A line of postgresql.conf counts when it is the last with its name: defaults stand before the spec's own lines,
 * what storage requires stands after them, and postgresql.auto.conf is emptied at each start. Pure.
 */
import type { GenericOption } from "../spec/ParsedSpec.ts"
import { isInclude, quoteConf, readLine, readList } from "./confText.ts"
import type { PlanInputs } from "./PlanInputs.ts"

/** Storage of this machine, below stock Postgres. */
export type StockStorage = Exclude<PlanInputs["storage"], { readonly _tag: "Neon" }>

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

/** The value is a list: a folder with a comma, a quote or odd blanks must be quoted once more. */
const asListItem = (folder: string): string =>
  /[,"]|^\s|\s$/.test(folder) ? `"${folder.replaceAll('"', '""')}"` : folder

/** What holds as long as the spec says nothing else. */
export const localDefaults: ReadonlyArray<string> = [
  "# Defaults of compute_ctl; the lines below may change them",
  "listen_addresses = '127.0.0.1'",
  "synchronous_commit = on",
  "max_wal_size = 1GB",
  "checkpoint_timeout = 5min"
]

export interface RequiredSetting {
  readonly name: string
  /** As it stands in the file. */
  readonly value: string
  /** Part of the warning when a spec wants something else. */
  readonly because: string
  /** What the spec wants is in it. */
  readonly keepsWish?: boolean
}

/**
 * Our own sessions come over our socket, wherever else the spec wants some. Where the operating system cannot tell
 * Postgres who comes, a socket in a folder of others would let them all in, and there is none.
 */
const socketFolders = ({ osUsers, sockets }: StockStorage, wished: string): RequiredSetting => {
  const keepsWish = osUsers !== null
  const folders = [asListItem(sockets), ...(keepsWish && wished.trim() !== "" ? [wished] : [])]
  return {
    name: "unix_socket_directories",
    value: quoteConf(folders.join(", ")),
    because:
      "the operating system has no name for the user of a session, so the mode of our folder must keep others out",
    keepsWish
  }
}

/**
 * The settings without which acknowledged commits could be lost, with their values as pg_settings has them too. `fsync`
 * is off until the cluster is open, and stays off where only the death of processes is to be survived.
 */
export const durabilitySettings = (fsync: "on" | "off"): ReadonlyArray<RequiredSetting> => [
  { name: "wal_level", value: "replica", because: "commits must be found in the WAL again" },
  { name: "wal_keep_size", value: "2147483647", because: "the storage decides when WAL may go" },
  { name: "wal_recycle", value: "off", because: "a branch may share a file of WAL, and must not be written over" },
  { name: "fsync", value: fsync, because: "the durability that was asked for decides it" },
  { name: "full_page_writes", value: "on", because: "a base may be copied at any time" }
]

/** The same for a volume, from the first second on: nothing but Postgres's own recovery puts its data files right. */
export const volumeSettings: ReadonlyArray<RequiredSetting> = [
  { name: "fsync", value: "on", because: "the data files are the only copy" },
  { name: "full_page_writes", value: "on", because: "a power cut may leave half a page" }
]

const walSettings = (
  storage: StockStorage,
  phase: "starting" | "open",
  given: (name: string) => string | null
): ReadonlyArray<RequiredSetting> => {
  if (storage._tag === "Volume") return volumeSettings
  const settings = durabilitySettings(phase === "open" && storage.durability === "os" ? "on" : "off")
  return settings.map((setting) =>
    setting.name === "wal_level" && given("wal_level") === "logical" ? { ...setting, value: "logical" } : setting
  )
}

/** Postgres's processes may die without warning, and nobody but the next start in another PGDATA would clean up. */
const sharedMemory: RequiredSetting = {
  name: "dynamic_shared_memory_type",
  value: "mmap",
  because: "nothing may be left behind when PGDATA goes"
}

/** `given` answers the spec's value of a setting, from its head or its settings. */
export const requiredSettings = (
  inputs: PlanInputs,
  storage: StockStorage,
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
    socketFolders(storage, given("unix_socket_directories") ?? ""),
    ...walSettings(storage, phase, given),
    { name: "restart_after_crash", value: "off", because: "every recovery goes through the storage" },
    // On a volume the next start finds it by itself, and a network disk is no place for shared memory.
    ...(storage._tag === "Local" ? [sharedMemory] : []),
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
