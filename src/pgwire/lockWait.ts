/**
 * What a session of ours waits for: asked by another session, now and then, for as long as its answer is late.
 *
 * Says which lock it is and who holds it: process, user, database, kind of its last statement and since when. Never the
 * text of a statement, which is somebody's secret or may hold one. Ends with what it watches.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Ref from "effect/Ref"
import { TimedOut, type WireFailed } from "../errors/Failure.ts"
import { within } from "../errors/within.ts"
import type { Admin } from "./Admin.ts"
import type { StatementResult, Wire } from "./Wire.ts"

/** No statement of ours that waits for nobody takes so long, but for one at a disk. */
const firstLook = Duration.seconds(3)
const nextLooks = Duration.seconds(10)
const lookWithin = Duration.seconds(5)

/**
 * A row for each holder. Columns: what kind of lock is waited for, and on what; the holder's process (0: a prepared
 * transaction), user, database, state, kind of its last statement, seconds since that began, and since its transaction
 * did.
 */
const holdersSql = (pid: number): string => `
SELECT l.mode, l.locktype,
  CASE WHEN coalesce(l.relation, l.classid) < 16384
    THEN coalesce(l.relation, l.classid)::pg_catalog.regclass::pg_catalog.text
    ELSE coalesce(l.relation, l.classid)::pg_catalog.text END,
  b.pid, a.usename, a.datname, a.state, pg_catalog.upper(pg_catalog.substring(a.query, '^[[:space:]]*([[:alpha:]]+)')),
  pg_catalog.round(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.query_start)),
  pg_catalog.round(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.xact_start))
FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(${pid})) b(pid)
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
LEFT JOIN (SELECT * FROM pg_catalog.pg_locks w WHERE w.pid = ${pid} AND NOT w.granted LIMIT 1) l ON true
ORDER BY b.pid LIMIT 3`

type Row = StatementResult["rows"][number]

const printHolder = ([, , , pid, user, database, state, kind, queried, begun]: Row): string => {
  if (pid === "0" || pid == null) return "a prepared transaction (see pg_prepared_xacts)"
  const who = [
    user == null ? null : `role ${JSON.stringify(user)}`,
    database == null ? null : `database ${JSON.stringify(database)}`,
    state == null ? null : state,
    kind == null ? null : `last statement ${kind}, begun ${queried ?? "?"} s ago`,
    begun == null ? null : `in a transaction for ${begun} s`
  ].filter((one) => one !== null)
  return `process ${pid}${who.length === 0 ? "" : ` (${who.join(", ")})`}`
}

/** `null`: it waits for nobody. */
const printLockWait = (rows: StatementResult["rows"]): string | null => {
  const [first] = rows
  if (first === undefined) return null
  const [mode, kind, on] = first
  const lock = mode == null ? "a lock" : `${mode} on ${kind ?? "something"}${on == null ? "" : ` of ${on}`}`
  return `it waits for ${lock}, held by ${rows.map(printHolder).join(" and ")}`
}

const look = (admin: Admin["Service"], pid: number) =>
  Effect.scoped(Effect.flatMap(admin.connect("reconfigure"), (wire) => wire.rows(holdersSql(pid), lookWithin))).pipe(
    within("a look at locks", lookWithin),
    Effect.map(printLockWait)
  )

/**
 * Runs `work`, which waits for an answer on `wire`. Whom it waits for is logged while it does, and is in the failure
 * when time runs out. `what` is a noun: `the apply`.
 */
export const namingLockHolders = Effect.fnUntraced(function* <A>(
  admin: Admin["Service"],
  wire: Pick<Wire, "backendPid">,
  what: string,
  work: Effect.Effect<A, WireFailed | TimedOut>
) {
  const seen = yield* Ref.make<string | null>(null)
  const watch = Effect.gen(function* () {
    yield* Effect.sleep(firstLook)
    while (true) {
      // A look that fails says nothing; whoever waits hears of a server that is gone by itself.
      const found = yield* Effect.orElseSucceed(look(admin, wire.backendPid), () => null)
      const before = yield* Ref.getAndSet(seen, found)
      if (found !== null && before === null) yield* Effect.logWarning(`${what} has to wait: ${found}`)
      yield* Effect.sleep(nextLooks)
    }
  })
  const watching = yield* Effect.forkChild(watch)
  return yield* work.pipe(
    Effect.ensuring(Fiber.interrupt(watching)),
    Effect.catchTag("TimedOut", (late) =>
      Effect.flatMap(Ref.get(seen), (found) =>
        Effect.fail(found === null ? late : new TimedOut({ what: `${late.what}; ${found}`, millis: late.millis }))
      )
    )
  )
})
