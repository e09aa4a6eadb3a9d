/**
 * A database for each test, copied from one that was migrated once: some 30 ms, where a compute of its own costs ten
 * times as much. What a test does to roles or settings of the whole cluster is not undone; a reset does that.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import type { WireFailed } from "../errors/Failure.ts"
import { quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import { connect, type Wire } from "../pgwire/Wire.ts"
import type { TemplateOptions, TestDatabase } from "./options.ts"

export interface DatabaseOptions<E = never, R = never> extends TemplateOptions {
  /** Fills the template, once per cluster, whoever comes first; gets its URL. Nobody connects to it afterwards. */
  readonly migrate?: (url: string) => Effect.Effect<unknown, E, R>
}

interface Cluster {
  readonly connect: (database: string) => Effect.Effect<Wire, WireFailed, Scope.Scope>
  readonly urlOf: (database: string, role?: string) => string
}

/** A cluster of which only the URL is known, as in a process beside the one that started it. */
export const clusterAt = (url: string): Cluster => {
  const { hostname, password, port, username } = new URL(url)
  const urlOf = (database: string, role?: string) => {
    const other = new URL(url)
    other.pathname = encodeURIComponent(database)
    if (role !== undefined) other.username = encodeURIComponent(role)
    return other.href
  }
  const connectTo = (database: string) =>
    connect({
      host: hostname,
      port: Number(port),
      user: decodeURIComponent(username),
      password: Redacted.make(decodeURIComponent(password)),
      database,
      connectWithin: Duration.seconds(10)
    })
  return { connect: connectTo, urlOf }
}

const defaultTemplate = "template_of_tests"
/** For everybody who waits for whoever migrates. */
const migratedWithin = Duration.minutes(10)

/** A session in a database that is no template. Each statement by itself: databases are not made in a transaction. */
const run = ({ connect: to }: Cluster, ...statements: ReadonlyArray<string>) =>
  Effect.scoped(
    Effect.flatMap(to("postgres"), (wire) =>
      Effect.forEach(statements, (statement) => wire.rows(statement), { discard: true })
    )
  )

const ownedBy = (owner: string | undefined) => (owner === undefined ? "" : ` OWNER ${quoteIdentifier(owner)}`)

/**
 * Migrates the template unless somebody has, in this process or another. One that takes no connections is finished; who
 * works on it holds a lock.
 */
const migrate = Effect.fnUntraced(function* <E, R>(
  cluster: Cluster,
  template: string,
  owner: string | undefined,
  fill: (url: string) => Effect.Effect<unknown, E, R>
) {
  const [name, literal] = [quoteIdentifier(template), quoteLiteral(template)]
  const wire = yield* cluster.connect("postgres")
  yield* wire.rows(`SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtext(${literal}))`, migratedWithin)
  const [found] = yield* wire.rows(`SELECT datallowconn FROM pg_catalog.pg_database WHERE datname = ${literal}`)
  if (found?.[0] === "f") return
  if (found === undefined) yield* wire.rows(`CREATE DATABASE ${name}${ownedBy(owner)}`)
  // Another attempt must not begin with half of it.
  yield* Effect.onError(fill(cluster.urlOf(template, owner)), () =>
    found === undefined ? Effect.ignore(run(cluster, `DROP DATABASE ${name} WITH (FORCE)`)) : Effect.void
  )
  yield* wire.rows(`ALTER DATABASE ${name} WITH ALLOW_CONNECTIONS false`)
  // A copy fails while somebody is connected.
  yield* wire.rows(
    "SELECT pg_catalog.pg_terminate_backend(pid, 10000) FROM pg_catalog.pg_stat_activity " +
      `WHERE datname = ${literal}`
  )
}, Effect.scoped)

/** As files, which every version before 15 does: through the WAL a database would take its room once more there. */
const copy = Effect.fnUntraced(function* (cluster: Cluster, name: string, owner: string | undefined, template: string) {
  const wire = yield* cluster.connect("postgres")
  const [version] = yield* wire.rows("SHOW server_version_num")
  const strategy = Number(version?.[0]) >= 150_000 ? " STRATEGY FILE_COPY" : ""
  yield* wire.rows(`CREATE DATABASE ${name}${ownedBy(owner)} TEMPLATE ${quoteIdentifier(template)}${strategy}`)
}, Effect.scoped)

/** Gone with the scope, and whoever is connected to it then. */
export const testDatabase = Effect.fnUntraced(function* <E = never, R = never>(
  cluster: Cluster,
  options: DatabaseOptions<E, R> = {}
) {
  const { migrate: fill, owner } = options
  const template = options.template ?? (fill === undefined ? "template1" : defaultTemplate)
  if (fill !== undefined) yield* migrate(cluster, template, owner, fill)
  const name = `test_${process.pid}_${randomBytes(4).toString("hex")}`
  yield* Effect.acquireRelease(
    copy(cluster, name, owner, template),
    // Where the compute has ended it went with that.
    () => Effect.ignore(run(cluster, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`))
  )
  return { name, url: cluster.urlOf(name, owner) } satisfies TestDatabase
})
