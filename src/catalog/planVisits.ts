/**
 * Visits: what is done inside each wanted database, over a connection to it. The public schema's owner and default
 * privileges, and anon.
 *
 * None of it can be seen from outside, so the last statement of a visit leaves a record (`planVisitRecords.ts`). A
 * visit is made only where another one is wished, or what the last one left is not there as it was.
 */
import { doBlock, quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import { readList } from "../postgres/confText.ts"
import { whyMissing } from "./planExtensions.ts"
import { templateDatabase } from "../pgwire/ownSessions.ts"
import { type ParsedSpec, settingOf } from "../spec/ParsedSpec.ts"
import { type ApplyOptions, majorOf } from "./Catalog.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import { databaseObject, type Operation, operation, roleObject, skip, statement, transactional } from "./operations.ts"
import { wantedDatabases } from "./planDatabases.ts"
import { type ObservedVisit, recordCopies, recordVisitHere } from "./planVisitRecords.ts"

/** Another one, when what a visit does becomes something else: then every database is visited once more. */
const version = 2

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
  if (anon === null) add(draft, missingAnon(draft))
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
    const { privilegedRole, superuser } = options
    const applied = JSON.stringify({ version, owner, superuser, privilegedRole, webAccess, anon: anon === true })
    if (copies.has(name)) {
      outside.push(add(draft, grant(draft, name, options, null)), add(draft, recordCopy(draft, name, applied, options)))
      continue
    }
    if (known.visited?.intact === true && known.visited.applied === applied) {
      if (!known.granted) outside.push(add(draft, grant(draft, name, options, null)))
      continue
    }
    const because = becauseOf(known.visited)
    const work = [
      ...(known.granted ? [] : [add(draft, grant(draft, name, options, name))]),
      ...changePermissions(draft, name, owner, webAccess, options).map((one) => add(draft, { ...one, because })),
      ...(anon ? [add(draft, installAnon(draft, name, owner))] : [])
    ]
    const recorded = add(draft, recordVisit(draft, name, applied, work, options))
    visits.set(name, recorded.decision._tag === "Do" ? [...work, recorded] : work)
  }
  return { visits, outside }
}

/** Before Postgres 15 everybody may create in the schema public. */
export const grantsWebAccess = (draft: Draft, dropped: ReadonlyArray<string>): boolean =>
  majorOf(draft) >= 15 && draft.roles.has("web_access") && !dropped.includes("web_access")

const becauseOf = (visited: ObservedVisit | null): string => {
  if (visited === null) return "no visit of it is recorded"
  return visited.intact
    ? "the spec asks for something else than the last visit"
    : "what the last visit left was changed"
}

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
    because: "the database is visited"
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

/**
 * The record is the last statement, in the same transaction if it can be, and rests on everything that it records. Only
 * a superuser can leave one; for anybody else every apply is a visit.
 */
export const recordVisit = (
  draft: Draft,
  name: string,
  applied: string,
  work: ReadonlyArray<Operation>,
  { privilegedRole }: ApplyOptions
): Operation =>
  transactional({
    phase: "ChangeSchemaPermissions",
    database: name,
    object: databaseObject(name),
    action: "record the visit",
    because: "so that the next apply need not come here",
    decision: draft.superuser ? { _tag: "Do" } : skip("only a superuser can"),
    after: work.map(({ id }) => id),
    sql: [recordVisitHere(applied, privilegedRole)],
    change: { _tag: "RecordVisit", name, applied }
  })

const recordCopy = (draft: Draft, name: string, applied: string, { privilegedRole }: ApplyOptions): Operation =>
  operation({
    phase: "ChangeSchemaPermissions",
    object: databaseObject(name),
    action: "record that it needs no visit",
    because: "it came with what a visit does",
    after: makersOf(draft, databaseObject(name)),
    statements: [statement(recordCopies([{ database: name, applied }], templateDatabase, privilegedRole))],
    joined: { statements: [], copied: { database: name, applied } },
    change: { _tag: "RecordVisit", name, applied }
  })

/** `null`: it is wanted, and this Postgres does not have it. */
export const wantsAnon = (draft: Draft, spec: ParsedSpec): boolean | null => {
  if (!spec.features.has("anon_extension")) return false
  if (!readList(settingOf(spec.settings, "shared_preload_libraries") ?? "").includes("anon")) return false
  return draft.extensions.has("anon") ? true : null
}

const missingAnon = (draft: Draft): Operation =>
  operation({
    phase: "HandleAnonExtension",
    object: "extension anon",
    action: "create",
    because: "the feature anon_extension is on",
    decision: skip(whyMissing(draft, "anon"))
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
