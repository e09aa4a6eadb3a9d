/**
 * Independent oracles: after random specs the catalog, read by plain SQL, equals a model that knows nothing of the
 * planner, and a second apply changes nothing of what `pg_dumpall --globals-only` prints.
 *
 * `SEED=7` does one of them alone, `SEEDS=1000` that many.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import { promisify } from "node:util"
import { isEmpty } from "../../src/catalog/planApply.ts"
import { printPlan } from "../../src/catalog/planText.ts"
import { parseSpec } from "../../src/spec/parseSpec.ts"
import { installs, startPostgres, type TestPostgres } from "../support/postgres.ts"
import { applyOn, planOn } from "./fixture.ts"
import { emptyWorld, rollOf, step, type World } from "./world.ts"

const one = process.env["SEED"]
const seedsOf = (major: number): ReadonlyArray<number> =>
  one !== undefined
    ? [Number(one)]
    : Array.from({ length: Number(process.env["SEEDS"] ?? (major === 17 ? 100 : 5)) }, (_, index) => index + 1)

/** Which object it is, whatever its name, is known to Postgres by its oid and to the model by its id. */
const sameThings = (
  known: Map<number, string>,
  rows: ReadonlyArray<ReadonlyArray<string | null>>,
  model: ReadonlyMap<string, { readonly id: number }>,
  about: string
): void => {
  for (const [name, oid] of rows) {
    const id = model.get(name ?? "")?.id ?? -1
    const before = known.get(id)
    if (before === undefined) known.set(id, oid ?? "")
    else assert.strictEqual(oid, before, `${about}: ${name} is another one than it should be`)
  }
}

const compare = Effect.fnUntraced(function* (
  postgres: TestPostgres,
  world: World,
  seed: number,
  known: { readonly roles: Map<number, string>; readonly databases: Map<number, string> },
  about: string
) {
  const ours = `like 's${seed}\\_%'`
  const roles = yield* postgres.rows(
    "select rolname, oid, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, " +
      "rolconnlimit, extract(epoch from rolvaliduntil)::float8::text, rolpassword " +
      `from pg_authid where rolname ${ours} or rolname like 'compute%' order by rolname collate "C"`
  )
  const bit = (on: boolean) => (on ? "t" : "f")
  const order = (
    [a]: readonly [string, ...ReadonlyArray<unknown>],
    [b]: readonly [string, ...ReadonlyArray<unknown>]
  ) => Buffer.compare(Buffer.from(a), Buffer.from(b))
  assert.deepStrictEqual(
    roles.map(([name, , ...rest]) => [name, ...rest]),
    [...world.roles]
      .sort(order)
      .map(([name, role]) => [
        name,
        ...[role.inherit, role.createRole, role.createDatabase, role.login, role.replication, role.bypassRls].map(bit),
        String(role.limit),
        role.until,
        role.verifier
      ]),
    about
  )
  sameThings(known.roles, roles, world.roles, about)
  const members = yield* postgres.rows(
    "select r.rolname, m.rolname, bool_or(a.admin_option) from pg_auth_members a join pg_roles r on r.oid = a.roleid " +
      `join pg_roles m on m.oid = a.member where m.rolname ${ours} group by 1, 2`
  )
  assert.sameDeepMembers(
    members.map((row) => [...row]),
    [...world.members].map(([key, admin]) => [...JSON.parse(key), bit(admin)]),
    about
  )
  const databases = yield* postgres.rows(
    "select d.datname, d.oid, r.rolname, d.datconnlimit, d.datallowconn, d.datistemplate from pg_database d " +
      `join pg_roles r on r.oid = d.datdba where datname ${ours} order by datname collate "C"`
  )
  assert.deepStrictEqual(
    databases.map(([name, , ...rest]) => [name, ...rest]),
    [...world.databases]
      .sort(order)
      .map(([name, { limit, open, owner, template }]) => [name, owner, String(limit), bit(open), bit(template)]),
    about
  )
  sameThings(known.databases, databases, world.databases, about)
})

/** What `pg_dumpall --globals-only` prints, and what it prints of databases. */
const globals = (postgres: TestPostgres) =>
  postgres.rows(
    "select 'role', to_jsonb(a)::text from pg_authid a union all " +
      "select 'member', to_jsonb(m)::text from pg_auth_members m union all " +
      "select 'setting', to_jsonb(s)::text from pg_db_role_setting s union all " +
      "select 'database', (to_jsonb(d) - 'datfrozenxid' - 'datminmxid')::text from pg_database d union all " +
      "select 'tablespace', to_jsonb(t)::text from pg_tablespace t union all " +
      "select 'dependency', to_jsonb(h)::text from pg_shdepend h order by 1, 2"
  )

/** The real one, where the machine has that version's. */
const dumpall = (postgres: TestPostgres) =>
  Effect.promise(async () => {
    const program = postgres.install.postgres.replace(/postgres$/, "pg_dumpall")
    if (!fs.existsSync(program)) return null
    const args = ["--globals-only", "-h", "127.0.0.1", "-p", String(postgres.port), "-U", "cloud_admin"]
    return (await promisify(execFile)(program, args)).stdout.replace(/^(\\(un)?restrict|--).*$/gm, "")
  })

const check = Effect.fnUntraced(function* (postgres: TestPostgres, seed: number) {
  const world = emptyWorld(postgres.install.major)
  const roll = rollOf(seed)
  const known = { roles: new Map<number, string>(), databases: new Map<number, string>() }
  for (const round of [1, 2, 3, "the last"]) {
    const wire = step(world, seed, roll, round === "the last")
    const about = `SEED=${seed}, spec ${round}: ${JSON.stringify(wire)}`
    const parsed = parseSpec(wire, { source: about, storage: "local" })
    const spec = Result.isSuccess(parsed) ? parsed.success : assert.fail(parsed.failure.message)
    const { operations } = yield* applyOn(postgres, spec)
    assert.deepStrictEqual(
      operations.flatMap(({ object, outcome, reason }) => (outcome === "failed" ? [`${object}: ${reason}`] : [])),
      [],
      about
    )
    yield* compare(postgres, world, seed, known, about)
    const plan = yield* planOn(postgres, spec)
    assert.strictEqual(isEmpty(plan), true, `${about}\n${printPlan(plan)}`)
    const before = [yield* globals(postgres), yield* dumpall(postgres)]
    yield* applyOn(postgres, spec)
    assert.deepStrictEqual([yield* globals(postgres), yield* dumpall(postgres)], before, about)
  }
})

describe("after random specs", () => {
  for (const { major } of installs) {
    const seeds = seedsOf(major)
    it.live(
      `the catalog is what a model says, and a second apply changes nothing (Postgres ${major}, ` +
        `${seeds.length} seeds from ${seeds[0]})`,
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const postgres = yield* startPostgres({ major })
            yield* Effect.forEach(seeds, (seed) => check(postgres, seed), { discard: true })
          })
        ),
      { timeout: 120_000 + seeds.length * 6_000 }
    )
  }
})
