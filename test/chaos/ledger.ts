/**
 * What was sent to the database and what it acknowledged, kept by the kit, outside of the compute; and the writers.
 *
 * A writer has a series of its own and sends one transaction after the other: a row of the series, and how many there
 * are. So of each series all acknowledged rows must be there, the one after them may be there if it was sent, and the
 * count agrees. `forget` deletes old series; they must stay deleted.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { TimedOut, WireFailed } from "../../src/errors/Failure.ts"
import { connect, type Wire } from "../../src/pgwire/Wire.ts"
import { superuser } from "../support/postgres.ts"
import type { Place } from "./compute.ts"
import { type Found, found } from "./waiting.ts"

interface Series {
  readonly id: number
  sent: number
  acknowledged: number
}

export interface Ledger {
  readonly series: Map<number, Series>
  next: number
  /** Of all series, also the forgotten ones. */
  acknowledged: number
}

export const emptyLedger = (): Ledger => ({ series: new Map(), next: 1, acknowledged: 0 })

/** The superuser comes over the socket in PGDATA. */
const session = ({ pgdata, port }: Place): Effect.Effect<Wire, WireFailed, Scope.Scope> =>
  connect({ host: pgdata, port, user: superuser, database: "postgres", connectWithin: Duration.seconds(20) })

export const rows = (at: Place, sql: string) => Effect.scoped(Effect.flatMap(session(at), (wire) => wire.rows(sql)))

/** Some of them are long enough for several pages of WAL, and for TOAST. */
const content = (series: string, n: string) =>
  `repeat(md5(${series} || ':' || ${n}), case when ${n} % 40 = 39 then 700 else 1 + ${n} % 9 end)`

const tables = `
  create table if not exists kept (series int, n int, x text, primary key (series, n));
  alter table kept alter x set storage external;
  create table if not exists counts (series int primary key, n int);
  create extension if not exists amcheck`

export const makeTables = (at: Place) => rows(at, tables)

const transaction = (series: number, n: number) =>
  `insert into kept values (${series}, ${n}, ${content(String(series), String(n))});
   insert into counts values (${series}, 1) on conflict (series) do update set n = counts.n + 1`

/** Writes until its session ends. */
export const write = (at: Place, ledger: Ledger): Effect.Effect<void> =>
  Effect.suspend(() => {
    const series: Series = { id: ledger.next++, sent: 0, acknowledged: 0 }
    return Effect.scoped(
      Effect.gen(function* () {
        const wire = yield* session(at)
        ledger.series.set(series.id, series)
        for (;;) {
          series.sent++
          yield* wire.simple(transaction(series.id, series.sent - 1), "10 minutes")
          series.acknowledged++
          ledger.acknowledged++
        }
      })
    ).pipe(Effect.ignore)
  })

/** Per series: rows, the highest number, rows with another content, and what `counts` says. */
const summary = `
  set enable_indexscan = off; set enable_indexonlyscan = off; set enable_bitmapscan = off;
  select coalesce(k.series, c.series), coalesce(k.rows, 0), coalesce(k.last, -1), coalesce(k.wrong, 0), coalesce(c.n, 0)
  from (select series, count(*) as rows, max(n) as last, count(*) filter (where x <> ${content("series", "n")}) as wrong
        from kept group by series) k
  full join counts c using (series)`

const problemOf = (ledger: Ledger, row: ReadonlyArray<number>): Found | null => {
  const [id = 0, count = 0, last = 0, wrong = 0, counted = 0] = row
  const series = ledger.series.get(id)
  const here = `series ${id}: ${count} rows up to ${last}, counted ${counted}`
  if (series === undefined) return found("unsent", `${here}, but it was never begun, or was deleted`)
  const known = `${here}; ${series.acknowledged} were acknowledged and ${series.sent} sent`
  if (count > series.sent || last >= series.sent) return found("unsent", known)
  if (count < series.acknowledged) return found("lost", known)
  if (last !== count - 1 || counted !== count) return found("lost", `${known}: transactions are there in part`)
  return wrong > 0 ? found("damage", `${known}: ${wrong} have another content`) : null
}

/** Fails with the first thing that is not as it must be. Nobody may write meanwhile. */
export const verify = (at: Place, ledger: Ledger): Effect.Effect<void, Found | WireFailed | TimedOut> =>
  Effect.gen(function* () {
    const seen = new Set<number>()
    for (const row of yield* rows(at, summary)) {
      const numbers = row.map(Number)
      seen.add(numbers[0] ?? 0)
      const problem = problemOf(ledger, numbers)
      if (problem !== null) return yield* problem
    }
    for (const { acknowledged, id } of ledger.series.values()) {
      if (acknowledged > 0 && !seen.has(id)) {
        return yield* found("lost", `series ${id}: nothing is there; ${acknowledged} rows were acknowledged`)
      }
    }
    const [row] = yield* rows(at, "select timeline_id from pg_control_checkpoint()")
    if (row?.[0] !== "1") return yield* found("damage", `the Postgres timeline is ${row?.[0]} instead of 1`)
  })

/** Deletes all but the last series, so that the database stays small. Nobody may write meanwhile. */
export const forget = (at: Place, ledger: Ledger, keep: number) =>
  Effect.gen(function* () {
    const old = [...ledger.series.keys()].filter((id) => id < ledger.next - keep)
    if (old.length < keep) return
    const last = Math.max(...old)
    yield* rows(at, `delete from kept where series <= ${last}; delete from counts where series <= ${last}`)
    for (const id of old) ledger.series.delete(id)
  })

/** Every index against its table, and every page of every table, as Postgres's own checker sees them. */
const amcheck = `
  do $$ begin
    perform bt_index_check(c.oid, i.indisunique) from pg_class c join pg_index i on i.indexrelid = c.oid
      join pg_am a on a.oid = c.relam where a.amname = 'btree' and i.indisvalid and c.relpersistence = 'p';
  end $$;
  select c.oid::regclass, h.blkno, h.msg from pg_class c, verify_heapam(c.oid) h
    where c.relkind in ('r', 't', 'm') and c.relpersistence = 'p'`

export const checkPages = (at: Place): Effect.Effect<void, Found | WireFailed | TimedOut> =>
  Effect.flatMap(rows(at, amcheck), (problems) =>
    problems.length === 0 ? Effect.void : found("damage", `amcheck: ${JSON.stringify(problems.slice(0, 5))}`)
  )
