/**
 * From a spec to the files PGDATA shall hold, before the start and once users may connect; and warnings about settings
 * that the spec will not get. Pure.
 */
import { appliesCatalog, type GenericOption, type ParsedSpec } from "../spec/ParsedSpec.ts"
import { isInclude, printName, readConf, unwritable } from "./confText.ts"
import { localHba, localIdent, md5Roles, neonHbaLine, type PasswordMethod } from "./hba.ts"
import { requiredSettings, refusalReason, type StockStorage } from "./localConf.ts"
import type { PlanInputs } from "./PlanInputs.ts"
import { postgresConf, specValue, signalFiles } from "./postgresqlConf.ts"

// Warnings: what a spec asks for and will not get, or should not want.

const leftOut = (name: string, reason: string): string => `setting ${printName(name)} is left out: it ${reason}`

const unwritableWarnings = (settings: ReadonlyArray<GenericOption>): ReadonlyArray<string> =>
  settings.flatMap((setting) => {
    const reason = unwritable(setting)
    return reason === null ? [] : [leftOut(setting.name, reason)]
  })

const booleans: ReadonlyMap<string, string> = new Map([
  ["true", "on"],
  ["yes", "on"],
  ["1", "on"],
  ["false", "off"],
  ["no", "off"],
  ["0", "off"]
])

/** Near enough to compare what a spec says with what storage requires. */
const normal = (value: string): string => {
  const lower = value.trim().toLowerCase()
  return booleans.get(lower) ?? lower
}

/** With these, Postgres says `COMMIT` when the WAL is where the durability promises it. */
const waitsForWal: ReadonlySet<string> = new Set(["on", "local", "remote_write", "remote_apply"])

const localWarnings = (spec: ParsedSpec, inputs: PlanInputs): ReadonlyArray<string> => {
  if (inputs.storage._tag === "Neon") return []
  const given = specValue(spec)
  const names = [
    // An include in the head is read: what it brings is overridden like the rest of the head.
    ...readConf(spec.postgresqlConf ?? "")
      .map((entry) => entry.name)
      .filter((name) => !isInclude(name)),
    ...(spec.settings ?? []).map((setting) => setting.name)
  ]
  const refused = [...new Set(names)].flatMap((name) => {
    const reason = refusalReason(name)
    return reason === null ? [] : [leftOut(name, reason)]
  })
  const overridden = requiredSettings(inputs, inputs.storage, "open", given).flatMap((setting) => {
    const { because, keepsWish = false, name, value } = setting
    const wish = given(name)
    const required = readConf(`${name} = ${value}`)[0]?.value ?? value
    return wish === null || keepsWish || normal(wish) === normal(required)
      ? []
      : [`setting ${printName(name)} is overridden: ${because}`]
  })
  const losesCommits = waitsForWal.has(normal(given("synchronous_commit") ?? "on"))
    ? []
    : ['setting "synchronous_commit" is kept: acknowledged commits may be lost when Postgres is killed']
  const standbys = given("synchronous_standby_names") ?? ""
  const waits =
    standbys === "" || /\bwalproposer\b/.test(standbys)
      ? []
      : ['setting "synchronous_standby_names" is kept: commits of users wait for ever until such a standby is there']
  return [...refused, ...overridden, ...losesCommits, ...waits, ...md5Warnings(spec)]
}

/** SCRAM, unless the spec brings or makes verifiers that cannot do it. */
const passwordMethod = (spec: ParsedSpec): PasswordMethod =>
  md5Roles(spec).length > 0 || normal(specValue(spec)("password_encryption") ?? "") === "md5" ? "md5" : "scram-sha-256"

const md5Warnings = (spec: ParsedSpec): ReadonlyArray<string> => {
  const [first, ...more] = md5Roles(spec)
  if (first === undefined) return []
  const who = `role ${printName(first)}${more.length === 0 ? "" : ` and ${more.length} more`}`
  return [`pg_hba.conf lets md5 verifiers log in, because ${who} has one: send SCRAM-SHA-256 verifiers instead`]
}

/** `null`: Postgres logs to its standard error, which is ours. */
export const logCollectorWarning = (spec: ParsedSpec, { storage }: Pick<PlanInputs, "storage">): string | null => {
  const given = specValue(spec)
  if (normal(given("logging_collector") ?? "off") !== "on") return null
  const lasts = storage._tag === "Volume" || (given("log_directory") ?? "").startsWith("/")
  return (
    'setting "logging_collector" is kept: Postgres\'s log goes to files of its own and not to standard error' +
    (lasts ? "" : ', and "log_directory" is in the data directory, which the next start empties')
  )
}

/** One sentence each. Names settings, never values. */
export const planWarnings = (spec: ParsedSpec, inputs: PlanInputs): ReadonlyArray<string> => [
  ...[logCollectorWarning(spec, inputs)].filter((warning) => warning !== null),
  ...unwritableWarnings(spec.settings ?? []),
  ...localWarnings(spec, inputs)
]

// The plan.

/** A file in PGDATA: its name there, and its whole content. */
export interface PgdataFile {
  readonly name: string
  readonly content: string
}

/** A line to append to a file of the basebackup unless an identical one is there. */
interface AppendedLine {
  readonly name: string
  readonly line: string
}

export interface StartPlan {
  /** postgresql.conf while Postgres starts and the spec is applied. */
  readonly starting: ReadonlyArray<PgdataFile>
  /** Files once users may connect: what differs from `starting`. Empty: nothing to open. */
  readonly opening: ReadonlyArray<PgdataFile>
  /** pg_hba.conf line and the like, for files that the basebackup brought. */
  readonly appended: ReadonlyArray<AppendedLine>
  /** Empty files such as `standby.signal`. */
  readonly signalFiles: ReadonlyArray<string>
  /** Link `pg_dynshmem` to `/dev/shm/` (docs/reference/compute_ctl.md#pg_dynshmem). */
  readonly linkDynshmem: boolean
  /** Whether the catalog is made to match the spec. */
  readonly applyCatalog: boolean
  /** Content of the temporary override while the catalog is applied; `null`: none is needed. */
  readonly override: string | null
}

const confFile = (content: string): PgdataFile => ({ name: "postgresql.conf", content })

const localFiles = (
  spec: ParsedSpec,
  inputs: PlanInputs,
  storage: StockStorage,
  phase: "starting" | "open"
): ReadonlyArray<PgdataFile> => [
  confFile(postgresConf(spec, inputs, phase)),
  { name: "pg_hba.conf", content: localHba(phase, storage, passwordMethod(spec), inputs.postgresMajor) },
  { name: "pg_ident.conf", content: localIdent(storage, inputs.postgresMajor) },
  // Read after postgresql.conf: whatever ALTER SYSTEM left in it would win over what storage requires.
  { name: "postgresql.auto.conf", content: "" }
]

const differing = (from: ReadonlyArray<PgdataFile>, to: ReadonlyArray<PgdataFile>): ReadonlyArray<PgdataFile> =>
  to.filter((file) => !from.some((old) => old.name === file.name && old.content === file.content))

export const startPlan = (spec: ParsedSpec, inputs: PlanInputs): StartPlan => {
  const applyCatalog = appliesCatalog(spec)
  const common = { signalFiles: signalFiles(spec.mode), applyCatalog }
  if (inputs.storage._tag !== "Neon") {
    const { storage } = inputs
    const starting = localFiles(spec, inputs, storage, "starting")
    return {
      ...common,
      starting,
      opening: differing(starting, localFiles(spec, inputs, storage, "open")),
      appended: [],
      linkDynshmem: false,
      override: null
    }
  }
  const starting = [confFile(postgresConf(spec, inputs, "starting"))]
  return {
    ...common,
    starting,
    // Subscriptions stay disabled until they are dropped; where nothing drops them, they stay disabled.
    opening: applyCatalog ? differing(starting, [confFile(postgresConf(spec, inputs, "open"))]) : [],
    appended: [{ name: "pg_hba.conf", line: neonHbaLine }],
    linkDynshmem: inputs.platform === "linux",
    override: applyCatalog ? "neon.max_cluster_size=-1" : null
  }
}

/** Every file as it stands while users may connect: what a reconfiguration writes. */
export const openFiles = (plan: StartPlan): ReadonlyArray<PgdataFile> =>
  plan.starting.map((file) => plan.opening.find((open) => open.name === file.name) ?? file)
