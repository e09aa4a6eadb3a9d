/**
 * The SQL that HTTP routes run as superuser, as text. Every name and value in it is quoted; nothing is sent. Pure.
 */
import { templateDatabase } from "../pgwire/ownSessions.ts"
import { quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"

/** One row, one column: the whole answer as JSON text, because 64-bit query ids do not survive a JavaScript number. */
export const insights = (superuser: string): string => `
SELECT pg_catalog.json_build_object(
  'pg_stat_statements', COALESCE(pg_catalog.json_agg(s.*), '[]'::pg_catalog.json)
)::pg_catalog.text
FROM (
  SELECT * FROM public.pg_stat_statements
  WHERE userid IS DISTINCT FROM (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = ${quoteLiteral(superuser)})
  ORDER BY mean_exec_time + mean_plan_time DESC
  LIMIT 100
) s`

/** Columns: name. */
export const roles = "SELECT rolname FROM pg_catalog.pg_roles ORDER BY rolname"

/** Columns: name, owner, refuses connections, was left half dropped. Without the applier's own temporary template. */
export const databases = `
SELECT d.datname, pg_catalog.pg_get_userbyid(d.datdba), NOT d.datallowconn, d.datconnlimit = -2
FROM pg_catalog.pg_database d WHERE d.datname <> ${quoteLiteral(templateDatabase)} ORDER BY d.datname`

/** `OVERRIDING` lets the id be written whichever way the column makes its own. */
export const touchHealthCheck = `
INSERT INTO public.health_check (id, updated_at) OVERRIDING SYSTEM VALUE VALUES (1, pg_catalog.now())
ON CONFLICT (id) DO UPDATE SET updated_at = pg_catalog.now()`

/** Column: the installed version. */
export const installedVersion = (extension: string): string =>
  `SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = ${quoteLiteral(extension)}`

/**
 * What to try, in this order, each after Postgres has called the one before `feature_not_supported`: one that insists
 * on a schema of its own says so then. (The views of available extensions read the files of all of them, and one with a
 * fault would make every installation fail.) None: that version is there already.
 */
export const installExtension = (
  extension: string,
  version: string,
  installed: string | null
): ReadonlyArray<string> => {
  const name = quoteIdentifier(extension)
  const wanted = quoteLiteral(version)
  if (installed === version) return []
  if (installed !== null) return [`ALTER EXTENSION ${name} UPDATE TO ${wanted}`]
  return [" WITH SCHEMA public", ""].map(
    (schema) => `CREATE EXTENSION IF NOT EXISTS ${name}${schema} VERSION ${wanted}`
  )
}

/** Column: a privilege that the role holds on the schema itself, not through another role. */
export const heldPrivileges = (schema: string, role: string): string => `
SELECT a.privilege_type
FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a, pg_catalog.pg_roles r
WHERE n.nspname = ${quoteLiteral(schema)} AND r.rolname = ${quoteLiteral(role)} AND a.grantee = r.oid`

/** Only what is missing is granted, so that a replica can say yes. `null`: nothing is. */
export const grant = (
  schema: string,
  role: string,
  privileges: ReadonlyArray<string>,
  held: ReadonlySet<string>
): string | null => {
  const missing = [...new Set(privileges)].filter((privilege) => !held.has(privilege))
  return missing.length === 0
    ? null
    : `GRANT ${missing.join(", ")} ON SCHEMA ${quoteIdentifier(schema)} TO ${quoteIdentifier(role)}`
}

/** Columns: name, password verifier. */
export const rolesWithVerifiers = "SELECT rolname, rolpassword FROM pg_catalog.pg_authid ORDER BY rolname"

/** `name` is quoted already. */
export const databaseNamed = (name: string): string => `SELECT 1 FROM pg_catalog.pg_database WHERE datname = ${name}`
