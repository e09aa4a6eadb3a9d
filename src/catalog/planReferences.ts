/**
 * What depends on a role that is dropped: objects it owns go to the database's owner, its privileges are revoked.
 *
 * `pg_shdepend` shows from outside in which databases there is anything, so only those are connected to.
 */
import { doBlock, quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import type { ApplyOptions } from "./Catalog.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import { databaseObject, type Operation, operation, roleObject, skip, transactional } from "./operations.ts"

export interface PlannedReferences {
  readonly operations: ReadonlyArray<Operation>
  readonly ofRole: ReadonlyMap<string, ReadonlyArray<string>>
}

export const planReferences = (
  draft: Draft,
  spec: ParsedSpec,
  options: ApplyOptions,
  dropped: ReadonlyArray<string>
): PlannedReferences => {
  const operations: Array<Operation> = []
  const ofRole = new Map<string, ReadonlyArray<string>>()
  for (const role of dropped) {
    const dependent = draft.references.filter((one) => one.role === role)
    if (dependent.length === 0) continue
    // What is shared (databases, privileges on them, memberships) can be reached from any database, and goes with
    // the first: the system database, so that no tenant inherits another's database.
    const databases = [...new Set(dependent.map((one) => one.database ?? draft.systemDatabase))].sort((one, other) =>
      one === draft.systemDatabase ? -1 : other === draft.systemDatabase ? 1 : one < other ? -1 : 1
    )
    const made = databases.map((database) => add(draft, reassignAndDrop(draft, spec, options, role, database)))
    ofRole.set(
      role,
      made.filter(({ decision }) => decision._tag === "Do").map(({ id }) => id)
    )
    operations.push(...made.filter(({ decision }) => decision._tag === "Do"))
  }
  return { operations, ofRole }
}

const reassignAndDrop = (
  draft: Draft,
  spec: ParsedSpec,
  options: ApplyOptions,
  role: string,
  database: string
): Operation => {
  const known = draft.databases.get(database)
  const about = {
    phase: "DeleteRoleReferences",
    database,
    object: roleObject(role),
    action: "reassign and drop what it holds",
    because: "a delta drops the role"
  } as const
  if (known === undefined || known.invalid || !known.allowsConnections) {
    return operation({ ...about, decision: skip(`${databaseObject(database)} does not allow connections`) })
  }
  const isSystem = database === draft.systemDatabase && !spec.databases.some(({ name }) => name === database)
  const newOwner = isSystem || known.owner === role ? options.superuser : known.owner
  return transactional({
    ...about,
    after: makersOf(draft, databaseObject(database), roleObject(role), roleObject(newOwner)),
    sql: [
      `REASSIGN OWNED BY ${quoteIdentifier(role)} TO ${quoteIdentifier(newOwner)}`,
      revokeGrants(role),
      `DROP OWNED BY ${quoteIdentifier(role)}`
    ],
    change: { _tag: "DropReferences", role, database, newOwner }
  })
}

/** DROP OWNED revokes only what the owner granted; what others passed on must be revoked in tnewOwner name. */
const revokeGrants = (role: string): string =>
  doBlock(`
DECLARE held record;
BEGIN
  FOR held IN
    WITH gone AS (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = ${quoteLiteral(role)}),
    grants AS (
      SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
        pg_catalog.format('%I.%I', n.nspname, c.relname) AS object, c.relowner AS owner, a.grantor, a.grantee
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
        LATERAL pg_catalog.aclexplode(c.relacl) a
      UNION
      SELECT 'TABLE', pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner, a.grantor, a.grantee
      FROM pg_catalog.pg_attribute t JOIN pg_catalog.pg_class c ON c.oid = t.attrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, LATERAL pg_catalog.aclexplode(t.attacl) a
      UNION
      SELECT 'SCHEMA', pg_catalog.quote_ident(n.nspname), n.nspowner, a.grantor, a.grantee
      FROM pg_catalog.pg_namespace n, LATERAL pg_catalog.aclexplode(n.nspacl) a
    )
    SELECT g.kind, g.object, r.rolname AS grantor FROM grants g JOIN gone ON gone.oid = g.grantee
      JOIN pg_catalog.pg_roles r ON r.oid = g.grantor
    WHERE g.grantor <> g.owner
  LOOP
    EXECUTE pg_catalog.format('SET LOCAL ROLE %I', held.grantor);
    EXECUTE pg_catalog.format('REVOKE ALL PRIVILEGES ON %s %s FROM %I GRANTED BY %I CASCADE',
      held.kind, held.object, ${quoteLiteral(role)}, held.grantor);
    RESET ROLE;
  END LOOP;
END`)
