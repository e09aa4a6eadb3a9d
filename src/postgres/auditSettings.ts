/**
 * What an audit level adds to postgresql.conf (reference section 4.5): lines that come after the spec's own, so
 * that they win. Whether the Postgres at hand has pgaudit is not known here.
 */
import type { AuditLevel } from "../spec/ParsedSpec.ts"
import { quoteConf, readList } from "./confText.ts"

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
