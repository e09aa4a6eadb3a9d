/**
 * The numbered migrations, which are made once per cluster (docs/reference/compute_ctl.md#migrations), and which of
 * them a start has left to do. They are done once users may connect (`migrations.ts`).
 *
 * Numbers are for ever: one that is no longer wanted stays in the list and is skipped.
 */
import type { ApplyReport } from "../compute/snapshot.ts"
import { doBlock, quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import { type ApplyOptions, majorOf } from "./Catalog.ts"
import { add, type Draft } from "./draft.ts"
import { operation, skip } from "./operations.ts"

export interface Migration {
  readonly id: number
  /** `null`: skipped; the number is used up all the same. */
  readonly sql: string | null
}

/** Members of the privileged role INHERIT; everybody else but Postgres's own roles loses BYPASSRLS. */
const inheritance = (privilegedRole: string): string =>
  doBlock(`
DECLARE name text;
BEGIN
  FOR name IN SELECT r.rolname FROM pg_catalog.pg_roles r
    WHERE pg_catalog.pg_has_role(r.oid, ${quoteLiteral(privilegedRole)}::pg_catalog.name, 'member')
  LOOP
    EXECUTE pg_catalog.format('ALTER ROLE %I INHERIT', name);
  END LOOP;
  FOR name IN SELECT r.rolname FROM pg_catalog.pg_roles r
    WHERE NOT pg_catalog.pg_has_role(r.oid, ${quoteLiteral(privilegedRole)}::pg_catalog.name, 'member')
      AND NOT pg_catalog.starts_with(r.rolname, 'pg_')
  LOOP
    EXECUTE pg_catalog.format('ALTER ROLE %I NOBYPASSRLS', name);
  END LOOP;
END`)

export const migrations = (privilegedRole: string, major: number): ReadonlyArray<Migration> => {
  const privileged = quoteIdentifier(privilegedRole)
  const since16 = (sql: string): string => (major >= 16 ? sql : "")
  const all: ReadonlyArray<string | null> = [
    `ALTER ROLE ${privileged} BYPASSRLS`,
    inheritance(privilegedRole),
    since16(`GRANT pg_create_subscription TO ${privileged}`),
    `GRANT pg_monitor TO ${privileged} WITH ADMIN OPTION`,
    null,
    null,
    null,
    null,
    null,
    since16(
      `GRANT EXECUTE ON FUNCTION pg_catalog.pg_export_snapshot() TO ${privileged}; ` +
        `GRANT EXECUTE ON FUNCTION pg_catalog.pg_log_standby_snapshot() TO ${privileged}`
    ),
    `GRANT EXECUTE ON FUNCTION pg_catalog.pg_show_replication_origin_status() TO ${privileged}`,
    `GRANT pg_signal_backend TO ${privileged} WITH ADMIN OPTION`
  ]
  return all.map((sql, index) => ({ id: index + 1, sql }))
}

const about = {
  phase: "Migrations",
  object: "table neon_migration.migration_id",
  because: "they are made once per cluster"
} as const

/** For the apply report: by this the applier knows that there is something left to do once users may connect. */
export const planMigrations = (draft: Draft, { kind, privilegedRole }: ApplyOptions): void => {
  if (kind !== "start") return
  const last = migrations(privilegedRole, majorOf(draft)).length
  const done = draft.migrated ?? 0
  if (done >= last) return
  const action = `run migrations ${done + 1} to ${last}`
  add(draft, operation({ ...about, action, decision: skip("they are run in the background, once users may connect") }))
}

/** Whether a start that was applied so leaves migrations to be run. */
export const leavesMigrations = (applyReport: ApplyReport): boolean =>
  applyReport.operations.some(({ object, outcome }) => object === about.object && outcome === "skipped")
