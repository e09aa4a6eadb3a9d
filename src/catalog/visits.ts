/**
 * The record that a visit leaves beside a database's own settings, as SQL. Decides nothing.
 *
 * It holds the database's oid, so that it is void in a copy.
 */
import { doBlock, quoteLiteral } from "../pgwire/quote.ts"

export const visitSetting = "compute_ctl.visited"

/** From inside the database. */
export const recordVisitHere = (visited: string): string =>
  doBlock(`
BEGIN
  EXECUTE pg_catalog.format('ALTER DATABASE %I SET ${visitSetting} TO %L', pg_catalog.current_database(),
    (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) || ':' || ${quoteLiteral(visited)});
END`)

/** From outside, for many. A database that is gone has no name to be formatted, which undoes the message. */
export const recordVisits = (those: ReadonlyArray<{ readonly database: string; readonly visited: string }>): string => {
  const values = those.map(({ database, visited }) => `(${quoteLiteral(database)}, ${quoteLiteral(visited)})`)
  return doBlock(`
DECLARE one record;
BEGIN
  FOR one IN
    SELECT d.datname AS name, d.oid || ':' || v.visited AS record
    FROM (VALUES ${values.join(", ")}) AS v(name, visited)
    LEFT JOIN pg_catalog.pg_database d ON d.datname = v.name::pg_catalog.name
  LOOP
    EXECUTE pg_catalog.format('ALTER DATABASE %I SET ${visitSetting} TO %L', one.name, one.record);
  END LOOP;
END`)
}
