/**
 * Visits: what is done inside each wanted database, over a connection to it. The public schema's owner and default
 * privileges, and anon.
 *
 * None of it can be seen from outside, so the last statement of a visit leaves a record among the database's own
 * settings (`ALTER DATABASE ... SET compute_ctl.visited`): the database's oid and what was applied. A visit is made
 * only where the record differs. A change made by hand inside a database is not noticed. The oid makes the record void
 * in a copy; a dropped database takes it along.
 */
import { doBlock, quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import { readList } from "../postgres/confText.ts"
import { type ParsedSpec, settingOf } from "../spec/ParsedSpec.ts"
import { type ApplyOptions, majorOf } from "./Catalog.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import { databaseObject, type Operation, operation, roleObject, skip, statement, transactional } from "./operations.ts"
import { wantedDatabases } from "./planDatabases.ts"

/** The name of the setting that holds the record. It holds the oid too, so that it is void in a copy. */
export const visitSetting = "compute_ctl.visited"

/** From inside the database. */
const recordVisitHere = (visited: string): string =>
  doBlock(`
BEGIN
  EXECUTE pg_catalog.format('ALTER DATABASE %I SET ${visitSetting} TO %L', pg_catalog.current_database(),
    (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
      || ':' || ${quoteLiteral(visited)});
END`)

/** From outside, for many. A database that is gone has no name to be formatted, which undoes the message. */
export const recordVisits = (
  visits: ReadonlyArray<{ readonly database: string; readonly visited: string }>
): string => {
  const values = visits.map(({ database, visited }) => `(${quoteLiteral(database)}, ${quoteLiteral(visited)})`)
  return doBlock(`
DECLARE one record;
BEGIN
  FOR one IN
    SELECT d.datname AS name, d.oid || ':' || v.visited AS record
    FROM (VALUES ${values.join(", ")}) AS v(name, visited)
    LEFT JOIN pg_catalog.pg_database d ON d.datname = v.name::pg_catalog.name
  LOOP
    EXECUTE pg_catalog.format('ALTER DATABASE %I SET ${visitSetting} TO %L', one.name, one.record);
  END LOOP;
END`)
}

/**
 * `dropped` are the roles that this same apply drops: nothing is granted to them any more. `copies` are new databases
 * that come with what a visit does; that much is recorded from outside.
 */
export const planVisits = (
  draft: Draft,
  spec: ParsedSpec,
  options: ApplyOptions,
  dropped: ReadonlyArray<string>,
  copies: ReadonlySet<string>
): {
  readonly visits: ReadonlyMap<string, ReadonlyArray<Operation>>
  /** What is done to databases that cannot, or need not, be visited. */
  readonly outside: ReadonlyArray<Operation>
} => {
  const visits = new Map<string, ReadonlyArray<Operation>>()
  const outside: Array<Operation> = []
  const webAccess = grantsWebAccess(draft, dropped)
  const anon = wantsAnon(draft, spec)
  if (anon === null) add(draft, missingAnon)
  for (const { name, owner } of wantedDatabases(spec).values()) {
    const known = draft.databases.get(name)
    if (known === undefined) continue
    if (!known.allowsConnections) {
      if (!known.granted) outside.push(add(draft, grant(draft, name, options, null)))
      add(
        draft,
        operation({
          phase: "ChangeSchemaPermissions",
          object: databaseObject(name),
          action: "visit",
          because: "the spec wants it",
          decision: skip("the database does not allow connections")
        })
      )
      continue
    }
    const visited = JSON.stringify([1, owner, options.superuser, options.privilegedRole, webAccess, anon === true])
    if (copies.has(name)) {
      outside.push(add(draft, grant(draft, name, options, null)), add(draft, recordCopy(draft, name, visited)))
      continue
    }
    if (known.visited === visited) continue
    const work = [
      ...(known.granted ? [] : [add(draft, grant(draft, name, options, name))]),
      ...changePermissions(draft, name, owner, webAccess, options).map((one) => add(draft, one)),
      ...(anon ? [add(draft, installAnon(draft, name, owner))] : [])
    ]
    visits.set(name, [...work, add(draft, record(name, visited, work))])
  }
  return { visits, outside }
}

/** Before Postgres 15 everybody may create in the schema public. */
export const grantsWebAccess = (draft: Draft, dropped: ReadonlyArray<string>): boolean =>
  majorOf(draft) >= 15 && draft.roles.has("web_access") && !dropped.includes("web_access")

const grant = (draft: Draft, name: string, options: ApplyOptions, database: string | null): Operation => {
  const sql = `GRANT ALL PRIVILEGES ON DATABASE ${quoteIdentifier(name)} TO ${quoteIdentifier(options.privilegedRole)}`
  return transactional({
    phase: "CreateAndAlterDatabases",
    database,
    object: databaseObject(name),
    action: "grant to the privileged role",
    because: "the privileged role lacks privileges on it",
    after: makersOf(draft, databaseObject(name), roleObject(options.privilegedRole)),
    sql: [sql],
    joined: database === null ? { statements: [], granted: name } : { statements: [sql] },
    change: { _tag: "GrantDatabase", name }
  })
}

const inPublic = (body: string): string =>
  doBlock(`
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'public') THEN
    ${body}
  END IF;
END`)

/** Since Postgres 15 the schema belongs to `pg_database_owner`, and its owner needs no change. */
const ownPublic = (owner: string, superuser: string): string =>
  doBlock(`
BEGIN
  IF EXISTS (
    SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
    WHERE n.nspname = 'public' AND r.rolname IN ('cloud_admin', 'zenith_admin', ${quoteLiteral(superuser)})
  ) THEN
    ALTER SCHEMA public OWNER TO ${quoteIdentifier(owner)};
  END IF;
END`)

export const changePermissions = (
  draft: Draft,
  name: string,
  owner: string,
  webAccess: boolean,
  { privilegedRole, superuser }: ApplyOptions
): ReadonlyArray<Operation> => {
  const privileged = quoteIdentifier(privilegedRole)
  const about = {
    phase: "ChangeSchemaPermissions",
    database: name,
    because: "it is not recorded as done"
  } as const
  const database = makersOf(draft, databaseObject(name))
  return [
    transactional({
      ...about,
      object: "schema public",
      action: `give to ${JSON.stringify(owner)} if it is ours`,
      after: [...database, ...makersOf(draft, roleObject(owner))],
      sql: [ownPublic(owner, superuser)]
    }),
    transactional({
      ...about,
      object: "schema public",
      action: "set default privileges",
      after: [...database, ...makersOf(draft, roleObject(privilegedRole))],
      sql: [
        inPublic(
          [
            ...(webAccess ? ["GRANT CREATE ON SCHEMA public TO web_access;"] : []),
            `ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO ${privileged} WITH GRANT OPTION;`,
            `ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO ${privileged} WITH GRANT OPTION;`
          ].join("\n    ")
        )
      ]
    })
  ]
}

/** The record is the last statement, in the same transaction if it can be, and rests on everything that it records. */
const record = (name: string, visited: string, work: ReadonlyArray<Operation>): Operation =>
  transactional({
    phase: "ChangeSchemaPermissions",
    database: name,
    object: databaseObject(name),
    action: "record the visit",
    because: "so that the next apply need not come here",
    after: work.map(({ id }) => id),
    sql: [recordVisitHere(visited)],
    change: { _tag: "RecordVisit", name, visited }
  })

const recordCopy = (draft: Draft, name: string, visited: string): Operation =>
  operation({
    phase: "ChangeSchemaPermissions",
    object: databaseObject(name),
    action: "record that it needs no visit",
    because: "it came with what a visit does",
    after: makersOf(draft, databaseObject(name)),
    statements: [statement(recordVisits([{ database: name, visited }]))],
    joined: { statements: [], visited: { database: name, visited } },
    change: { _tag: "RecordVisit", name, visited }
  })

/** `null`: it is wanted, and this Postgres does not have it. */
export const wantsAnon = (draft: Draft, spec: ParsedSpec): boolean | null => {
  if (!spec.features.has("anon_extension")) return false
  if (!readList(settingOf(spec.settings, "shared_preload_libraries") ?? "").includes("anon")) return false
  return draft.extensions.has("anon") ? true : null
}

const missingAnon: Operation = operation({
  phase: "HandleAnonExtension",
  object: "extension anon",
  action: "create",
  because: "the feature anon_extension is on",
  decision: skip("this Postgres does not have it")
})

/** Extensions it needs go to `public`: with our empty search path Postgres would not know where to put them. */
const installAnon = (draft: Draft, name: string, owner: string): Operation => {
  const to = quoteIdentifier(owner)
  return transactional({
    phase: "HandleAnonExtension",
    database: name,
    object: "extension anon",
    action: "create",
    because: "the feature anon_extension is on",
    after: makersOf(draft, databaseObject(name), roleObject(owner)),
    sql: [
      "SET search_path TO public",
      "CREATE EXTENSION IF NOT EXISTS anon CASCADE",
      "SET search_path TO ''",
      "SELECT anon.init()",
      `GRANT ALL ON SCHEMA anon TO ${to}`,
      `GRANT ALL ON ALL FUNCTIONS IN SCHEMA anon TO ${to}`,
      doBlock(`
DECLARE function pg_catalog.regprocedure;
BEGIN
  FOR function IN
    SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'anon' AND p.prokind = 'f'
  LOOP
    EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO %I', function, ${quoteLiteral(owner)});
  END LOOP;
END`),
      `GRANT ALL ON ALL TABLES IN SCHEMA anon TO ${to}`,
      `GRANT ALL ON ALL SEQUENCES IN SCHEMA anon TO ${to}`
    ]
  })
}
