/**
 * The routes that ask Postgres: one superuser session per request, with a deadline, and only where the status allows
 * it. The SQL is in `adminSql.ts`. Sessions, and the child of a schema dump, end with the request.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as HttpEffect from "effect/http/HttpEffect"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Ref from "effect/Ref"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import * as OS from "node:os"
import type { ComputeState } from "../compute/ComputeState.ts"
import { CommandFailed, type Failure, type TimedOut, type WireFailed } from "../errors/Failure.ts"
import { within } from "../errors/within.ts"
import { countExtensions, type ExtensionCounts } from "../extensions/countExtensions.ts"
import type { Admin, Purpose } from "../pgwire/Admin.ts"
import { namingLockHolders } from "../pgwire/lockWait.ts"
import { quoteLiteral } from "../pgwire/quote.ts"
import { helperStages } from "../platform/shutdownStages.ts"
import { Spawn } from "../platform/Spawn.ts"
import type { PostgresInstall } from "../postgres/PostgresInstall.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import * as adminSql from "./adminSql.ts"
import { answered, answeredWithin, json, readBody, sqlType } from "./answer.ts"
import { Caller } from "./Auth.ts"
import { ExtensionBody, Grants } from "./bodies.ts"
import type { ServerOptions } from "./options.ts"
import { type Asked, databasesHint, refusal, sqlRefusal, wrongStatus } from "./refusals.ts"

const noDump = refusal(
  503,
  "pg_dump_missing",
  "this installation of Postgres has no pg_dump",
  "install the client programs beside the postgres that -b names"
)
const notYet = refusal(
  503,
  "postgres_not_located",
  "Postgres was not looked for yet",
  "wait until GET /status says running"
)
const adminsOnly = refusal(
  403,
  "admin_only",
  "only an administrator may see password verifiers",
  "use a token of scope compute_ctl:admin"
)
const oneDatabase = refusal(
  400,
  "database_missing",
  "the query must have one `database`",
  "GET /database_schema?database=NAME"
)
const noDatabase = refusal(404, "database_unknown", "database does not exist", databasesHint)

/** For one query. */
const queryWithin = Duration.seconds(60)

/** One query by a session of its own. */
const runQuery = (admin: Admin["Service"], purpose: Purpose, sql: string, database?: string) =>
  Effect.scoped(Effect.flatMap(admin.connect(purpose, database), (wire) => wire.rows(sql, queryWithin)))

const requireRunning = (state: ComputeState["Service"], apiVersion: ApiVersion, asked: Asked) =>
  Effect.flatMap(state.now, ({ status }) =>
    status === "running" ? Effect.void : Effect.fail(wrongStatus(apiVersion, asked, status))
  )

/** Characters kept of its error output. */
const keptErrorOutput = 4_000

const missingDatabase = /database ".*" does not exist/

/**
 * A database's schema as `pg_dump` prints it, passed on as it comes. The child lives as long as the answer: a caller
 * that goes away ends it. Its exit before the first byte of output decides the status; a dump that breaks off later
 * breaks the answer off, so that nobody takes half for the whole.
 *
 * `database` is passed by the environment: as an argument it could be read as a whole connection string.
 */
const schemaDump = Effect.fn("Http.schemaDump")(function* (
  install: PostgresInstall["Service"] | null,
  { at, sessions, startupOptions, superuser }: Admin["Service"],
  database: string
) {
  if (install === null) return yield* Effect.fail(notYet)
  if (install.pgDump === null) return yield* Effect.fail(noDump)
  const command = install.pgDump
  const { spawn } = yield* Spawn
  const session = yield* Effect.acquireRelease(
    Effect.sync(() => sessions.begin(database)),
    ({ ended }) => Effect.sync(ended)
  )
  const child = yield* spawn({
    command,
    args: ["--schema-only", "--no-password", "--host", at.host, "--port", String(at.port), "--username", superuser],
    env: {
      PGDATABASE: database,
      PGAPPNAME: "compute_ctl:schema_dump",
      PGOPTIONS: yield* startupOptions("get_dbs_and_roles"),
      PGPASSWORD: at.password === null ? undefined : Redacted.value(at.password)
    },
    runAs: install.runAs,
    stages: helperStages
  })
  const errorOutput = yield* Ref.make("")
  const readingErrors = yield* child.stderr.pipe(
    Stream.decodeText(),
    Stream.runForEach((text) => Ref.update(errorOutput, (old) => (old + text).slice(-keptErrorOutput))),
    Effect.forkScoped
  )
  const failUnlessWhole = Effect.gen(function* () {
    const exit = yield* child.exit
    yield* Effect.timeoutOption(Fiber.await(readingErrors), Duration.seconds(1))
    const output = (yield* Ref.get(errorOutput)).trim()
    if (exit._tag === "Code" && exit.code === 0) return
    return yield* missingDatabase.test(output)
      ? Effect.fail(noDatabase)
      : Effect.fail(new CommandFailed({ command, exit, output }))
  })

  const [first, rest] = yield* Stream.peel(child.stdout, Sink.head<Uint8Array>()).pipe(
    within("the first words of pg_dump", queryWithin)
  )
  if (Option.isNone(first)) {
    yield* failUnlessWhole
    session.opened()
    return HttpServerResponse.text("", { contentType: sqlType })
  }
  session.opened()
  const body = Stream.succeed(first.value).pipe(
    Stream.concat(rest),
    Stream.concat(Stream.fromEffectDrain(failUnlessWhole))
  )
  return HttpEffect.scopeTransferToStream(HttpServerResponse.stream(body, { contentType: sqlType }))
})

/**
 * Disk full: the compute's disk is not its storage, so writing is as good as possible
 * (docs/reference/compute_ctl.md#http-routes).
 */
const diskFull = "53100"

const catalog = Effect.fnUntraced(function* (admin: Admin["Service"], passwords: boolean) {
  const caller = yield* Caller
  if (passwords && !caller.admin) return yield* Effect.fail(adminsOnly)
  const [roles, databases] = yield* Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* admin.connect("get_dbs_and_roles")
      const roles = yield* wire.rows(passwords ? adminSql.rolesWithVerifiers : adminSql.roles, queryWithin)
      return [roles, yield* wire.rows(adminSql.databases, queryWithin)] as const
    })
  )
  return {
    roles: roles.map(([name, verifier]) => ({
      name: name ?? "",
      encrypted_password: verifier ?? null,
      options: null
    })),
    databases: databases.map(([name, owner, refuses, invalid]) => ({
      name: name ?? "",
      owner: owner ?? "",
      options: null,
      restrict_conn: refuses === "t",
      invalid: invalid === "t"
    }))
  }
})

/** Once per extension, with every version that some database has. */
const installedExtensions = (counts: ExtensionCounts) => ({
  extensions: [...Map.groupBy(counts, ({ name }) => name)].map(([extname, same]) => ({
    extname,
    versions: [...new Set(same.map(({ version }) => version))],
    n_databases: same.reduce((sum, { databases }) => sum + databases, 0),
    owned_by_superuser: same.some(({ ownedBySuperuser }) => ownedBySuperuser)
  }))
})

/** The control plane's routes. */
export const postgresRoutes = (state: ComputeState["Service"], admin: Admin["Service"], options: ServerOptions) => {
  const { apiVersion } = options

  const insights = Effect.gen(function* () {
    yield* requireRunning(state, apiVersion, "insights")
    const rows = yield* runQuery(admin, "collect_insights", adminSql.insights(admin.superuser))
    return HttpServerResponse.text(rows[0]?.[0] ?? '{"pg_stat_statements":[]}', { contentType: "application/json" })
  })

  const checkWritability = Effect.gen(function* () {
    yield* requireRunning(state, apiVersion, "check_writability")
    yield* Effect.catch(runQuery(admin, "availability_checker", adminSql.touchHealthCheck), (error) =>
      error._tag === "WireFailed" && error.sqlState === diskFull ? Effect.void : Effect.fail(error)
    )
    return true
  })

  const databaseSchema = Effect.fnUntraced(function* (database: string | ReadonlyArray<string> | undefined) {
    if (typeof database !== "string" || database === "" || database.includes("\0"))
      return yield* Effect.fail(oneDatabase)
    yield* requireRunning(state, apiVersion, "database_schema")
    // This session also proves that the server is ours; pg_dump, which goes to the same address, cannot.
    const known = yield* runQuery(admin, "get_dbs_and_roles", adminSql.databaseNamed(quoteLiteral(database)))
    if (known.length === 0) return yield* Effect.fail(noDatabase)
    return yield* schemaDump(yield* options.install, admin, database)
  }, Effect.provide(Spawn.layer))

  const extensions = Effect.andThen(
    requireRunning(state, apiVersion, "installed_extensions"),
    Effect.map(countExtensions(admin, "answer"), installedExtensions)
  ).pipe(answeredWithin("counting extensions", Duration.minutes(2)))

  const liveness = Effect.as(runQuery(admin, "availability_checker", "SELECT 1"), "ok")

  const info = Effect.map(options.install, (install) => ({
    num_cpus: OS.availableParallelism(),
    version: options.version,
    api_dialect: apiVersion,
    postgres_version: install?.version ?? null,
    pg_dump: (install?.pgDump ?? null) !== null
  }))

  return {
    insights: () => answered(insights),
    catalog: ({ query }: { readonly query: { readonly passwords?: "true" | "false" } }) =>
      answered(catalog(admin, query.passwords === "true")),
    databaseSchema: ({ query }: { readonly query: { readonly database?: string | ReadonlyArray<string> } }) =>
      answered(databaseSchema(query.database)),
    installedExtensions: () => answered(extensions),
    checkWritability: () => answered(checkWritability),
    hadronLiveness: () => answered(liveness),
    info: () => info
  }
}

const prefixed = (prefix: string) => Effect.mapError((error: Failure) => sqlRefusal(error, `${prefix}: `))

/** The routes that change Postgres for its own machine: an extension installed, privileges granted. */
export const grantRoutes = (state: ComputeState["Service"], admin: Admin["Service"], apiVersion: ApiVersion) => {
  const created = apiVersion === "head" ? 201 : 200

  const extensions = Effect.gen(function* () {
    const { database, extension, version } = yield* readBody(ExtensionBody, apiVersion, "invalid request body")
    yield* requireRunning(state, apiVersion, "extensions")
    yield* Effect.scoped(
      Effect.gen(function* () {
        const wire = yield* admin.connect("install_extension", database)
        const [installed] = yield* wire.rows(adminSql.installedVersion(extension), queryWithin)
        const [first, ...others] = adminSql.installExtension(extension, version, installed?.[0] ?? null)
        const run = (sql: string) => namingLockHolders(admin, wire, "/extensions", wire.simple(sql, queryWithin))
        const notSupported = (failure: WireFailed | TimedOut) =>
          failure._tag === "WireFailed" && failure.sqlState === "0A000"
        if (first !== undefined)
          yield* others.reduce((tried, sql) => Effect.catchIf(tried, notSupported, () => run(sql)), run(first))
      })
    ).pipe(prefixed("failed to install extension"))
    return json({ extension, version }, created)
  })

  const grants = Effect.gen(function* () {
    const wanted = yield* readBody(Grants, apiVersion, "invalid request body")
    yield* requireRunning(state, apiVersion, "set_role_grants")
    yield* Effect.scoped(
      Effect.gen(function* () {
        const wire = yield* admin.connect("set_role_grants", wanted.database)
        const held = yield* wire.rows(adminSql.heldPrivileges(wanted.schema, wanted.role), queryWithin)
        const sql = adminSql.grant(
          wanted.schema,
          wanted.role,
          wanted.privileges,
          new Set(held.map(([privilege]) => privilege ?? ""))
        )
        if (sql !== null) yield* namingLockHolders(admin, wire, "/grants", wire.simple(sql, queryWithin))
      })
    ).pipe(prefixed(`${apiVersion === "head" ? "failed to" : "could not"} grant role privileges to the schema`))
    return json(wanted, created)
  })

  return { extensions: () => answered(extensions), grants: () => answered(grants) }
}
