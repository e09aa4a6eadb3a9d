/**
 * The routes that look inside Postgres and at the machine, as superuser. What they ask is in `adminSql.ts`.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as OS from "node:os"
import type { ComputeState } from "../compute/ComputeState.ts"
import { quoteLiteral } from "../pgwire/quote.ts"
import { Spawn } from "../platform/Spawn.ts"
import type { Admin } from "../pgwire/Admin.ts"
import { refusal } from "./httpAnswer.ts"
import { ask, mustRun, queryWithin } from "./adminSession.ts"
import * as adminSql from "./adminSql.ts"
import { answered, within } from "./answer.ts"
import { Caller } from "./Auth.ts"
import type { EndpointOptions } from "./options.ts"
import { schemaDump } from "./schemaDump.ts"

/** Disk full: the compute's disk is not its storage, so writing is as good as possible (reference section 7.1). */
const diskFull = "53100"

const adminsOnly = refusal(403, "admin_only", "only an administrator may see password verifiers", "use a token of scope compute_ctl:admin")
const oneDatabase = refusal(400, "database_missing", "the query must have one `database`", "GET /database_schema?database=NAME")
const noDatabase = refusal(404, "database_unknown", "database does not exist", "GET /dbs_and_roles lists what there is")

/** Databases that are looked into, and how many at a time (reference section 4.9). */
const maxDatabases = 500
const databasesAtOnce = 4

interface Installed {
  readonly versions: Set<string>
  databases: number
  bySuperuser: boolean
}

export const insight = (state: ComputeState["Service"], admin: Admin["Service"], options: EndpointOptions) => {
  const { dialect } = options

  const insights = Effect.gen(function*() {
    yield* mustRun(state, dialect, "insights")
    const rows = yield* ask(admin, "collect_insights", adminSql.insights(admin.superuser))
    return HttpServerResponse.text(rows[0]?.[0] ?? "{\"pg_stat_statements\":[]}", { contentType: "application/json" })
  })

  const catalog = Effect.fnUntraced(function*(passwords: boolean) {
    const caller = yield* Caller
    if (passwords && !caller.admin) return yield* Effect.fail(adminsOnly)
    const [roles, databases] = yield* Effect.scoped(Effect.gen(function*() {
      const wire = yield* admin.connect("get_dbs_and_roles")
      const roles = yield* wire.rows(passwords ? adminSql.rolesWithVerifiers : adminSql.roles, queryWithin)
      return [roles, yield* wire.rows(adminSql.databases, queryWithin)] as const
    }))
    return {
      roles: roles.map(([name, verifier]) => ({ name: name ?? "", encrypted_password: verifier ?? null, options: null })),
      databases: databases.map(([name, owner, refuses, invalid]) => ({
        name: name ?? "",
        owner: owner ?? "",
        options: null,
        restrict_conn: refuses === "t",
        invalid: invalid === "t"
      }))
    }
  })

  const checkWritability = Effect.gen(function*() {
    yield* mustRun(state, dialect, "check_writability")
    yield* Effect.catch(ask(admin, "availability_checker", adminSql.touchHealthCheck), (error) =>
      error._tag === "WireFailed" && error.sqlState === diskFull ? Effect.void : Effect.fail(error))
    return true
  })

  const databaseSchema = Effect.fnUntraced(function*(database: string | ReadonlyArray<string> | undefined) {
    if (typeof database !== "string" || database === "" || database.includes("\0")) return yield* Effect.fail(oneDatabase)
    yield* mustRun(state, dialect, "database_schema")
    const known = yield* ask(admin, "get_dbs_and_roles", adminSql.databaseNamed(quoteLiteral(database)))
    if (known.length === 0) return yield* Effect.fail(noDatabase)
    return yield* schemaDump(yield* options.install, admin, database)
  }, Effect.provide(Spawn.layer))

  const installedExtensions = Effect.gen(function*() {
    yield* mustRun(state, dialect, "installed_extensions")
    const names = yield* ask(admin, "get_installed_extensions", adminSql.connectable(maxDatabases))
    const found = new Map<string, Installed>()
    yield* Effect.forEach(names, ([database]) =>
      Effect.map(ask(admin, "get_installed_extensions", adminSql.installedExtensions, database ?? ""), (rows) => {
        for (const [name, version, bySuperuser] of rows) {
          const known = found.get(name ?? "") ?? { versions: new Set(), databases: 0, bySuperuser: false }
          known.versions.add(version ?? "")
          known.databases += 1
          known.bySuperuser ||= bySuperuser === "t"
          found.set(name ?? "", known)
        }
      }), { concurrency: databasesAtOnce, discard: true })
    return {
      extensions: [...found].toSorted(([a], [b]) => a < b ? -1 : 1).map(([extname, { bySuperuser, databases, versions }]) => ({
        extname,
        versions: [...versions].toSorted(),
        n_databases: databases,
        owned_by_superuser: bySuperuser
      }))
    }
  }).pipe(within("counting extensions", Duration.minutes(2)))

  const liveness = Effect.as(ask(admin, "availability_checker", "SELECT 1"), "ok")

  const info = Effect.map(options.install, (install) => ({
    num_cpus: OS.availableParallelism(),
    version: options.version,
    api_dialect: dialect,
    postgres_version: install?.version ?? null,
    pg_dump: (install?.pgDump ?? null) !== null
  }))

  return {
    insights: () => answered(insights),
    catalog: ({ query }: { readonly query: { readonly passwords?: "true" | "false" } }) => answered(catalog(query.passwords === "true")),
    databaseSchema: ({ query }: { readonly query: { readonly database?: string | ReadonlyArray<string> } }) =>
      answered(databaseSchema(query.database)),
    installedExtensions: () => answered(installedExtensions),
    checkWritability: () => answered(checkWritability),
    hadronLiveness: () => answered(liveness),
    info: () => info
  }
}
