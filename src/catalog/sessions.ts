/**
 * A maintenance connection: nothing on it is forwarded, logged or kept in statistics, and it is counted.
 *
 * Gone with its scope. A session whose connection broke is not mended; `sessions.ts` opens another.
 */
import * as Clock from "effect/Clock"
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
import { quoteIdentifier } from "../pgwire/quote.ts"
import { type Answer, connect } from "../pgwire/Wire.ts"
import type { ApplyPlan, Operation } from "./operations.ts"
import type { Outcome } from "./outcome.ts"

/** What an apply cost. Mutable: one apply, many sessions. */
export interface Tally {
  roundTrips: number
  statements: number
}

export const freshTally = (): Tally => ({ roundTrips: 0, statements: 0 })

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
 * its text: it may hold verifiers. Anyone but a superuser may not say most of this, and then does not.
 */
const preamble = [
  "SET neon.forward_ddl = false",
  "SET client_encoding = 'UTF8'",
  `SELECT pg_catalog.set_config(v.name, v.value, false) FROM (VALUES
    ('log_statement', 'none'), ('log_min_error_statement', 'panic'), ('log_min_duration_statement', '-1'),
    ('log_min_duration_sample', '-1'), ('log_transaction_sample_rate', '0'), ('log_duration', 'off'),
    ('pg_stat_statements.track', 'none'), ('auto_explain.log_min_duration', '-1'), ('pgaudit.log', 'none')
  ) AS v(name, value) WHERE (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)`
].join(";\n")

/** What Postgres says when it has no room right now. */
const crowded = new Set(["53300", "57P03"])

const patience = Schedule.max([Schedule.exponential(Duration.millis(50)), Schedule.recurs(5)])

/** The message of the query is shown to members of pg_monitor, tenants among them; so not while it holds verifiers. */
const hide = "SET track_activities = off"
const unhide = "RESET track_activities"

export const openSession: (
  tally: Tally,
  purpose: Purpose,
  database: string | null
) => Effect.Effect<Session, WireFailed | TimedOut, Admin | Scope.Scope> = Effect.fnUntraced(
  function* (tally, purpose, database) {
    const admin = yield* Admin
    const dial = Effect.suspend(() => {
      tally.roundTrips++
      return database === null ? admin.connect(purpose) : admin.connect(purpose, database)
    })
    const wire = yield* dial.pipe(
      Effect.catchIf(
        (failure) => database === null && (failure.sqlState === "28P01" || failure.sqlState === "28000"),
        (failure) => Effect.andThen(makeSuperuser(admin, failure), dial)
      ),
      Effect.retry({
        schedule: patience,
        while: (failure) => failure._tag === "WireFailed" && crowded.has(failure.sqlState ?? "")
      })
    )
    let fresh = true
    const send: Session["send"] = Effect.fnUntraced(function* (sqls, statements = sqls.length) {
      const before = fresh ? [preamble] : []
      const secret = sqls.some(Redacted.isRedacted)
      const plain = sqls.map((sql) => (Redacted.isRedacted(sql) ? Redacted.value(sql) : sql))
      const around = secret ? [hide] : []
      tally.roundTrips++
      tally.statements += statements + (fresh ? 3 : 0) + around.length * 2
      const answers = yield* wire.pipeline([...before, ...around, ...plain, ...(secret ? [unhide] : [])])
      const prepared = answers[0]
      if (fresh && prepared !== undefined && Result.isFailure(prepared)) return yield* prepared.failure
      fresh = false
      const from = before.length + around.length
      return answers.slice(from, from + sqls.length)
    })
    return { send, leave: wire.leave }
  }
)

/**
 * Clusters made long ago have only `zenith_admin`: it makes the superuser that we want to be (reference section
 * 5.2). When that is not the trouble, the first refusal is what the caller hears.
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
        options: "-c role=zenith_admin -c search_path= -c default_transaction_read_only=off",
        connectWithin: Duration.seconds(10),
        ...(admin.at.password === null ? {} : { password: admin.at.password })
      })
      const name = quoteIdentifier(admin.superuser)
      yield* wire.simple(
        `SET neon.forward_ddl = false; CREATE USER ${name} WITH SUPERUSER; GRANT zenith_admin TO ${name}`
      )
      yield* Effect.logInfo(`made the superuser ${admin.superuser} as zenith_admin`)
    })
  ).pipe(Effect.mapError(() => refused))

// ---------------------------------------------------------------------------------------------------------------------
// The sessions of one apply: cluster-wide ones are kept and shared, those to other databases are closed after use.
//
// The session that observed is the first of the shared ones. A session that failed its user is thrown away.
// ---------------------------------------------------------------------------------------------------------------------

export interface Sessions {
  /** `null` is the system database. Fails only if the connection cannot be had, or breaks. */
  readonly with: <A>(
    database: string | null,
    use: (session: Session) => Effect.Effect<A, WireFailed | TimedOut>
  ) => Effect.Effect<A, WireFailed | TimedOut>
}

export const makeSessions: (
  plan: ApplyPlan,
  main: Session,
  tally: Tally,
  purpose: Purpose
) => Effect.Effect<Sessions, never, Admin | Scope.Scope> = Effect.fnUntraced(function* (plan, main, tally, purpose) {
  const admin = yield* Admin
  const scope = yield* Effect.scope
  const turns = yield* Semaphore.make(plan.creators)
  const idle: Array<Session> = [main]

  const open = (database: string | null) =>
    openSession(tally, purpose, database).pipe(Effect.provideService(Admin, admin))

  const shared = <A>(use: (session: Session) => Effect.Effect<A, WireFailed | TimedOut>) =>
    turns.withPermit(
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
})

// ---------------------------------------------------------------------------------------------------------------------
// The outcomes of one execution, as they come in. Gone with it.
// ---------------------------------------------------------------------------------------------------------------------

/** The outcomes so far, by operation. Mutable: one execution. */
export interface Ledger {
  readonly outcomes: Map<string, Outcome>
}

export const millisNow: Effect.Effect<number> = Effect.map(Clock.currentTimeNanos, (nanos) => Number(nanos) / 1e6)

/** Notes an operation as skipped when something it rests on did not happen. */
export const excuse = (operation: Operation, ledger: Ledger, now: number): boolean => {
  const missing = operation.after
    .map((id) => ledger.outcomes.get(id))
    .find((one) => one !== undefined && one.outcome !== "done")
  if (missing === undefined) return false
  const { action, object } = missing.operation
  ledger.outcomes.set(operation.id, {
    operation,
    outcome: "skipped",
    reason: `${action} ${object} ${missing.outcome === "failed" ? "failed" : "was skipped"}`,
    sqlState: null,
    hint: null,
    attempts: 0,
    millis: 0,
    from: now,
    to: now
  })
  return true
}
