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
import type { ApplyOptions, Catalog, ObservedDatabase, ObservedExtension, ObservedRole } from "./Catalog.ts"
import { visitSetting } from "./planVisits.ts"
import type { Session } from "./sessions.ts"

type Rows = StatementResult["rows"]

const serverSql = `SELECT pg_catalog.current_setting('server_version_num'),
  (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user),
  pg_catalog.current_database(),
  pg_catalog.to_regclass('public.health_check') IS NOT NULL,
  pg_catalog.current_setting('compute_ctl.subscriptions_dropped', true)`

const schemasSql = "SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.nspname IN ('public', 'neon')"

const extensionsSql = `SELECT a.name, a.default_version, e.extversion, n.nspname, e.extrelocatable
  FROM pg_catalog.pg_available_extensions a
  LEFT JOIN pg_catalog.pg_extension e ON e.extname = a.name
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
  WHERE a.name IN ('neon', 'pg_stat_statements', 'anon', 'pgaudit', 'pgauditlogtofile')`

/** `pg_roles` shows everybody the same, but for the verifier. */
const rolesSql = (superuser: boolean) =>
  `SELECT rolname, ${superuser ? "rolpassword" : "NULL"}, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,
  rolreplication, rolbypassrls, rolconnlimit FROM pg_catalog.${superuser ? "pg_authid" : "pg_roles"}`

const databasesSql = (privilegedRole: string) =>
  `SELECT d.datname, o.rolname, d.datallowconn, d.datistemplate, d.datconnlimit = -2,
  (SELECT pg_catalog.count(*) FROM pg_catalog.aclexplode(d.datacl) a JOIN pg_catalog.pg_roles g ON g.oid = a.grantee
    WHERE g.rolname = ${quoteLiteral(privilegedRole)} AND a.privilege_type IN ('CREATE', 'TEMPORARY', 'CONNECT')) = 3,
  d.oid, (SELECT c FROM pg_catalog.unnest(s.setconfig) c
    WHERE pg_catalog.starts_with(c, ${quoteLiteral(`${visitSetting}=`)})),
  EXISTS (SELECT FROM pg_catalog.pg_subscription u WHERE u.subdbid = d.oid),
  coalesce('pgaudit.log=none' = ANY (s.setconfig), false)
  FROM pg_catalog.pg_database d LEFT JOIN pg_catalog.pg_roles o ON o.oid = d.datdba
  LEFT JOIN pg_catalog.pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0`

const referencesSql = (spec: ParsedSpec): string => {
  const names = spec.deltas.flatMap((delta) =>
    delta._tag === "DropRole" || delta._tag === "RenameRole" ? [delta.name] : []
  )
  if (names.length === 0) return "SELECT NULL WHERE false"
  return `SELECT DISTINCT r.rolname, d.datname FROM pg_catalog.pg_shdepend h
    JOIN pg_catalog.pg_roles r ON r.oid = h.refobjid AND h.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
    LEFT JOIN pg_catalog.pg_database d ON d.oid = h.dbid
    WHERE r.rolname IN (${names.map(quoteLiteral).join(", ")})`
}

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

const message = (spec: ParsedSpec, options: ApplyOptions, superuser: boolean): string =>
  [
    subscriptionsSql(spec),
    serverSql,
    schemasSql,
    extensionsSql,
    rolesSql(superuser),
    databasesSql(options.privilegedRole),
    referencesSql(spec)
  ].join(";\n")

/** One round trip; two when we may not read `pg_authid`. */
export const observe: (
  session: Session,
  spec: ParsedSpec,
  options: ApplyOptions
) => Effect.Effect<Catalog, WireFailed | TimedOut> = Effect.fnUntraced(function* (session, spec, options) {
  const [answer] = yield* session.send([message(spec, options, true)], 7)
  if (answer === undefined) return yield* Effect.die("one message has one answer")
  if (Result.isSuccess(answer)) return read(answer.success, true)
  if (answer.failure.sqlState !== "42501") return yield* answer.failure
  const [again] = yield* session.send([message(spec, options, false)], 7)
  if (again === undefined) return yield* Effect.die("one message has one answer")
  return read(yield* Effect.fromResult(again), false)
})

const read = (results: ReadonlyArray<StatementResult>, verifiers: boolean): Catalog => {
  const at = (index: number): Rows => results[index]?.rows ?? []
  const [server] = at(1)
  return {
    serverVersion: Number(server?.[0]),
    superuser: server?.[1] === "t",
    systemDatabase: server?.[2] ?? "",
    healthCheck: server?.[3] === "t",
    subscriptionsDropped: server?.[4] === "true",
    schemas: new Set(at(2).map(([name]) => name ?? "")),
    extensions: new Map(at(3).map((row) => [row[0] ?? "", readExtension(row)])),
    roles: new Map(at(4).map((row) => [row[0] ?? "", readRole(row, verifiers)])),
    databases: new Map(at(5).map((row) => [row[0] ?? "", readDatabase(row)])),
    references: at(6).map((row) => ({ role: row[0] ?? "", database: row[1] ?? null }))
  }
}

type Row = Rows[number]

const readExtension = ([, available, version, schema, relocatable]: Row): ObservedExtension => ({
  available: available ?? "",
  installed: version == null ? null : { version, schema: schema ?? "", relocatable: relocatable === "t" }
})

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
  connectionLimit: Number(row[9])
})

/** The record is `compute_ctl.visited=OID:TEXT`; with another oid it came with a copy of another database. */
const readVisited = (oid: string, setting: string | null | undefined): string | null => {
  const prefix = `${visitSetting}=${oid}:`
  return setting?.startsWith(prefix) === true ? setting.slice(prefix.length) : null
}

const readDatabase = (row: Row): ObservedDatabase => ({
  name: row[0] ?? "",
  owner: row[1] ?? "",
  allowsConnections: row[2] === "t",
  template: row[3] === "t",
  invalid: row[4] === "t",
  granted: row[5] === "t",
  visited: readVisited(row[6] ?? "", row[7]),
  subscriptions: row[8] === "t",
  auditLogOff: row[9] === "t"
})
