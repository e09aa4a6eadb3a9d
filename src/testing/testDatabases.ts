/**
 * A database for each test, copied from one that was migrated once: some 30 ms, where a compute of its own costs ten
 * times as much. What a test does to roles or settings of the whole cluster is not undone; a reset does that.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import { quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import type { Wire } from "../pgwire/Wire.ts"

export interface DatabaseOptions<E = never, R = never> {
  /** The database to copy. With `migrate` it is made, unless the spec has it; default: a new database's content. */
  readonly template?: string
  /** Fills the template, once per compute; gets its URL. Nobody connects to the template afterwards. */
  readonly migrate?: (url: string) => Effect.Effect<unknown, E, R>
  /** A role of the spec that owns the database, and whose URL it gets. Default: the superuser. */
  readonly owner?: string
}

export interface TestDatabase {
  readonly name: string
  readonly url: string
}

export interface TestDatabases {
  /** Gone with the scope, and whoever is connected to it then. */
  readonly make: <E = never, R = never>(
    options?: DatabaseOptions<E, R>
  ) => Effect.Effect<TestDatabase, E | WireFailed | TimedOut, R | Scope.Scope>
  /** The cluster is another one. */
  readonly forget: Effect.Effect<void>
}

interface Cluster {
  readonly connect: (database: string) => Effect.Effect<Wire, WireFailed, Scope.Scope>
  readonly urlOf: (database: string, role?: string) => string
}

const defaultTemplate = "template_of_tests"

export const testDatabases = ({ connect, urlOf }: Cluster): TestDatabases => {
  const migrated = new Set<string>()
  const one = Semaphore.makeUnsafe(1)
  let last = 0

  /** Each statement by itself: databases are not made inside of a transaction. */
  const run = (...statements: ReadonlyArray<string>) =>
    Effect.scoped(
      Effect.flatMap(connect("postgres"), (wire) =>
        Effect.forEach(statements, (statement) => wire.rows(statement), { discard: true })
      )
    )

  const exists = (database: string) =>
    Effect.scoped(
      Effect.flatMap(connect("postgres"), (wire) =>
        wire.rows(`SELECT 1 FROM pg_catalog.pg_database WHERE datname = ${quoteLiteral(database)}`)
      )
    ).pipe(Effect.map((rows) => rows.length > 0))

  const ownedBy = (owner: string | undefined) => (owner === undefined ? "" : ` OWNER ${quoteIdentifier(owner)}`)

  const migrate = <E, R>(template: string, { migrate: fill, owner }: DatabaseOptions<E, R>) =>
    Effect.gen(function* () {
      if (fill === undefined || migrated.has(template)) return
      const name = quoteIdentifier(template)
      const isNew = !(yield* exists(template))
      if (isNew) yield* run(`CREATE DATABASE ${name}${ownedBy(owner)}`)
      // Another attempt must not begin with half of it.
      yield* Effect.onError(fill(urlOf(template, owner)), () =>
        isNew ? Effect.ignore(run(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`)) : Effect.void
      )
      yield* run(
        // A copy fails while somebody is connected.
        `ALTER DATABASE ${name} WITH ALLOW_CONNECTIONS false`,
        "SELECT pg_catalog.pg_terminate_backend(pid, 10000) FROM pg_catalog.pg_stat_activity " +
          `WHERE datname = ${quoteLiteral(template)}`
      )
      migrated.add(template)
    }).pipe(one.withPermits(1))

  const make = <E = never, R = never>(options: DatabaseOptions<E, R> = {}) =>
    Effect.gen(function* () {
      const template = options.template ?? (options.migrate === undefined ? "template1" : defaultTemplate)
      yield* migrate(template, options)
      const name = `test_${++last}`
      yield* Effect.acquireRelease(
        run(`CREATE DATABASE ${quoteIdentifier(name)}${ownedBy(options.owner)} TEMPLATE ${quoteIdentifier(template)}`),
        // Where the compute has ended it went with that.
        () => Effect.ignore(run(`DROP DATABASE IF EXISTS ${quoteIdentifier(name)} WITH (FORCE)`))
      )
      return { name, url: urlOf(name, options.owner) } satisfies TestDatabase
    })

  return { make, forget: Effect.sync(() => migrated.clear()) }
}
