/**
 * SQL that makes way for what Postgres does to a database only while nobody is in it: a rename, a drop. Pure.
 *
 * Who is ended may come again, but not at once: a subscription's worker waits five seconds, and a client has to notice.
 */
import { doBlock, quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"

/** How long a session that was told to end may take. Milliseconds. */
const patience = 5_000

/**
 * Ends all sessions of the database, workers of its subscriptions among them. In one message with the rename, so that
 * each attempt at it ends them again; they find the database by its oid afterwards, whatever it is called.
 */
export const endSessions = (database: string): string =>
  `SELECT pg_catalog.pg_terminate_backend(a.pid, ${patience}) FROM pg_catalog.pg_stat_activity a ` +
  `WHERE a.datname = ${quoteLiteral(database)} AND a.pid <> pg_catalog.pg_backend_pid()`

/**
 * `DROP DATABASE … WITH (FORCE)` ends sessions, but refuses at once where a logical slot is in use. Then the database
 * is closed first, which has to be committed before it keeps anybody out, so that who is ended cannot come back.
 */
export const endSlots = (database: string): string =>
  doBlock(`
BEGIN
  IF EXISTS (
    SELECT FROM pg_catalog.pg_replication_slots s WHERE s.database = ${quoteLiteral(database)} AND s.active
  ) THEN
    ALTER DATABASE ${quoteIdentifier(database)} ALLOW_CONNECTIONS false;
    COMMIT;
    PERFORM pg_catalog.pg_terminate_backend(s.active_pid, ${patience}) FROM pg_catalog.pg_replication_slots s
      WHERE s.database = ${quoteLiteral(database)} AND s.active;
  END IF;
END`)
