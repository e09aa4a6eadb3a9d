/**
 * The whole postgresql.conf, in the order of docs/reference/compute_ctl.md#postgresqlconf: what must win comes later.
 * Pure.
 *
 * One order serves both API versions; the older one only lacks the lines its Postgres does not know.
 */
import { printLsn } from "../spec/identifiers.ts"
import { type AuditLevel, type ComputeMode, modeName, type NeonStorage, type ParsedSpec } from "../spec/ParsedSpec.ts"
import { quoteConf, readConf, readList, renderSetting } from "./confText.ts"
import { localDefaults, localHead, requiredSettings, localSettings, type StockStorage } from "./localConf.ts"
import type { PlanInputs } from "./PlanInputs.ts"

// Audit (docs/reference/compute_ctl.md#postgresqlconf): lines that come after the spec's own, so that they win. Whether
// the Postgres at hand has pgaudit is not known here.

/** Levels whose records are files that leave the machine, and so need the file writer. */
const compliance: ReadonlySet<AuditLevel> = new Set<AuditLevel>(["Hipaa", "Extended", "Full"])

const wanted = (level: AuditLevel): ReadonlyArray<string> =>
  compliance.has(level) ? ["pgaudit", "pgauditlogtofile"] : ["pgaudit"]

/** Appends what is missing, name by name: `pgaudit` is not there just because `pgauditlogtofile` is. */
const withLibraries = (present: string, extra: ReadonlyArray<string>): string => {
  const names = readList(present)
  return [...(present.trim() === "" ? [] : [present]), ...extra.filter((name) => !names.includes(name))].join(",")
}

/**
 * `Log` is the old word for `Base`, `Hipaa` for `Extended`. `libraries` is what the spec preloads, `null` if it does
 * not say; `absent` is what it then means.
 */
export const auditLines = (level: AuditLevel, libraries: string | null, absent: string): ReadonlyArray<string> => {
  if (level === "Disabled") return []
  const preload = `shared_preload_libraries=${quoteConf(withLibraries(libraries ?? absent, wanted(level)))}`
  if (!compliance.has(level)) {
    return ["# Base audit settings", "pgaudit.log='ddl,role'", "pgaudit.log_catalog=off", preload]
  }
  return [
    "# Compliance audit settings",
    level === "Full" ? "pgaudit.log_parameter=on" : "pgaudit.log_parameter=off",
    level === "Full" ? "pgaudit.log='all'" : "pgaudit.log='all, -misc'",
    "pgaudit.log_catalog=off",
    "pgaudit.log_rotation_age=5",
    preload
  ]
}

// TLS: where Postgres finds its certificate (docs/reference/compute_ctl.md#postgresqlconf and
// docs/reference/compute_ctl.md#tls).

export const certificateFile = "server.crt"
export const keyFile = "server.key"

/** Whether Postgres and the sidecars present the compute's certificate: the spec has to ask for it. */
export const showsCertificate = (features: ReadonlySet<string>): boolean => features.has("tls_experimental")

/** Lines of postgresql.conf for a compute that has a certificate. */
export const sslLines: ReadonlyArray<string> = [
  "ssl = on",
  `ssl_cert_file = '${certificateFile}'`,
  `ssl_key_file = '${keyFile}'`
]

/**
 * The empty files in PGDATA by which Postgres knows what kind of start this is. `neon.signal` comes with the basebackup
 * and is not ours.
 */
export const signalFiles = (mode: ComputeMode): ReadonlyArray<string> =>
  mode._tag === "Primary" ? [] : ["standby.signal"]

/** Read again on each reload; it stands last, so that it wins while the catalog is applied. */
export const overrideFile = "compute_ctl_temp_override.conf"

/** Names of Neon's shards, pages and safekeepers, unless the spec's own settings say them already. */
const neonStorageLines = (spec: ParsedSpec, neon: NeonStorage): ReadonlyArray<string> => {
  const lines: Array<string> = []
  if (!neon.fromSettings.has("pageservers")) {
    const { shards, stripeSize } = neon.pageservers
    const urls = shards.map(({ pageservers }) => pageservers[0]?.libpqUrl ?? null)
    // The stripe size must be known before the addresses are: a reload takes them in order.
    if (stripeSize !== null) lines.push("# stripe size of the shards, in pages", `neon.stripe_size=${stripeSize}`)
    if (urls.length === 0 || urls.includes(null)) lines.push("# no neon.pageserver_connstring")
    else lines.push("# one address per shard, in order", `neon.pageserver_connstring=${quoteConf(urls.join(","))}`)
  }
  if (!neon.fromSettings.has("safekeepers") && neon.safekeepers.length > 0) {
    const generation = neon.safekeepersGeneration === null ? "" : `g#${neon.safekeepersGeneration}:`
    lines.push(`neon.safekeepers=${quoteConf(generation + neon.safekeepers.join(","))}`)
  }
  if (!neon.fromSettings.has("tenant")) lines.push(`neon.tenant_id=${quoteConf(spec.tenant)}`)
  if (!neon.fromSettings.has("timeline")) lines.push(`neon.timeline_id=${quoteConf(spec.timeline)}`)
  if (spec.projectId !== null) lines.push(`neon.project_id=${quoteConf(spec.projectId)}`)
  if (spec.branchId !== null) lines.push(`neon.branch_id=${quoteConf(spec.branchId)}`)
  if (spec.endpointId !== null) lines.push(`neon.endpoint_id=${quoteConf(spec.endpointId)}`)
  return lines
}

const tlsLines = (spec: ParsedSpec, inputs: PlanInputs): ReadonlyArray<string> =>
  inputs.certificate === true && showsCertificate(spec.features) ? sslLines : []

const localeLines = (inputs: PlanInputs): ReadonlyArray<string> => {
  // Not every machine has C.UTF-8, and Postgres does not start with a locale that is not there; C means the same here.
  const locale = inputs.platform === "darwin" || inputs.storage._tag !== "Neon" ? "C" : "C.UTF-8"
  return ["lc_messages", "lc_monetary", "lc_time", "lc_numeric"].map((name) => `${name}=${quoteConf(locale)}`)
}

const modeLines = (spec: ParsedSpec): ReadonlyArray<string> =>
  spec.mode._tag === "Primary"
    ? []
    : spec.mode._tag === "Replica"
      ? ["hot_standby=on"]
      : ["hot_standby=on", `recovery_target_lsn=${quoteConf(printLsn(spec.mode.lsn))}`]

/** Where the kernel does not overcommit, POSIX shared memory would be refused. */
const sharedMemoryLines = (inputs: PlanInputs): ReadonlyArray<string> =>
  inputs.platform === "linux" && inputs.overcommitMemory?.trim() === "2" ? ["dynamic_shared_memory_type = mmap"] : []

const managedLines = (settings: ParsedSpec["settings"]): ReadonlyArray<string> =>
  settings === null
    ? []
    : ["# Managed by compute_ctl: begin", ...settings.map(renderSetting), "# Managed by compute_ctl: end"]

/** The spec's value of a setting, in its head or in its settings: the last one counts, as for Postgres. */
export const specValue =
  (spec: ParsedSpec) =>
  (name: string): string | null =>
    spec.settings?.findLast((setting) => setting.name.toLowerCase() === name && setting.value !== null)?.value ??
    readConf(spec.postgresqlConf ?? "").findLast((entry) => entry.name === name)?.value ??
    null

const preloadAudit = (level: AuditLevel, spec: ParsedSpec, absent: string): ReadonlyArray<string> =>
  auditLines(level, specValue(spec)("shared_preload_libraries"), absent)

const logLines = (spec: ParsedSpec): ReadonlyArray<string> =>
  spec.logsExportHost === null ? [] : ["log_destination='stderr,syslog'"]

const neonConf = (spec: ParsedSpec, inputs: PlanInputs, phase: "starting" | "open"): ReadonlyArray<string> => {
  const head = inputs.apiVersion === "head"
  const disableSubscribers = spec.dropSubscriptions && phase === "starting"
  return [
    ...(spec.postgresqlConf === null ? [] : [spec.postgresqlConf]),
    "# Neon storage settings",
    "",
    ...(spec.neon === null ? [] : neonStorageLines(spec, spec.neon)),
    ...tlsLines(spec, inputs),
    ...localeLines(inputs),
    ...(head ? [`neon.compute_mode=${modeName(spec.mode)}`] : []),
    ...modeLines(spec),
    ...sharedMemoryLines(inputs),
    ...(head ? [`neon.privileged_role_name=${quoteConf(inputs.privilegedRole)}`] : []),
    ...managedLines(spec.settings),
    ...preloadAudit(spec.auditLevel, spec, "neon"),
    `neon.extension_server_port=${inputs.extensionServerPort}`,
    ...(head ? [`neon.disable_logical_replication_subscribers=${disableSubscribers}`] : []),
    ...logLines(spec),
    `include_if_exists = '${overrideFile}'`
  ]
}

/** The value of a setting after the spec and the audit level. */
const valueWith =
  (audit: ReadonlyArray<string>, spec: ParsedSpec) =>
  (name: string): string | null =>
    readConf(audit.join("\n")).findLast((entry) => entry.name === name)?.value ?? specValue(spec)(name)

const localConf = (
  spec: ParsedSpec,
  inputs: PlanInputs,
  storage: StockStorage,
  phase: "starting" | "open"
): ReadonlyArray<string> => {
  const audit = preloadAudit(spec.auditLevel, spec, "")
  return [
    ...localDefaults,
    ...(spec.postgresqlConf === null ? [] : [localHead(spec.postgresqlConf)]),
    ...tlsLines(spec, inputs),
    ...localeLines(inputs),
    ...modeLines(spec),
    ...(storage._tag === "Volume" ? sharedMemoryLines(inputs) : []),
    ...managedLines(spec.settings === null ? null : localSettings(spec.settings)),
    ...audit,
    ...logLines(spec),
    "# The storage insists on these; they must stay last",
    ...requiredSettings(inputs, storage, phase, valueWith(audit, spec)).map(({ name, value }) => `${name} = ${value}`)
  ]
}

/** `starting`: until the spec is applied. `open`: from then on. */
export const postgresConf = (spec: ParsedSpec, inputs: PlanInputs, phase: "starting" | "open"): string => {
  const { storage } = inputs
  const lines = storage._tag === "Neon" ? neonConf(spec, inputs, phase) : localConf(spec, inputs, storage, phase)
  return `${lines.join("\n")}\n`
}
