/**
 * What an apply costs on a real server with default durability, beside psql and beside the reference's shape.
 *
 * `node test/bench/apply.ts [MAJOR]`, on a memory disk and on the machine's. One run, so read ratios, not milliseconds.
 * Every cold row has a cluster of its own. The reference's shape is what compute_ctl sends: roles and CREATE DATABASE
 * pipelined on one connection as separate statements, then a connection to each database, max_connections / 3 at once,
 * at every apply.
 */
import * as Console from "effect/Console"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { promisify } from "node:util"
import { applySpec } from "../../src/catalog/apply.ts"
import type { ApplyReport } from "../../src/compute/snapshot.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { adminOf, database, options, role, scram, specOf, startOn, verifier } from "../catalog/fixture.ts"
import { startPostgres, type TestPostgres } from "../support/postgres.ts"

const major = Number(process.argv[2] ?? 17)
const patience = Duration.minutes(10)
const psql = ["/usr/bin/psql", "/usr/local/bin/psql"].find((file) => fs.existsSync(file))

/** One verifier for all: making one takes longer than what is measured. */
const shared = scram("swordfish")
const other = scram("swordfish", "b3RoZXJvdGhlcm90aGVyIQ==")

const specWith = (roles: number, databases: number, changed = -1): ParsedSpec =>
  specOf({
    roles: Array.from({ length: roles }, (_, index) =>
      role(`role ${index}`, verifier(index === changed ? other : shared))
    ),
    databases: Array.from({ length: databases }, (_, index) => database(`database ${index}`, `role ${index % roles}`))
  })

const permissions = [
  "DO $$BEGIN IF EXISTS (SELECT FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner " +
    "WHERE nspname = 'public' AND rolname = 'cloud_admin') " +
    "THEN ALTER SCHEMA public OWNER TO neon_superuser; END IF; END$$",
  "DO $$BEGIN IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public') THEN " +
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO neon_superuser WITH GRANT OPTION; " +
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO neon_superuser WITH GRANT OPTION; " +
    "END IF; END$$"
]

const privileged =
  "CREATE ROLE neon_superuser CREATEDB CREATEROLE NOLOGIN REPLICATION BYPASSRLS " +
  "IN ROLE pg_read_all_data, pg_write_all_data"
const roleSqls = (spec: ParsedSpec): ReadonlyArray<string> => [
  privileged,
  ...spec.roles.map(
    ({ name, password }) =>
      `CREATE ROLE "${name}" INHERIT CREATEROLE CREATEDB BYPASSRLS REPLICATION IN ROLE neon_superuser LOGIN PASSWORD '${
        password._tag === "Verifier" ? Redacted.value(password.verifier) : ""
      }'`
  )
]
const databaseSqls = (spec: ParsedSpec): ReadonlyArray<string> =>
  spec.databases.flatMap(({ name, owner }) => [
    `CREATE DATABASE "${name}" OWNER "${owner}"`,
    `GRANT ALL PRIVILEGES ON DATABASE "${name}" TO neon_superuser`
  ])

const pipelined = (postgres: TestPostgres, sqls: ReadonlyArray<string>, database?: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* connect(postgres.config(undefined, database))
      for (const answer of yield* wire.pipeline(["SET neon.forward_ddl = false", ...sqls], patience)) {
        if (Result.isFailure(answer)) return yield* answer.failure
      }
    })
  )

const visits = (postgres: TestPostgres, spec: ParsedSpec) =>
  Effect.forEach(spec.databases, ({ name }) => pipelined(postgres, permissions, name), {
    concurrency: 33,
    discard: true
  })

const referenceCold = (postgres: TestPostgres, spec: ParsedSpec) =>
  Effect.andThen(pipelined(postgres, [...roleSqls(spec), ...databaseSqls(spec)]), visits(postgres, spec))

const snapshot = [
  "SELECT rolname, rolpassword FROM pg_authid",
  "SELECT d.datname, r.rolname FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba"
]

const referenceAgain = (postgres: TestPostgres, spec: ParsedSpec) =>
  Effect.andThen(pipelined(postgres, snapshot), visits(postgres, spec))

const runPsql = (postgres: TestPostgres, spec: ParsedSpec) =>
  Effect.promise(async () => {
    const file = path.join(postgres.folder, "plain.sql")
    fs.writeFileSync(
      file,
      [
        ...[...roleSqls(spec), ...databaseSqls(spec)].map((sql) => `${sql};`),
        ...spec.databases.flatMap(({ name }) => [`\\c "${name}"`, ...permissions.map((sql) => `${sql};`)])
      ].join("\n")
    )
    const target = ["-h", "127.0.0.1", "-p", String(postgres.port), "-U", "cloud_admin", "-d", "postgres"]
    await promisify(execFile)(psql ?? "psql", ["-X", "-q", "-v", "ON_ERROR_STOP=1", ...target, "-f", file], {
      maxBuffer: 1 << 26
    })
  })

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const from = performance.now()
    const value = yield* effect
    return [performance.now() - from, value] as const
  })

const ours = (postgres: TestPostgres, spec: ParsedSpec) =>
  timed(Effect.provide(applySpec({ kind: "start", spec }, options), adminOf(postgres)))

const fresh = <A, E>(use: (postgres: TestPostgres) => Effect.Effect<A, E>) =>
  Effect.scoped(
    Effect.flatMap(
      startPostgres({ major, settings: { fsync: "on", max_connections: "100", shared_buffers: "128MB" } }),
      use
    )
  )

const show = (name: string, millis: number, baseline: number | null = null) =>
  Console.log(
    `${name.padEnd(58)} ${millis.toFixed(1).padStart(9)} ms` +
      (baseline === null ? "" : `   ${(baseline / millis).toFixed(1)}x`)
  )

const phasesOf = (applyReport: ApplyReport) =>
  Console.log(
    `    ${applyReport.phases.map(({ millis, phase }) => `${phase} ${millis}`).join(", ")}; ` +
      `${applyReport.connections} connections, ${applyReport.roundTrips} round trips`
  )

const compare = Effect.fnUntraced(function* (where: string, roles: number, databases: number) {
  const spec = specWith(roles, databases)
  yield* Console.log(`\n${roles} roles, ${databases} databases (Postgres ${major}, fsync on, ${where})`)
  const reference = yield* fresh((postgres) =>
    Effect.gen(function* () {
      const [cold] = yield* timed(referenceCold(postgres, spec))
      const [again] = yield* timed(referenceAgain(postgres, spec))
      return { cold, again }
    })
  )
  yield* show("the reference's shape, cold", reference.cold)
  if (psql === undefined) yield* Console.log("there is no psql here, so it is not compared")
  else yield* show("psql -f, plain statements, cold", (yield* fresh((postgres) => timed(runPsql(postgres, spec))))[0])
  yield* fresh((postgres) =>
    Effect.gen(function* () {
      const [cold, applyReport] = yield* ours(postgres, spec)
      yield* show("ours, cold", cold, reference.cold)
      yield* phasesOf(applyReport)
      yield* show("the reference's shape, nothing to do", reference.again)
      const [again, nothing] = yield* ours(postgres, spec)
      yield* show("ours, nothing to do", again, reference.again)
      yield* phasesOf(nothing)
      // The first has to make migrations and to drop the template, which waits for this much on a slow disk.
      yield* pipelined(postgres, ["CHECKPOINT"])
      yield* startOn(postgres, spec)
      const [start, { messages, sessions }] = yield* timed(startOn(postgres, spec))
      yield* show("ours, a start with nothing to do, its background included", start)
      yield* Console.log(`    ${sessions} connections, ${messages} round trips`)
      const [changed, one] = yield* ours(postgres, specWith(roles, databases, 1))
      yield* show("ours, one password changed", changed)
      yield* phasesOf(one)
    })
  )
})

/** Clusters are made in the temporary folder: of the machine's own disk unless it is in memory itself. */
const disks = [
  { where: "memory disk", folder: "/dev/shm" },
  { where: "the machine's disk", folder: os.tmpdir() }
].filter(({ folder }) => fs.existsSync(folder))

for (const { folder, where } of disks) {
  process.env["TMPDIR"] = folder
  await Effect.runPromise(Effect.andThen(compare(where, 100, 100), compare(where, 1000, 200)))
}
