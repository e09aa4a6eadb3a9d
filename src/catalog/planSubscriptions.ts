/**
 * Logical replication subscriptions of a branch: dropped once per timeline, before they replicate into it as they do
 * into its parent (docs/reference/compute_ctl.md#subscriptions).
 *
 * The publisher is never asked: its slot belongs to the parent's subscription.
 */
import { doBlock, quoteLiteral } from "../pgwire/quote.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import { databaseObject, type Operation, operation, type Phase, skip, transactional } from "./operations.ts"

/** The lock keeps the apply worker's launcher from starting one of them meanwhile. */
const dropAll = doBlock(`
DECLARE name text;
BEGIN
  LOCK TABLE pg_catalog.pg_subscription IN ACCESS EXCLUSIVE MODE;
  FOR name IN
    SELECT s.subname FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
    WHERE d.datname = pg_catalog.current_database()
  LOOP
    EXECUTE pg_catalog.format('ALTER SUBSCRIPTION %I DISABLE', name);
    EXECUTE pg_catalog.format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', name);
    EXECUTE pg_catalog.format('DROP SUBSCRIPTION %I', name);
  END LOOP;
END`)

export const planSubscriptionDrop = (draft: Draft, database: string, phase: Phase, because: string): Operation =>
  add(
    draft,
    transactional({
      phase,
      database,
      object: databaseObject(database),
      action: "drop subscriptions",
      because,
      after: makersOf(draft, databaseObject(database)),
      sql: [dropAll],
      change: { _tag: "DropSubscriptions", name: database }
    })
  )

/** In the wanted databases and the system one. */
export const planSubscriptionDrops = (draft: Draft, spec: ParsedSpec): ReadonlyArray<Operation> => {
  if (!spec.dropSubscriptions || draft.subscriptionsDropped) return []
  const names = new Set([...spec.databases.map(({ name }) => name), draft.systemDatabase])
  return [...names].flatMap((name) => {
    const known = draft.databases.get(name)
    if (known === undefined || !known.subscriptions) return []
    if (known.allowsConnections) {
      return [planSubscriptionDrop(draft, name, "DropLogicalSubscriptions", "the spec says so, once per timeline")]
    }
    add(
      draft,
      operation({
        phase: "DropLogicalSubscriptions",
        object: databaseObject(name),
        action: "drop subscriptions",
        because: "the spec says so, once per timeline",
        decision: skip("the database does not allow connections")
      })
    )
    return []
  })
}

/** Refuses to write to a table that is not ours: what a tenant plants there would run as the superuser. */
const recordTimeline = (timeline: string): string =>
  doBlock(`
BEGIN
  CREATE TABLE IF NOT EXISTS neon.drop_subscriptions_done (
    id pg_catalog.int4 PRIMARY KEY GENERATED ALWAYS AS IDENTITY, timeline_id pg_catalog.text);
  IF NOT EXISTS (
    SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
    WHERE c.oid = pg_catalog.to_regclass('neon.drop_subscriptions_done') AND c.relkind = 'r' AND r.rolsuper
  ) THEN
    RAISE EXCEPTION 'neon.drop_subscriptions_done does not belong to a superuser';
  END IF;
  INSERT INTO neon.drop_subscriptions_done (id, timeline_id) OVERRIDING SYSTEM VALUE
    VALUES (1, ${quoteLiteral(timeline)})
    ON CONFLICT (id) DO UPDATE SET timeline_id = EXCLUDED.timeline_id;
END`)

export const planSubscriptionsDone = (draft: Draft, spec: ParsedSpec, drops: ReadonlyArray<Operation>): void => {
  if (!spec.dropSubscriptions || draft.subscriptionsDropped) return
  add(
    draft,
    transactional({
      phase: "FinalizeDropLogicalSubscriptions",
      object: "table neon.drop_subscriptions_done",
      action: "remember the timeline",
      because: "subscriptions are dropped once per timeline",
      after: [...drops.map(({ id }) => id), ...makersOf(draft, "schema neon")],
      sql: [recordTimeline(spec.timeline)],
      change: { _tag: "SubscriptionsDropped" }
    })
  )
}
