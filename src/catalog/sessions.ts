/**
 * SQL sessions of an apply: nothing sent on one is forwarded, logged or kept in `pg_stat_statements`; each is counted.
 *
 * A session is closed with its scope. One whose connection broke is not used again; the pool opens another.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import { Admin, applicationName, type Purpose } from "../pgwire/Admin.ts"
import { namingLockHolders } from "../pgwire/lockWait.ts"
import { pinnedOptions } from "../pgwire/pinnedSettings.ts"
import { quoteIdentifier } from "../pgwire/quote.ts"
import { type Answer, connect } from "../pgwire/Wire.ts"
import type { ApplyPlan } from "./operations.ts"

/** What an apply sent. Mutable: one apply, many sessions. */
export interface SqlStatistics {
  /** Sessions that were opened, or tried. */
  connections: number
  /** Messages, or pipelines of them, whose answer was waited for. */
  roundTrips: number
  statements: number
}

export const newSqlStatistics = (): SqlStatistics => ({ connections: 0, roundTrips: 0, statements: 0 })

export interface Session {
  /** Each is one message and one transaction; answered in order. `statements` is how many they hold, for the count. */
  readonly send: (
    sqls: ReadonlyArray<string | Redacted.Redacted<string>>,
    statements?: number
  ) => Effect.Effect<ReadonlyArray<Answer>, WireFailed | TimedOut>
  /** Ends it, and waits until the database has one user less. */
  readonly leave: Effect.Effect<void>
}

/**
 * Sent along with the first message. A failed statement must not reach Postgres's log, nor `pg_stat_statements`
 * its text: it may hold verifiers. Only a superuser may set most of these; for anyone else they are left out.
 */
const sessionSettings = [
  "SET neon.forward_ddl = false",
  "SET client_encoding = 'UTF8'",
  `SELECT pg_catalog.set_config(v.name, v.value, false) FROM (VALUES
    ('log_statement', 'none'), ('log_min_error_statement', 'panic'), ('log_min_duration_statement', '-1'),
    ('log_min_duration_sample', '-1'), ('log_transaction_sample_rate', '0'), ('log_duration', 'off'),
    ('pg_stat_statements.track', 'none'), ('auto_explain.log_min_duration', '-1'), ('pgaudit.log', 'none')
  ) AS v(name, value) WHERE (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)`
].join(";\n")

/** Too many connections, or starting up: Postgres has no room right now. */
const noRoom = new Set(["53300", "57P03"])

const betweenAttempts = Schedule.max([Schedule.exponential(Duration.millis(50)), Schedule.recurs(5)])

/** The message of the query is shown to members of pg_monitor, tenants among them; so not while it holds verifiers. */
const hideQuery = "SET track_activities = off"
const showQuery = "RESET track_activities"

export const openSession: (
  statistics: SqlStatistics,
  purpose: Purpose,
  database: string | null
) => Effect.Effect<Session, WireFailed | TimedOut, Admin | Scope.Scope> = Effect.fnUntraced(
  function* (statistics, purpose, database) {
    const admin = yield* Admin
    const connectOnce = Effect.suspend(() => {
      statistics.connections++
      return database === null ? admin.connect(purpose) : admin.connect(purpose, database)
    })
    const wire = yield* connectOnce.pipe(
      Effect.catchIf(
        (failure) => database === null && (failure.sqlState === "28P01" || failure.sqlState === "28000"),
        (failure) => Effect.andThen(makeSuperuser(admin, failure), connectOnce)
      ),
      Effect.retry({
        schedule: betweenAttempts,
        while: (failure) => failure._tag === "WireFailed" && noRoom.has(failure.sqlState ?? "")
      })
    )
    let fresh = true
    const send: Session["send"] = Effect.fnUntraced(function* (sqls, statements = sqls.length) {
      const before = fresh ? [sessionSettings] : []
      const secret = sqls.some(Redacted.isRedacted)
      const plain = sqls.map((sql) => (Redacted.isRedacted(sql) ? Redacted.value(sql) : sql))
      const hidden = secret ? [hideQuery] : []
      statistics.roundTrips++
      statistics.statements += statements + (fresh ? 3 : 0) + hidden.length * 2
      const message = [...before, ...hidden, ...plain, ...(secret ? [showQuery] : [])]
      const answers = yield* namingLockHolders(admin, wire, "the apply", wire.pipeline(message))
      const prepared = answers[0]
      if (fresh && prepared !== undefined && Result.isFailure(prepared)) return yield* prepared.failure
      fresh = false
      const from = before.length + hidden.length
      return answers.slice(from, from + sqls.length)
    })
    return { send, leave: wire.terminate }
  }
)

/**
 * Clusters made long ago have only `zenith_admin`: it makes the superuser that we want to be
 * (docs/reference/compute_ctl.md#apply-connections). When that cannot be, the caller gets the first refusal. A server
 * that is not ours is reported as such.
 */
const makeSuperuser = (admin: Admin["Service"], refused: WireFailed) =>
  Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* connect({
        host: admin.at.host,
        port: admin.at.port,
        user: "zenith_admin",
        database: admin.systemDatabase,
        applicationName: applicationName("apply_config"),
        options: pinnedOptions({
          user: "zenith_admin",
          major: null,
          superuser: true,
          applying: true,
          libraries: false
        }),
        connectWithin: Duration.seconds(10),
        ...(admin.at.password === null ? {} : { password: admin.at.password })
      }).pipe(Effect.mapError(() => refused))
      yield* admin.prove(wire)
      const name = quoteIdentifier(admin.superuser)
      yield* wire
        .simple(`SET neon.forward_ddl = false; CREATE USER ${name} WITH SUPERUSER; GRANT zenith_admin TO ${name}`)
        .pipe(Effect.mapError(() => refused))
      yield* Effect.logInfo(`made the superuser ${admin.superuser} as zenith_admin`)
    })
  )

/** Not accepting connections, and not there. */
const closedDatabase = "55000"
const missingDatabase = "3D000"

/**
 * To the system database, for an apply. Where a tenant owns it, it may have been closed or renamed: then it is opened
 * again, or made again, for without it nothing can be applied to any database.
 */
export const openSystemSession = Effect.fnUntraced(function* (statistics: SqlStatistics, purpose: Purpose) {
  const admin = yield* Admin
  const repairable = (sqlState: string | undefined) =>
    sqlState === closedDatabase || (sqlState === missingDatabase && admin.systemDatabase === "postgres")
  return yield* openSession(statistics, purpose, null).pipe(
    Effect.catchIf(
      (failure) => failure._tag === "WireFailed" && repairable(failure.sqlState),
      (refused) => Effect.andThen(repairSystemDatabase(admin, purpose, refused), openSession(statistics, purpose, null))
    )
  )
})

const repairSystemDatabase = Effect.fnUntraced(function* (
  admin: Admin["Service"],
  purpose: Purpose,
  refused: WireFailed | TimedOut
) {
  const name = quoteIdentifier(admin.systemDatabase)
  const closed = refused._tag === "WireFailed" && refused.sqlState === closedDatabase
  const sql = closed ? `ALTER DATABASE ${name} ALLOW_CONNECTIONS true` : `CREATE DATABASE ${name}`
  yield* Effect.flatMap(admin.connect(purpose, "template1"), (wire) =>
    Effect.andThen(wire.simple("SET neon.forward_ddl = false"), wire.simple(sql))
  ).pipe(Effect.mapError(() => refused))
  yield* Effect.logWarning(`the system database was ${closed ? "closed and is opened" : "not there and is made"} again`)
}, Effect.scoped)

/**
 * The sessions of one apply: those to the system database are kept and shared, those to others are closed after use.
 *
 * The session that observed is the first of the shared ones. A session that failed its user is not shared again.
 */
export interface SessionPool {
  /** `null` is the system database. Fails only if the connection cannot be had, or breaks. */
  readonly with: <A>(
    database: string | null,
    use: (session: Session) => Effect.Effect<A, WireFailed | TimedOut>
  ) => Effect.Effect<A, WireFailed | TimedOut>
}

export const makeSessionPool: (
  plan: ApplyPlan,
  main: Session,
  statistics: SqlStatistics,
  purpose: Purpose
) => Effect.Effect<SessionPool, never, Admin | Scope.Scope> = Effect.fnUntraced(
  function* (plan, main, statistics, purpose) {
    const admin = yield* Admin
    const scope = yield* Effect.scope
    const permits = yield* Semaphore.make(plan.creators)
    const idle: Array<Session> = [main]

    const open = (database: string | null) =>
      openSession(statistics, purpose, database).pipe(Effect.provideService(Admin, admin))

    const shared = <A>(use: (session: Session) => Effect.Effect<A, WireFailed | TimedOut>) =>
      permits.withPermit(
        Effect.suspend(() => {
          const known = idle.shift()
          const session = known === undefined ? open(null).pipe(Scope.provide(scope)) : Effect.succeed(known)
          return Effect.flatMap(session, (one) =>
            Effect.onExit(use(one), (exit) =>
              Effect.sync(() => void (Exit.isSuccess(exit) ? idle.unshift(one) : undefined))
            )
          )
        })
      )

    return {
      with: (database, use) =>
        database === null
          ? shared(use)
          : // A database that is copied, renamed or dropped next must not have us in it.
            Effect.scoped(Effect.flatMap(open(database), (session) => Effect.tap(use(session), () => session.leave)))
    }
  }
)
