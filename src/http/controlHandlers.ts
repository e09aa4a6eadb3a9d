/**
 * The control plane's routes: status, spec, end, and what a superuser sees. Orders go to `Orders`; nothing here waits
 * for ever, and a caller that goes away takes nothing with it.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpApiBuilder from "effect/http-api/HttpApiBuilder"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import { ComputeState, type Snapshot } from "../ComputeState.ts"
import type { Failure } from "../domain/Failure.ts"
import { printLsn } from "../domain/Lsn.ts"
import type { IllegalTransition } from "../lifecycle/table.ts"
import { Orders } from "../Orders.ts"
import { Admin, type Purpose } from "../pg/Admin.ts"
import {
  type Asked,
  configureRefusal,
  deadlinePassed,
  type Dialect,
  lastActiveText,
  liveConfigRefused,
  type Refusal,
  refusal,
  refusalOf,
  startTimeText,
  wireStatus,
  wrongStatus
} from "../plan/httpAnswer.ts"
import * as adminSql from "./adminSql.ts"
import { answerOf, json, readBody } from "./answer.ts"
import { ConfigureBody, ExtensionBody, Grants, Whole } from "./Api.ts"
import type { EndpointOptions } from "./options.ts"

/** Longer than the 2 minutes a statement may take. */
const queryWithin = Duration.seconds(60)

/** Disk full: the compute's disk is not its storage, so writing is as good as possible (reference section 7.1). */
const diskFull = "53100"

export const statusBody = (dialect: Dialect, snapshot: Snapshot) => ({
  start_time: startTimeText(snapshot.startTime),
  tenant: snapshot.spec?.tenant ?? null,
  timeline: snapshot.spec?.timeline ?? null,
  status: wireStatus(dialect, snapshot.status),
  last_active: lastActiveText(snapshot.lastActive),
  error: snapshot.error
})

const isRefusal = (error: Failure | Refusal): error is Refusal => error._tag === "Refusal"

/** Whatever is refused or fails becomes its answer. */
const answered = <A, R>(effect: Effect.Effect<A, Failure | Refusal, R>) =>
  Effect.catch(effect, (error) => Effect.succeed(answerOf(isRefusal(error) ? error : refusalOf(error))))

const within = (what: string, limit: Duration.Duration) => <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.timeoutOrElse(effect, {
    duration: limit,
    orElse: () => Effect.fail(deadlinePassed(what, Duration.toMillis(limit)))
  })

/** One query by a session of its own. */
const ask = (admin: Admin["Service"], purpose: Purpose, sql: string, database?: string) =>
  Effect.scoped(Effect.flatMap(admin.connect(purpose, database), (wire) => wire.rows(sql, queryWithin)))

const mustRun = (state: ComputeState["Service"], dialect: Dialect, asked: Asked) =>
  Effect.flatMap(state.now, ({ status }) => status === "running" ? Effect.void : Effect.fail(wrongStatus(dialect, asked, status)))

const noMode = refusal(400, "mode_missing", "failed to deserialize query string: missing field `mode`", "use mode=fast or mode=immediate")

export const controlHandlers = (options: EndpointOptions) =>
  HttpApiBuilder.group(Whole, "control", Effect.fnUntraced(function*(handlers) {
    const { dialect, patience } = options
    const admin = yield* Admin
    const orders = yield* Orders
    const state = yield* ComputeState

    const refuseConfigure = (error: Failure | IllegalTransition): Refusal =>
      error._tag === "IllegalTransition" ? wrongStatus(dialect, "configuration", error.from) : configureRefusal(error)

    const configure = Effect.gen(function*() {
      if (!options.liveConfigAllowed) return yield* Effect.fail(liveConfigRefused)
      const body = yield* readBody(ConfigureBody, dialect, "invalid spec")
      const spec = yield* Effect.fromResult(options.parseSpec(body.spec))
      const snapshot = yield* orders.configure(spec).pipe(
        Effect.mapError(refuseConfigure),
        within("the configuration", patience.configure)
      )
      return json(statusBody(dialect, snapshot))
    })

    const terminate = Effect.fnUntraced(function*(mode: "fast" | "immediate" | undefined) {
      const request = yield* HttpServerRequest.HttpServerRequest
      if (dialect === "head" && mode === undefined && request.url.includes("?")) return yield* Effect.fail(noMode)
      const { status } = yield* state.now
      yield* orders.terminate(mode ?? "fast")
      const ended = yield* state.until("terminated").pipe(within("the end", patience.terminate))
      if (dialect === "2024") return HttpServerResponse.empty({ status: 200 })
      const lsn = ended.flushed === null ? null : printLsn(ended.flushed)
      return json({ lsn }, status === "terminated" ? 201 : 200)
    })

    const insights = Effect.gen(function*() {
      yield* mustRun(state, dialect, "insights")
      const rows = yield* ask(admin, "collect_insights", adminSql.insights(admin.superuser))
      return HttpServerResponse.text(rows[0]?.[0] ?? "{\"pg_stat_statements\":[]}", { contentType: "application/json" })
    })

    const catalog = Effect.gen(function*() {
      const [roles, databases] = yield* Effect.scoped(Effect.gen(function*() {
        const wire = yield* admin.connect("get_dbs_and_roles")
        return [yield* wire.rows(adminSql.roles, queryWithin), yield* wire.rows(adminSql.databases, queryWithin)] as const
      }))
      return {
        roles: roles.map(([name]) => ({ name: name ?? "", encrypted_password: null, options: null })),
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

    return handlers.handleAll({
      status: () => Effect.map(state.now, (snapshot) => statusBody(dialect, snapshot)),
      metricsJson: () => Effect.map(state.now, ({ metrics }) => metrics),
      timeline: () =>
        Effect.map(state.now, (snapshot) => ({
          start_time: startTimeText(snapshot.startTime),
          status: wireStatus(dialect, snapshot.status),
          steps: snapshot.steps.map(({ millis, name, startedAt }) => ({ name, started_at_ms: startedAt, ms: millis }))
        })),
      apply: () =>
        Effect.map(state.now, ({ receipt }) =>
          receipt ?? answerOf(refusal(404, "nothing_applied", "nothing was applied yet", "GET /status says where the start is"))),
      terminate: ({ query }) => answered(terminate(query.mode)),
      insights: () => answered(insights),
      catalog: () => answered(catalog),
      checkWritability: () => answered(checkWritability)
    }).handleRaw("configure", () => answered(configure))
  }))

export const insideHandlers = (options: EndpointOptions) =>
  HttpApiBuilder.group(Whole, "inside", Effect.fnUntraced(function*(handlers) {
    const { dialect } = options
    const admin = yield* Admin
    const state = yield* ComputeState
    const created = dialect === "head" ? 201 : 200

    const framed = (frame: string) => Effect.mapError((error: Failure) => refusalOf(error, `${frame}: `))

    const extensions = Effect.gen(function*() {
      const { database, extension, version } = yield* readBody(ExtensionBody, dialect, "invalid request body")
      yield* mustRun(state, dialect, "extensions")
      yield* Effect.scoped(Effect.gen(function*() {
        const wire = yield* admin.connect("install_extension", database)
        const [facts] = yield* wire.rows(adminSql.extensionFacts(extension, version), queryWithin)
        const sql = adminSql.installExtension(extension, version, facts?.[0] ?? null, facts?.[1] ?? null)
        if (sql !== null) yield* wire.simple(sql, queryWithin)
      })).pipe(framed("failed to install extension"))
      return json({ extension, version }, created)
    })

    const grants = Effect.gen(function*() {
      const wanted = yield* readBody(Grants, dialect, "invalid request body")
      yield* mustRun(state, dialect, "set_role_grants")
      yield* Effect.scoped(Effect.gen(function*() {
        const wire = yield* admin.connect("set_role_grants", wanted.database)
        const held = yield* wire.rows(adminSql.heldPrivileges(wanted.schema, wanted.role), queryWithin)
        const sql = adminSql.grant(wanted.schema, wanted.role, wanted.privileges, new Set(held.map(([privilege]) => privilege ?? "")))
        if (sql !== null) yield* wire.simple(sql, queryWithin)
      })).pipe(framed(`${dialect === "head" ? "failed to" : "could not"} grant role privileges to the schema`))
      return json(wanted, created)
    })

    return handlers
      .handleRaw("extensions", () => answered(extensions))
      .handleRaw("grants", () => answered(grants))
  }))
