/**
 * From a spec to the files PGDATA shall hold, before the start and once it is open. Decides everything, does nothing.
 */
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import type { Facts } from "./Facts.ts"
import { localHba, neonHbaLine } from "./pgHba.ts"
import { postgresConf } from "./postgresqlConf.ts"
import { signalFiles } from "./signalFiles.ts"

/** A file in PGDATA: its name there, and its whole content. */
export interface PgdataFile {
  readonly name: string
  readonly content: string
}

/** Lines to append to a file of the basebackup unless an identical line is there. */
export interface AppendedLine {
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
  /** Link `pg_dynshmem` to `/dev/shm/` (reference section 4.7 step 6). */
  readonly linkDynshmem: boolean
  /** Whether the catalog is made to match the spec. */
  readonly applyCatalog: boolean
  /** Content of the temporary override while the catalog is applied; `null`: none is needed. */
  readonly override: string | null
}

const confFile = (content: string): PgdataFile => ({ name: "postgresql.conf", content })

const localFiles = (
  spec: ParsedSpec,
  facts: Facts,
  superuser: string,
  phase: "starting" | "open"
): ReadonlyArray<PgdataFile> => [
  confFile(postgresConf(spec, facts, phase)),
  { name: "pg_hba.conf", content: localHba(phase, superuser, facts.postgresMajor) },
  { name: "pg_ident.conf", content: "# Written by compute_ctl at each start; edits do not last.\n" },
  // Read after postgresql.conf: whatever ALTER SYSTEM left in it would win over what storage insists on.
  { name: "postgresql.auto.conf", content: "" }
]

const differing = (from: ReadonlyArray<PgdataFile>, to: ReadonlyArray<PgdataFile>): ReadonlyArray<PgdataFile> =>
  to.filter((file) => !from.some((old) => old.name === file.name && old.content === file.content))

export const startPlan = (spec: ParsedSpec, facts: Facts): StartPlan => {
  const applyCatalog = spec.mode._tag === "Primary" && !spec.skipCatalogUpdates
  const common = { signalFiles: signalFiles(spec.mode), applyCatalog }
  if (facts.storage._tag === "Local") {
    const { superuser } = facts.storage
    const starting = localFiles(spec, facts, superuser, "starting")
    return {
      ...common,
      starting,
      opening: differing(starting, localFiles(spec, facts, superuser, "open")),
      appended: [],
      linkDynshmem: false,
      override: null
    }
  }
  const starting = [confFile(postgresConf(spec, facts, "starting"))]
  return {
    ...common,
    starting,
    // Subscriptions stay asleep until they are dropped; where nothing drops them, they stay asleep.
    opening: applyCatalog ? differing(starting, [confFile(postgresConf(spec, facts, "open"))]) : [],
    appended: [{ name: "pg_hba.conf", line: neonHbaLine }],
    linkDynshmem: facts.platform === "linux",
    override: applyCatalog ? "neon.max_cluster_size=-1" : null
  }
}

/** Every file as it stands while users may connect: what a reconfiguration writes. */
export const openFiles = (plan: StartPlan): ReadonlyArray<PgdataFile> =>
  plan.starting.map((file) => plan.opening.find((open) => open.name === file.name) ?? file)
