/**
 * Which extensions are installed in which databases: asked on demand, after the start, and now and then
 * (reference section 4.9).
 *
 * May miss: a database that cannot be asked is told and left out, and no failure stops the compute. Few sessions at
 * a time, one database each; they are our own, so they never count as activity.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as Result from "effect/Result"
import { ComputeState } from "../compute/ComputeState.ts"
import { TimedOut, type WireFailed } from "../errors/Failure.ts"
import { causesOf } from "../errors/explain.ts"
import { Admin } from "../pgwire/Admin.ts"
import {
  count,
  type Installed,
  type Inventory as Counts,
  inventoryBody,
  inventoryFamily,
  inventoryInterval,
  inventoryPeriod
} from "./inventory.ts"
import type { Family } from "../telemetry/prometheus.ts"
import type { Dialect } from "./plan.ts"
import type { Actor } from "../compute/Supervisor.ts"

/** More databases than this are not asked. */
const mostDatabases = 500
/** Sessions at the same time. */
const atOnce = 2
/** For one database's answer, and for all of them. */
const answerWithin = Duration.seconds(10)
const within = Duration.minutes(5)

/** Half dropped databases (`datconnlimit` -2) refuse everybody. */
const databasesSql = `SELECT datname FROM pg_catalog.pg_database
WHERE datallowconn AND datconnlimit <> -2 ORDER BY oid LIMIT ${mostDatabases}`

const installedSql = "SELECT extname, extversion, (extowner = 10)::int FROM pg_catalog.pg_extension"

export interface InventoryOptions {
  readonly dialect: Dialect
  /** `--installed-extensions-collection-interval`; counts until a spec has been applied. */
  readonly intervalSeconds: number
}

export class Inventory extends Context.Service<Inventory, {
  readonly options: InventoryOptions
  /** Asks every database, and remembers the answer for `family`. */
  readonly take: Effect.Effect<Counts, WireFailed | TimedOut>
  /** The gauge of the last inventory; without samples before the first. */
  readonly family: Effect.Effect<Family>
}>()("compute/inventory/Inventory") {
  static readonly layer = (options: InventoryOptions): Layer.Layer<Inventory, never, Admin> => Layer.effect(Inventory, make(options))
}

const make = Effect.fnUntraced(function*(options: InventoryOptions) {
  const admin = yield* Admin
  const last = yield* Ref.make<Counts>([])

  const ask = (sql: string, database?: string) =>
    Effect.scoped(Effect.flatMap(admin.connect("get_installed_extensions", database), (wire) => wire.rows(sql, answerWithin)))

  const askOne = (database: string) =>
    Effect.result(ask(installedSql, database)).pipe(Effect.flatMap((answer) =>
      Result.isSuccess(answer)
        ? Effect.succeed(answer.success.map((row): Installed => ({
          name: row[0] ?? "",
          version: row[1] ?? "",
          ownedBySuperuser: row[2] === "1"
        })))
        // It may have been dropped since it was listed.
        : Effect.as(leftOut(database, answer.failure), [])
    ))

  const take = Effect.gen(function*() {
    const names = (yield* ask(databasesSql)).flatMap(([name]) => name === null || name === undefined ? [] : [name])
    const counts = count(yield* Effect.forEach(names, askOne, { concurrency: atOnce }))
    yield* Ref.set(last, counts)
    return counts
  }).pipe(
    Effect.timeoutOrElse({
      duration: within,
      orElse: () => Effect.fail(new TimedOut({ what: "the inventory of extensions", millis: Duration.toMillis(within) }))
    }),
    Effect.withSpan("Inventory.take")
  )

  return Inventory.of({ options, take, family: Effect.map(Ref.get(last), (counts) => inventoryFamily(counts, options.dialect)) })
})

const leftOut = (database: string, failure: WireFailed | TimedOut) =>
  Effect.logWarning(`database ${JSON.stringify(database)} is not in the inventory: ${causesOf(failure).join(": ")}`)

const told = <A>(effect: Effect.Effect<A, WireFailed | TimedOut>) =>
  Effect.catch(effect, (failure) =>
    Effect.as(Effect.logWarning(`the inventory of extensions could not be taken: ${causesOf(failure).join(": ")}`), null))

/** A primary's first inventory, as one line that log pipelines look for. */
const first = Effect.gen(function*() {
  const inventory = yield* Inventory
  const state = yield* ComputeState
  if ((yield* state.now).spec?.mode._tag !== "Primary") return
  const counts = yield* told(inventory.take)
  if (counts !== null) yield* Effect.logInfo(`[NEON_EXT_STAT] ${JSON.stringify(inventoryBody(counts, inventory.options.dialect))}`)
})

/** Once after the start, then every period; starts with a pause, so that a short-lived compute is asked once. */
export const inventoryKeeper: Actor<Inventory | ComputeState> = {
  name: "inventory keeper",
  policy: "permanent",
  run: Effect.gen(function*() {
    const inventory = yield* Inventory
    const state = yield* ComputeState
    yield* state.until("running")
    yield* first
    let periodSeconds = 0
    while (true) {
      const { receipt, spec } = yield* state.now
      const suspendTimeout = receipt === null ? null : spec?.suspendTimeoutSeconds ?? null
      periodSeconds = inventoryPeriod(periodSeconds, inventoryInterval(inventory.options.intervalSeconds, suspendTimeout))
      yield* Effect.sleep(Duration.seconds(periodSeconds))
      if ((yield* state.now).status === "running") yield* told(inventory.take)
    }
  })
}
