/**
 * Records of visits: what a visit of a database applied, and a trace of what it left there, by which an apply that
 * never goes in sees whether it is still there (`docs/adr/0015-visits-are-checked-from-outside.md`).
 *
 * The trace is of rows of `pg_shdepend`, where Postgres itself keeps, for all databases at once, which schemas and
 * default privileges have to do with which role. The record is a row of `pg_shdescription` for a class of objects that
 * has no comments: only a superuser can write it, and no session, dump or list of comments ever shows it.
 */
import { doBlock, quoteLiteral } from "../pgwire/quote.ts"

/** The setting of a database that was the record before. It was seen in every session and in dumps. */
const formerSetting = "compute_ctl.visited"

const classOf = (catalog: string): string => `'pg_catalog.${catalog}'::pg_catalog.regclass`

/** Of the rows that hold the records: comments on comments, of which Postgres knows none. */
const recordClass = classOf("pg_shdescription")

/** Stands for the oid of the schema public where there is none. */
const noPublic = "-"

const oidOfRole = (name: string) => `(SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = ${quoteLiteral(name)})`

/**
 * An SQL expression. `database` is one that gives an oid, `schema` one that gives the schema public's oid as text. What
 * counts are default privileges for the privileged role, the schema's owner, and what `web_access` may do there; where
 * there was no such schema, whether there are others than there were.
 */
const traceSql = (database: string, schema: string, privilegedRole: string): string =>
  `(SELECT pg_catalog.hashtextextended(coalesce(pg_catalog.string_agg(
    pg_catalog.concat_ws(' ', h.classid, h.objid, h.refobjid, h.deptype), ','
    ORDER BY h.classid, h.objid, h.refobjid, h.deptype), '') COLLATE "C", 0)
  FROM pg_catalog.pg_shdepend h
  WHERE h.dbid = ${database} AND h.classid IN (${classOf("pg_default_acl")}, ${classOf("pg_namespace")})
    AND h.refclassid = ${classOf("pg_authid")} AND CASE h.classid
    WHEN ${classOf("pg_default_acl")} THEN h.deptype = 'a' AND h.refobjid = ${oidOfRole(privilegedRole)}
    WHEN ${classOf("pg_namespace")} THEN CASE WHEN ${schema} = '${noPublic}' THEN h.deptype = 'o'
      ELSE h.objid::pg_catalog.text = ${schema} AND (h.deptype = 'o' OR h.refobjid = ${oidOfRole("web_access")}) END
    ELSE false END)`

const schemaOf = (record: string): string => `pg_catalog.split_part(${record}, ' ', 1)`

/** For a query in which `d` is a database: the record, and the trace as it is now. */
export const visitColumns = (privilegedRole: string): string =>
  `v.description, CASE WHEN v.description IS NOT NULL
    THEN ${traceSql("d.oid", schemaOf("v.description"), privilegedRole)} END`

export const visitJoin = `LEFT JOIN pg_catalog.pg_shdescription v ON v.objoid = d.oid AND v.classoid = ${recordClass}`

export interface ObservedVisit {
  /** What it applied. */
  readonly applied: string
  /** What it left is there as it was. */
  readonly intact: boolean
}

/** `OID TRACE TEXT`. */
export const readVisit = (
  record: string | null | undefined,
  trace: string | null | undefined
): ObservedVisit | null => {
  const [, then, applied] = /^\S+ (\S+) (.*)$/s.exec(record ?? "") ?? []
  return applied === undefined ? null : { applied, intact: then === trace }
}

const here = "(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"

/** From inside the database, in the transaction of the visit. Records of databases that are gone go, too. */
export const recordVisitHere = (applied: string, privilegedRole: string): string =>
  doBlock(`
DECLARE
  here oid := ${here};
  public text := (SELECT n.oid::text FROM pg_catalog.pg_namespace n WHERE n.nspname = 'public');
BEGIN
  public := coalesce(public, '${noPublic}');
  DELETE FROM pg_catalog.pg_shdescription v WHERE v.classoid = ${recordClass}
    AND (v.objoid = here OR NOT EXISTS (SELECT FROM pg_catalog.pg_database d WHERE d.oid = v.objoid));
  INSERT INTO pg_catalog.pg_shdescription (objoid, classoid, description) VALUES (here, ${recordClass},
    pg_catalog.concat_ws(' ', public, ${traceSql("here", "public", privilegedRole)}, ${quoteLiteral(applied)}));
  IF EXISTS (
    SELECT FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
    WHERE s.setdatabase = here AND s.setrole = 0 AND pg_catalog.starts_with(c, '${formerSetting}=')
  ) THEN
    EXECUTE pg_catalog.format('ALTER DATABASE %I RESET %I', pg_catalog.current_database(), '${formerSetting}');
  END IF;
END`)

export interface Copy {
  readonly database: string
  readonly applied: string
}

/**
 * From outside, for copies of a database that was visited: their schemas have the oids of its schemas. One that is gone
 * has no oid, which undoes the message.
 */
export const recordCopies = (copies: ReadonlyArray<Copy>, template: string, privilegedRole: string): string => {
  const values = copies.map(({ applied, database }) => `(${quoteLiteral(database)}, ${quoteLiteral(applied)})`)
  const names = copies.map(({ database }) => quoteLiteral(database))
  return (
    // Of a database that had this oid before.
    `DELETE FROM pg_catalog.pg_shdescription v USING pg_catalog.pg_database d WHERE v.classoid = ${recordClass} ` +
    `AND v.objoid = d.oid AND d.datname IN (${names.join(", ")});\n` +
    `INSERT INTO pg_catalog.pg_shdescription (objoid, classoid, description) SELECT d.oid, ${recordClass}, ` +
    `pg_catalog.concat_ws(' ', t.schema, ${traceSql("d.oid", "t.schema", privilegedRole)}, c.applied) ` +
    `FROM (VALUES ${values.join(", ")}) AS c(name, applied) ` +
    `LEFT JOIN pg_catalog.pg_database d ON d.datname = c.name::pg_catalog.name, ` +
    `(SELECT ${schemaOf("v.description")} AS schema FROM pg_catalog.pg_shdescription v ` +
    `JOIN pg_catalog.pg_database d ON d.oid = v.objoid ` +
    `WHERE v.classoid = ${recordClass} AND d.datname = ${quoteLiteral(template)}) t`
  )
}

const intactSetting = "compute_ctl.visit_is_intact"

/**
 * Before and after, in one transaction, what an apply does in a database beside a visit: if what the last visit left
 * was there before, it is what is there after.
 */
export const keepVisitHere = (privilegedRole: string): { readonly before: string; readonly after: string } => {
  const record = `v.classoid = ${recordClass} AND v.objoid = ${here}`
  const trace = traceSql("v.objoid", schemaOf("v.description"), privilegedRole)
  const then = "pg_catalog.split_part(v.description, ' ', 2)"
  const applied = `pg_catalog.substr(v.description, pg_catalog.length(${schemaOf("v.description")}) +
    pg_catalog.length(${then}) + 3)`
  return {
    before: `SELECT pg_catalog.set_config('${intactSetting}', EXISTS (SELECT FROM pg_catalog.pg_shdescription v
      WHERE ${record} AND ${then} = ${trace}::pg_catalog.text)::pg_catalog.text, false)`,
    after: `UPDATE pg_catalog.pg_shdescription v SET description =
      pg_catalog.concat_ws(' ', ${schemaOf("v.description")}, ${trace}, ${applied})
      WHERE ${record} AND pg_catalog.current_setting('${intactSetting}') = 'true'`
  }
}
