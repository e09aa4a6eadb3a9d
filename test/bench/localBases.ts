/**
 * What the benches of local storage share: a database that fills and changes, and the bases that are made of it.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as fs from "node:fs"
import { setTimeout as pause } from "node:timers/promises"
import { connect } from "../../src/pgwire/Wire.ts"
import { parseLsn } from "../../src/spec/identifiers.ts"

/** Where a compute has its database. */
export interface Place {
  /** Of the timeline, in the storage. */
  readonly timeline: string
  readonly pgdata: string
  readonly port: number
  /** `postgres` unless said. */
  readonly database?: string
}

const patience = 900_000

export const until = async (what: string, is: () => boolean | Promise<boolean>): Promise<void> => {
  const from = performance.now()
  while (!(await is())) {
    if (performance.now() - from > patience) throw new Error(`waited in vain until ${what}`)
    await pause(50)
  }
}

export const sql = (place: Place, text: string) =>
  Effect.runPromise(
    Effect.scoped(
      Effect.flatMap(
        connect({
          host: place.pgdata,
          port: place.port,
          user: "cloud_admin",
          database: place.database ?? "postgres",
          connectWithin: Duration.seconds(10)
        }),
        (wire) => wire.rows(text, "10 minutes")
      )
    )
  )

export const baseOf = (place: Place) => {
  const { label, n } = JSON.parse(fs.readFileSync(`${place.timeline}/current.json`, "utf8")) as {
    readonly n: number
    readonly label: string
  }
  const lsn = /START WAL LOCATION: (\S+)/.exec(label)?.[1] ?? ""
  return { n, lsn: Option.getOrThrow(parseLsn(lsn)) }
}

export const spareIsReady = (place: Place): boolean => {
  try {
    return (
      (JSON.parse(fs.readFileSync(`${place.timeline}/spare.id`, "utf8")) as { readonly n: number }).n ===
      baseOf(place).n
    )
  } catch {
    return false
  }
}

/** Eleven rows to a page, with room for a new version of two of them, so that the table does not grow later. */
export const fill = async (place: Place, megabytes: number): Promise<number> => {
  const rows = megabytes * 128 * 11
  const step = 100_000
  await sql(place, "create table t (id int primary key, a text, b text) with (fillfactor = 80)")
  for (let at = 0; at < rows; at += step) {
    await sql(
      place,
      `insert into t select n, repeat(md5(n::text), 16), md5(n::text)
       from generate_series(${at + 1}, ${Math.min(rows, at + step)}) n`
    )
  }
  return rows
}

/** One row on each of many pages. */
export const update = (place: Place, rows: number) =>
  sql(
    place,
    `do $$ begin for k in 1..20 loop
       update t set b = md5(random()::text) where id in (select (random() * ${rows})::int from generate_series(1, 50));
       commit; end loop; end $$`
  )

/**
 * Less WAL than makes a base due (`basePolicy.ts`), which is looked at segment by segment, and the spare is of the last
 * base.
 */
export const restsOnItsBase = async (place: Place, dataBytes: number): Promise<boolean> => {
  const allowed = Math.max(64 * 2 ** 20, dataBytes / 8) + 16 * 2 ** 20
  const rows = await sql(place, "select pg_current_wal_insert_lsn()")
  const now = Option.getOrThrow(parseLsn(String(rows[0]?.[0])))
  return Number(now - baseOf(place).lsn) < allowed && spareIsReady(place)
}
