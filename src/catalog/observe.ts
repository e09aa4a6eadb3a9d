/**
 * Reads the catalog: everything an apply decides on, in one message.
 *
 * Reads no table that a tenant could have planted: a view there would run as the superuser who looks at it.
 */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import { doBlock, quoteLiteral } from "../pgwire/quote.ts"
import type { StatementResult } from "../pgwire/Wire.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { databaseOptionsOf, roleOptionsOf } from "../spec/clusterOptions.ts"
import { leavingRolePrefix } from "../spec/names.ts"
import type { ApplyOptions, Catalog, DatabaseCreation, ObservedDatabase, ObservedRole } from "./Catalog.ts"
import { availableExtensionsSql, extensionsSql, readExtensions } from "./observeExtensions.ts"
import { doneDeltasSetting } from "./planDeltas.ts"
import { readVisit, visitColumns, visitJoin } from "./planVisitRecords.ts"
import type { Session } from "./sessions.ts"

type Rows = StatementResult["rows"]

const serverSql = `SELECT pg_catalog.current_setting('server_version_num'),
  (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user),
  pg_catalog.current_database(),
  pg_catalog.to_regclass('public.health_check') IS NOT NULL,
  pg_catalog.current_setting('compute_ctl.subscriptions_dropped', true),
  pg_catalog.current_setting('compute_ctl.readings', true),
  pg_catalog.current_setting('compute_ctl.migrated', true)`

const schemasSql = "SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.nspname IN ('public', 'neon')"

/** `pg_roles` shows everybody the same, but for the verifier. */
const rolesSql = (superuser: boolean) =>
  `SELECT rolname, ${superuser ? "rolpassword" : "NULL"}, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,
  rolreplication, rolbypassrls, rolconnlimit,
  pg_catalog.date_part('epoch', rolvaliduntil)::pg_catalog.text FROM pg_catalog.${superuser ? "pg_authid" : "pg_roles"}`

/** Columns for this have other names, or are not there, in some versions. */
const creationSql = `pg_catalog.jsonb_build_object('encoding', pg_catalog.pg_encoding_to_char(d.encoding),
    'collate', d.datcollate, 'ctype', d.datctype, 'provider',
    CASE pg_catalog.to_jsonb(d)->>'datlocprovider' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
    'locale', coalesce(pg_catalog.to_jsonb(d)->>'datlocale', pg_catalog.to_jsonb(d)->>'daticulocale'),
    'rules', pg_catalog.to_jsonb(d)->>'daticurules', 'oid', d.oid::pg_catalog.text)`

const databasesSql = (privilegedRole: string, creation: boolean) =>
  `SELECT d.datname, o.rolname, d.datallowconn, d.datistemplate, d.datconnlimit = -2,
  (SELECT pg_catalog.count(*) FROM pg_catalog.aclexplode(d.datacl) a JOIN pg_catalog.pg_roles g ON g.oid = a.grantee
    WHERE g.rolname = ${quoteLiteral(privilegedRole)} AND a.privilege_type IN ('CREATE', 'TEMPORARY', 'CONNECT')) = 3,
  ${visitColumns(privilegedRole)},
  EXISTS (SELECT FROM pg_catalog.pg_subscription u WHERE u.subdbid = d.oid),
  coalesce('pgaudit.log=none' = ANY (s.setconfig), false), d.datconnlimit, t.spcname,
  ${creation ? creationSql : "NULL"}
  FROM pg_catalog.pg_database d LEFT JOIN pg_catalog.pg_roles o ON o.oid = d.datdba
  LEFT JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace
  LEFT JOIN pg_catalog.pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0
  ${visitJoin}`

const referencesSql = (spec: ParsedSpec): string => {
  const names = spec.deltas.flatMap((delta) =>
    delta._tag === "DropRole" || delta._tag === "RenameRole" ? [delta.name] : []
  )
  return `SELECT DISTINCT r.rolname, d.datname FROM pg_catalog.pg_shdepend h
    JOIN pg_catalog.pg_roles r ON r.oid = h.refobjid AND h.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
    LEFT JOIN pg_catalog.pg_database d ON d.oid = h.dbid
    WHERE ${[
      `pg_catalog.starts_with(r.rolname, ${quoteLiteral(leavingRolePrefix)})`,
      ...(names.length === 0 ? [] : [`r.rolname IN (${names.map(quoteLiteral).join(", ")})`])
    ].join(" OR ")}`
}

/** Only where the spec says something about them: there may be as many as there are roles. */
const membershipsSql = (wishes: OptionWishes): string =>
  wishes.memberships
    ? `SELECT r.rolname, m.rolname, a.admin_option, g.rolname FROM pg_catalog.pg_auth_members a
    JOIN pg_catalog.pg_roles r ON r.oid = a.roleid JOIN pg_catalog.pg_roles m ON m.oid = a.member
    LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantor`
    : "SELECT NULL WHERE false"

/** In the settings of our own role, where no tenant can reach them. */
const doneDeltasSql = `SELECT pg_catalog.split_part(c, '=', 1) FROM pg_catalog.pg_db_role_setting s
  JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, pg_catalog.unnest(s.setconfig) c
  WHERE s.setdatabase = 0 AND r.rolname = current_user
    AND pg_catalog.starts_with(c, ${quoteLiteral(doneDeltasSetting)})`

interface OptionWishes {
  readonly times: ReadonlyArray<string>
  readonly encodings: ReadonlyArray<string>
  readonly memberships: boolean
  readonly creation: boolean
}

/** What the options of the spec make it necessary to look at. */
const wishesOf = (spec: ParsedSpec): OptionWishes => {
  const ofRoles = spec.roles.flatMap(({ options }) => roleOptionsOf(options))
  const ofDatabases = spec.databases.flatMap(({ options }) => databaseOptionsOf(options))
  const creation = ofDatabases.filter((option) => option._tag === "Creation")
  return {
    times: [...new Set(ofRoles.flatMap((option) => (option._tag === "ValidUntil" ? [option.until] : [])))],
    encodings: [...new Set(creation.flatMap(({ option, value }) => (option === "ENCODING" ? [value] : [])))],
    memberships:
      spec.roles.some(({ privileged }) => privileged !== null) ||
      ofRoles.some(({ _tag }) => _tag === "MemberOf" || _tag === "Members"),
    creation: creation.length > 0
  }
}

const textArray = (texts: ReadonlyArray<string>) => `ARRAY[${texts.map(quoteLiteral).join(", ")}]::pg_catalog.text[]`

/** What the server takes texts of the spec for. A text that it does not take must not end the whole message. */
const readingsSql = ({ encodings, times }: OptionWishes): string =>
  times.length + encodings.length === 0
    ? "SELECT NULL WHERE false"
    : doBlock(`
DECLARE
  one text;
  reading text;
  times jsonb := '{}';
  encodings jsonb := '{}';
BEGIN
  FOREACH one IN ARRAY ${textArray(times)} LOOP
    BEGIN
      reading := pg_catalog.date_part('epoch', one::timestamptz)::text;
    EXCEPTION WHEN OTHERS THEN
      reading := NULL;
    END;
    times := times || pg_catalog.jsonb_build_object(one, reading);
  END LOOP;
  FOREACH one IN ARRAY ${textArray(encodings)} LOOP
    reading := pg_catalog.pg_encoding_to_char(
      CASE WHEN one ~ '^[0-9]{1,4}$' THEN one::int4 ELSE pg_catalog.pg_char_to_encoding(one) END);
    encodings := encodings || pg_catalog.jsonb_build_object(one, NULLIF(reading, ''));
  END LOOP;
  PERFORM pg_catalog.set_config('compute_ctl.readings',
    pg_catalog.jsonb_build_object('times', times, 'encodings', encodings)::text, false);
END`)

/** Looks into `neon.drop_subscriptions_done` only if it is a plain table of a superuser. */
const subscriptionsSql = (spec: ParsedSpec): string =>
  spec.dropSubscriptions
    ? doBlock(`
DECLARE done boolean := false;
BEGIN
  IF EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
    WHERE c.oid = pg_catalog.to_regclass('neon.drop_subscriptions_done') AND c.relkind = 'r' AND r.rolsuper
  ) THEN
    EXECUTE 'SELECT EXISTS (SELECT FROM neon.drop_subscriptions_done WHERE timeline_id = $1)'
      INTO done USING ${quoteLiteral(spec.timeline)}::pg_catalog.text;
  END IF;
  PERFORM pg_catalog.set_config('compute_ctl.subscriptions_dropped', done::pg_catalog.text, false);
END`)
    : "SELECT NULL WHERE false"

/** At a start. Looks into the table only if it and its schema are a superuser's; what cannot be read is not done. */
const migratedSql = ({ kind }: ApplyOptions): string =>
  kind === "start"
    ? doBlock(`
DECLARE last text := '';
BEGIN
  IF EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles s ON s.oid = n.nspowner
    WHERE c.oid = pg_catalog.to_regclass('neon_migration.migration_id') AND c.relkind = 'r'
      AND r.rolsuper AND s.rolsuper
  ) THEN
    EXECUTE 'SELECT id::pg_catalog.int4 FROM neon_migration.migration_id WHERE key = 0' INTO last;
  END IF;
  PERFORM pg_catalog.set_config('compute_ctl.migrated', coalesce(last, ''), false);
EXCEPTION WHEN OTHERS THEN
  PERFORM pg_catalog.set_config('compute_ctl.migrated', '', false);
END`)
    : "SELECT NULL WHERE false"

/** How many statements a message has. */
const statements = 12

const message = (spec: ParsedSpec, options: ApplyOptions, superuser: boolean): string => {
  const wishes = wishesOf(spec)
  return [
    subscriptionsSql(spec),
    readingsSql(wishes),
    migratedSql(options),
    serverSql,
    schemasSql,
    availableExtensionsSql,
    extensionsSql,
    rolesSql(superuser),
    databasesSql(options.privilegedRole, wishes.creation),
    referencesSql(spec),
    membershipsSql(wishes),
    doneDeltasSql
  ].join(";\n")
}

/** One round trip; two when we may not read `pg_authid`. */
export const observe: (
  session: Session,
  spec: ParsedSpec,
  options: ApplyOptions
) => Effect.Effect<Catalog, WireFailed | TimedOut> = Effect.fnUntraced(function* (session, spec, options) {
  const [answer] = yield* session.send([message(spec, options, true)], statements)
  if (answer === undefined) return yield* Effect.die("one message has one answer")
  if (Result.isSuccess(answer)) return read(answer.success, true)
  if (answer.failure.sqlState !== "42501") return yield* answer.failure
  const [again] = yield* session.send([message(spec, options, false)], statements)
  if (again === undefined) return yield* Effect.die("one message has one answer")
  return read(yield* Effect.fromResult(again), false)
})

const read = (results: ReadonlyArray<StatementResult>, verifiers: boolean): Catalog => {
  const at = (index: number): Rows => results[index]?.rows ?? []
  const [server] = at(3)
  const readings = readReadings(server?.[5])
  return {
    serverVersion: Number(server?.[0]),
    superuser: server?.[1] === "t",
    systemDatabase: server?.[2] ?? "",
    healthCheck: server?.[3] === "t",
    subscriptionsDropped: server?.[4] === "true",
    migrated: server?.[6] == null || server[6] === "" ? null : Number(server[6]),
    schemas: new Set(at(4).map(([name]) => name ?? "")),
    ...readExtensions(at(6)),
    roles: new Map(at(7).map((row) => [row[0] ?? "", readRole(row, verifiers)])),
    databases: new Map(at(8).map((row) => [row[0] ?? "", readDatabase(row)])),
    references: at(9).map((row) => ({ role: row[0] ?? "", database: row[1] ?? null })),
    memberships: at(10).map(([role, member, admin, grantor]) => ({
      role: role ?? "",
      member: member ?? "",
      admin: admin === "t",
      grantor: grantor ?? null
    })),
    doneDeltas: new Set(at(11).map(([name]) => (name ?? "").slice(doneDeltasSetting.length))),
    ...readings
  }
}

/** Our own `readingsSql` wrote it. */
const readReadings = (text: string | null | undefined): Pick<Catalog, "times" | "encodings"> => {
  if (text == null || text === "") return { times: new Map(), encodings: new Map() }
  const { encodings, times } = JSON.parse(text) as Record<"times" | "encodings", Record<string, string | null>>
  return { times: new Map(Object.entries(times)), encodings: new Map(Object.entries(encodings)) }
}

type Row = Rows[number]

const readRole = (row: Row, verifiers: boolean): ObservedRole => ({
  name: row[0] ?? "",
  verifier: !verifiers ? "unseen" : row[1] == null ? null : Redacted.make(row[1], { label: "verifier" }),
  superuser: row[2] === "t",
  inherit: row[3] === "t",
  createRole: row[4] === "t",
  createDatabase: row[5] === "t",
  login: row[6] === "t",
  replication: row[7] === "t",
  bypassRls: row[8] === "t",
  connectionLimit: Number(row[9]),
  validUntil: row[10] ?? null
})

const readDatabase = (row: Row): ObservedDatabase => ({
  name: row[0] ?? "",
  owner: row[1] ?? "",
  allowsConnections: row[2] === "t",
  template: row[3] === "t",
  invalid: row[4] === "t",
  granted: row[5] === "t",
  visited: readVisit(row[6], row[7]),
  subscriptions: row[8] === "t",
  auditLogOff: row[9] === "t",
  connectionLimit: Number(row[10]),
  tablespace: row[11] ?? "",
  creation: row[12] == null ? null : (JSON.parse(row[12]) as DatabaseCreation)
})
