/**
 * What depends on a role that is dropped: objects it owns go to the database's owner, its privileges are revoked.
 *
 * `pg_shdepend` shows from outside in which databases there is anything, so only those are connected to.
 */
import { doBlock, quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { type ApplyOptions, majorOf } from "./Catalog.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import { databaseObject, type Operation, operation, refuse, roleObject, transactional } from "./operations.ts"
import { keepVisitHere } from "./planVisitRecords.ts"

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
    const made = databases.map((database) => add(draft, reassignAndDrop(draft, spec, options, role, database, dropped)))
    ofRole.set(
      role,
      made.map(({ id }) => id)
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
  database: string,
  dropped: ReadonlyArray<string>
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
    const reason = `it holds something in ${databaseObject(database)}, which does not allow connections`
    return operation({ ...about, decision: refuse(reason, "allow connections to the database, or drop it") })
  }
  const isSystem = database === draft.systemDatabase && !spec.databases.some(({ name }) => name === database)
  // Another role that leaves is no heir: then it would hold on to the database.
  const newOwner = isSystem || dropped.includes(known.owner) ? options.superuser : known.owner
  const visit = draft.superuser && known.visited !== null ? keepVisitHere(options.privilegedRole) : null
  return transactional({
    ...about,
    after: makersOf(draft, databaseObject(database), roleObject(role), roleObject(newOwner)),
    sql: [
      ...(visit === null ? [] : [visit.before]),
      giveToSuperuser(role, options.superuser, majorOf(draft)),
      `REASSIGN OWNED BY ${quoteIdentifier(role)} TO ${quoteIdentifier(newOwner)}`,
      revokeGrants(role, majorOf(draft)),
      `DROP OWNED BY ${quoteIdentifier(role)}`,
      ...(visit === null ? [] : [visit.after])
    ],
    change: { _tag: "DropReferences", role, database, newOwner }
  })
}

/**
 * What only a superuser may own cannot go to a database's owner: event triggers and foreign-data wrappers, and before
 * Postgres 16 subscriptions. The role is no superuser any more, so that what it revokes below it revokes as itself.
 */
const giveToSuperuser = (role: string, superuser: string, major: number): string => {
  const kinds = [
    ["EVENT TRIGGER", "e.evtname", "pg_event_trigger e", "e.evtowner"],
    ["FOREIGN DATA WRAPPER", "f.fdwname", "pg_foreign_data_wrapper f", "f.fdwowner"],
    ...(major < 16 ? [["SUBSCRIPTION", "s.subname", "pg_subscription s", "s.subowner"]] : [])
  ]
  const selects = kinds.map(
    ([kind, name, table, owner]) =>
      `SELECT '${kind}' AS kind, ${name} AS name FROM pg_catalog.${table} JOIN pg_catalog.pg_roles r ON ` +
      `r.oid = ${owner} WHERE r.rolname = ${quoteLiteral(role)}` +
      (kind === "SUBSCRIPTION"
        ? " AND s.subdbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())"
        : "")
  )
  return doBlock(`
DECLARE owned record;
BEGIN
  FOR owned IN ${selects.join("\n    UNION ALL ")}
  LOOP
    EXECUTE pg_catalog.format('ALTER %s %I OWNER TO %I', owned.kind, owned.name, ${quoteLiteral(superuser)});
  END LOOP;
  IF (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = ${quoteLiteral(role)}) THEN
    EXECUTE pg_catalog.format('ALTER ROLE %I NOSUPERUSER', ${quoteLiteral(role)});
  END IF;
END`)
}

/** Of each kind of object that has privileges: how REVOKE names it, its schema, its owner, its privileges. */
const objectKinds = (major: number): ReadonlyArray<string> => [
  `SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, pg_catalog.format('%I.%I', n.nspname, c.relname),
        n.oid, c.relowner, c.relacl, NULL::name
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace`,
  `SELECT 'TABLE', pg_catalog.format('%I.%I', n.nspname, c.relname), n.oid, c.relowner, t.attacl, t.attname
      FROM pg_catalog.pg_attribute t JOIN pg_catalog.pg_class c ON c.oid = t.attrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace`,
  `SELECT 'SCHEMA', pg_catalog.quote_ident(n.nspname), NULL, n.nspowner, n.nspacl, NULL FROM pg_catalog.pg_namespace n`,
  `SELECT 'ROUTINE', pg_catalog.format('%I.%I(%s)', n.nspname, p.proname,
        (SELECT pg_catalog.string_agg(pg_catalog.format_type(a.type, NULL), ', ' ORDER BY a.at)
          FROM pg_catalog.unnest(p.proargtypes) WITH ORDINALITY AS a(type, at))), n.oid, p.proowner, p.proacl, NULL
      FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace`,
  `SELECT 'TYPE', pg_catalog.format('%I.%I', n.nspname, y.typname), n.oid, y.typowner, y.typacl, NULL
      FROM pg_catalog.pg_type y JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace`,
  `SELECT 'LANGUAGE', pg_catalog.quote_ident(lanname), NULL, lanowner, lanacl, NULL FROM pg_catalog.pg_language`,
  `SELECT 'LARGE OBJECT', oid::text, NULL, lomowner, lomacl, NULL FROM pg_catalog.pg_largeobject_metadata`,
  `SELECT 'FOREIGN DATA WRAPPER', pg_catalog.quote_ident(fdwname), NULL, fdwowner, fdwacl, NULL
      FROM pg_catalog.pg_foreign_data_wrapper`,
  `SELECT 'FOREIGN SERVER', pg_catalog.quote_ident(srvname), NULL, srvowner, srvacl, NULL
      FROM pg_catalog.pg_foreign_server`,
  `SELECT 'DATABASE', pg_catalog.quote_ident(datname), NULL, datdba, datacl, NULL FROM pg_catalog.pg_database`,
  `SELECT 'TABLESPACE', pg_catalog.quote_ident(spcname), NULL, spcowner, spcacl, NULL FROM pg_catalog.pg_tablespace`,
  ...(major < 15
    ? []
    : [
        `SELECT 'PARAMETER', (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(part), '.' ORDER BY at)
        FROM pg_catalog.string_to_table(parname, '.') WITH ORDINALITY AS p(part, at)), NULL, 10::oid, paracl, NULL
      FROM pg_catalog.pg_parameter_acl`
      ])
]

/**
 * DROP OWNED revokes what the owner of an object granted to the role. What others passed on to it, and what it passed
 * on itself, can be revoked only in the name of who did, privilege by privilege: for more than one Postgres may choose
 * another grantor. Who did needs USAGE of the schema to name what is in it, and has to be no superuser, who would act
 * as the owner; both last only as long as the revoking.
 */
const revokeGrants = (role: string, major: number): string =>
  doBlock(`
DECLARE
  held record;
  super boolean;
  usage boolean;
BEGIN
  FOR held IN
    WITH gone AS (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = ${quoteLiteral(role)}),
    objects(kind, object, schema, owner, acl, attribute) AS (
      ${objectKinds(major).join("\n      UNION ALL\n      ")}
    )
    SELECT o.kind, o.object, o.schema, pg_catalog.quote_ident(s.nspname) AS schema_name,
      a.privilege_type ||
        CASE WHEN o.attribute IS NULL THEN '' ELSE pg_catalog.format(' (%I)', o.attribute) END AS what,
      r.rolname AS grantor, r.oid AS grantor_oid, r.rolsuper AND r.oid <> 10 AS super,
      CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(e.rolname) END AS grantee
    FROM objects o CROSS JOIN LATERAL pg_catalog.aclexplode(o.acl) a
    JOIN pg_catalog.pg_roles r ON r.oid = a.grantor
    LEFT JOIN pg_catalog.pg_roles e ON e.oid = a.grantee
    LEFT JOIN pg_catalog.pg_namespace s ON s.oid = o.schema, gone
    WHERE gone.oid IN (a.grantee, a.grantor) AND a.grantor <> o.owner
    ORDER BY a.grantee = gone.oid DESC
  LOOP
    super := held.super;
    usage := held.schema IS NULL OR pg_catalog.has_schema_privilege(held.grantor_oid, held.schema, 'USAGE');
    IF super THEN EXECUTE pg_catalog.format('ALTER ROLE %I NOSUPERUSER', held.grantor); END IF;
    IF NOT usage THEN
      EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA %s TO %I', held.schema_name, held.grantor);
    END IF;
    BEGIN
      EXECUTE pg_catalog.format('SET LOCAL ROLE %I', held.grantor);
      EXECUTE pg_catalog.format('REVOKE %s ON %s %s FROM %s GRANTED BY %I CASCADE',
        held.what, held.kind, held.object, held.grantee, held.grantor);
    EXCEPTION WHEN insufficient_privilege THEN
      NULL; -- What it granted went with what was granted to it.
    END;
    RESET ROLE;
    IF NOT usage THEN
      EXECUTE pg_catalog.format('REVOKE USAGE ON SCHEMA %s FROM %I', held.schema_name, held.grantor);
    END IF;
    IF super THEN EXECUTE pg_catalog.format('ALTER ROLE %I SUPERUSER', held.grantor); END IF;
  END LOOP;
END`)
