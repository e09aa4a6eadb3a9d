/**
 * The one question the monitor asks, and how its answer is read. Sends nothing.
 *
 * Everything is counted in one statement, so that a look is one round trip and one snapshot. Times are fetched as
 * numbers: a text would be in the time zone that `ALTER ROLE … SET timezone` chose.
 */
import * as Option from "effect/Option"
import { quoteLiteral } from "../pgwire/quote.ts"
import type { Sample, Statistics } from "./activity.ts"
import { templateDatabase } from "../catalog/Catalog.ts"

const millis = (at: string): string => `(pg_catalog.date_part('epoch', ${at}) * 1000)::pg_catalog.int8`

const notTheirs = ["postgres", "template0", "template1", templateDatabase].map(quoteLiteral).join(", ")

/** Sums may go back when Postgres crashes; without user databases they are 0. */
const statistics = `
  (SELECT COALESCE(pg_catalog.sum(d.active_time), 0)::pg_catalog.float8
   FROM pg_catalog.pg_stat_database d WHERE d.datname NOT IN (${notTheirs})),
  (SELECT COALESCE(pg_catalog.sum(d.sessions), 0)::pg_catalog.int8
   FROM pg_catalog.pg_stat_database d WHERE d.datname NOT IN (${notTheirs}))`

/**
 * `superuser` is who we, the VM's monitor and the metric exporters connect as: none of its sessions counts, and no
 * `application_name` makes a tenant's session not count. A walproposer is the way to storage, not a follower.
 */
export const sampleSql = (superuser: string, experimental: boolean): string => `
SELECT
  ${millis("pg_catalog.clock_timestamp()")},
  pg_catalog.count(*) FILTER (WHERE theirs AND a.state <> 'idle'),
  ${millis("pg_catalog.max(a.state_change) FILTER (WHERE theirs AND a.state = 'idle')")},
  pg_catalog.count(*) FILTER (WHERE a.backend_type = 'autovacuum worker'),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication r WHERE r.application_name <> 'walproposer'),
  (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_subscription s WHERE s.pid IS NOT NULL)${experimental ? `,${statistics}` : ""}
FROM (
  SELECT *, backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
    AND usename IS DISTINCT FROM ${quoteLiteral(superuser)} AS theirs
  FROM pg_catalog.pg_stat_activity
) a`

const statisticsOf = (active: number, sessions: number): Statistics | null =>
  Number.isFinite(active) && Number.isFinite(sessions) ? { activeMillis: active, sessions } : null

/** `None`: the answer has not the shape of an answer. */
export const readSample = (row: ReadonlyArray<string | null> | undefined): Option.Option<Sample> => {
  if (row === undefined || row.length < 6) return Option.none()
  const [at = NaN, busy = NaN, rested = NaN, autovacuum = NaN, followers = NaN, subscriptions = NaN, active = NaN, sessions = NaN] =
    row.map((text) => text === null ? NaN : Number(text))
  if (![at, busy, autovacuum, followers, subscriptions].every(Number.isFinite)) return Option.none()
  return Option.some({
    at,
    busy,
    rested: Number.isFinite(rested) ? rested : null,
    autovacuum,
    followers,
    subscriptions,
    statistics: statisticsOf(active, sessions)
  })
}
