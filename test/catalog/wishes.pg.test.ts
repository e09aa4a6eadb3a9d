/**
 * What a spec wishes of roles and databases that are there already is done, or refused by name.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { isVerifier } from "../../src/spec/names.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import { installs, startPostgres, type TestPostgres } from "../support/postgres.ts"
import {
  applyOn,
  assertSettled,
  database,
  options,
  planOn,
  role,
  scram,
  specOf,
  unmanaged,
  verifier
} from "./fixture.ts"

const text = (name: string, value: string) => ({ name, value, quoted: true })
const bare = (name: string, value: string | null = null) => ({ name, value, quoted: false })

const done = Effect.fnUntraced(function* (postgres: TestPostgres, spec: ParsedSpec) {
  const { operations } = yield* applyOn(postgres, spec)
  assert.deepStrictEqual(
    operations.flatMap(({ object, outcome, reason }) => (outcome === "failed" ? [`${object}: ${reason}`] : [])),
    []
  )
  yield* assertSettled(postgres, spec)
})

const oids = (postgres: TestPostgres, table: "pg_database" | "pg_roles", column: string) =>
  Effect.map(
    postgres.rows(`select ${column}, oid from ${table} where ${column} in ('a', 'b', 'c', 't')`),
    (rows): Record<string, string | null | undefined> => Object.fromEntries(rows)
  )

const exchange = (kind: "RenameDatabase" | "RenameRole", one: string, other: string) =>
  [
    { _tag: kind, name: one, to: "t" },
    { _tag: kind, name: other, to: one },
    { _tag: kind, name: "t", to: other }
  ] as const

describe("deltas and wishes", () => {
  for (const { major } of installs) {
    it.live(
      `a database makes room for another, names are exchanged once, and again when it is wished again (${major})`,
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const postgres = yield* startPostgres({ major })
            const roles = [role("r")]
            yield* done(postgres, specOf({ roles, databases: ["a", "b", "c"].map((name) => database(name, "r")) }))
            const before = yield* oids(postgres, "pg_database", "datname")
            const both = specOf({
              roles,
              databases: [database("b", "r"), database("c", "r")],
              deltas: [
                { _tag: "DropDatabase", name: "b" },
                { _tag: "RenameDatabase", name: "a", to: "b" }
              ]
            })
            for (let start = 0; start < 3; start++) {
              yield* done(postgres, both)
              assert.deepStrictEqual(yield* oids(postgres, "pg_database", "datname"), {
                b: before["a"],
                c: before["c"]
              })
            }
            // What a user makes under the vacated name is not what the deltas were about.
            yield* postgres.rows("create database a")
            const { a } = yield* oids(postgres, "pg_database", "datname")
            yield* done(postgres, both)
            assert.deepStrictEqual(yield* oids(postgres, "pg_database", "datname"), {
              a,
              b: before["a"],
              c: before["c"]
            })
            yield* postgres.rows("drop database a")
            const exchanged = { ...both, deltas: exchange("RenameDatabase", "b", "c") }
            for (let start = 0; start < 3; start++) {
              yield* done(postgres, exchanged)
              assert.deepStrictEqual(yield* oids(postgres, "pg_database", "datname"), {
                c: before["a"],
                b: before["c"]
              })
            }
            yield* done(postgres, { ...both, deltas: [] })
            yield* done(postgres, exchanged)
            assert.deepStrictEqual(yield* oids(postgres, "pg_database", "datname"), { b: before["a"], c: before["c"] })
          })
        )
    )

    it.live(`a role makes room for another, whatever it holds, and names are exchanged once (${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          const databases = [database("d", "c")]
          yield* done(postgres, specOf({ roles: ["a", "b", "c"].map((name) => role(name)), databases }))
          const before = yield* oids(postgres, "pg_roles", "rolname")
          yield* postgres.rows("create table public.t (); alter table public.t owner to b", "d")
          const both = specOf({
            roles: [role("b"), role("c")],
            databases,
            deltas: [
              { _tag: "DropRole", name: "b" },
              { _tag: "RenameRole", name: "a", to: "b" }
            ]
          })
          for (let start = 0; start < 3; start++) {
            yield* done(postgres, both)
            assert.deepStrictEqual(yield* oids(postgres, "pg_roles", "rolname"), { b: before["a"], c: before["c"] })
          }
          yield* postgres.rows("create role a")
          const { a } = yield* oids(postgres, "pg_roles", "rolname")
          yield* done(postgres, both)
          assert.deepStrictEqual(yield* oids(postgres, "pg_roles", "rolname"), { a, b: before["a"], c: before["c"] })
          yield* postgres.rows("drop role a")
          assert.deepStrictEqual(yield* postgres.rows("select tableowner from pg_tables where tablename = 't'", "d"), [
            ["c"]
          ])
          const exchanged = { ...both, deltas: exchange("RenameRole", "b", "c"), databases: [database("d", "b")] }
          for (let start = 0; start < 3; start++) {
            yield* done(postgres, exchanged)
            assert.deepStrictEqual(yield* oids(postgres, "pg_roles", "rolname"), { c: before["a"], b: before["c"] })
          }
        })
      )
    )
  }

  it.live("a role that made room in an apply that ended too early is dropped by the next", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const spec = specOf({ roles: [role("b")], databases: [database("d", "b")] })
        yield* done(postgres, spec)
        yield* postgres.rows("create role compute_ctl_leaving_1")
        yield* postgres.rows("create table public.t (); alter table public.t owner to compute_ctl_leaving_1", "d")
        yield* done(postgres, spec)
        assert.deepStrictEqual(yield* postgres.rows("select 1 from pg_roles where rolname ~ 'leaving'"), [])
        assert.deepStrictEqual(yield* postgres.rows("select tableowner from pg_tables where tablename = 't'", "d"), [
          ["b"]
        ])
      })
    )
  )

  it.live("what would drop a database again at the next start is left alone, and says why", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const databases = [database("a", "r"), database("b", "r")]
        const spec = specOf({ roles: [role("r")], databases })
        yield* done(postgres, spec)
        const before = yield* oids(postgres, "pg_database", "datname")
        const { operations } = yield* applyOn(postgres, {
          ...spec,
          deltas: [
            { _tag: "DropDatabase", name: "b" },
            { _tag: "RenameDatabase", name: "a", to: "b" }
          ]
        })
        assert.deepStrictEqual(yield* oids(postgres, "pg_database", "datname"), before)
        assert.lengthOf(
          operations.filter(({ outcome, reason }) => outcome === "skipped" && /done again/.test(reason ?? "")),
          2
        )
      })
    )
  )
})

describe("options", () => {
  for (const { major } of installs) {
    it.live(`are compared by value and altered after the creation (Postgres ${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          const of = (until: string, limit: string, open: string, template: string) =>
            specOf({
              roles: [role("r", verifier(scram("x")), [text("VALID UNTIL", until), bare("CONNECTION LIMIT", limit)])],
              databases: [
                database("d", "r", [
                  bare("CONNECTION LIMIT", limit),
                  bare("ALLOW_CONNECTIONS", open),
                  bare("IS_TEMPLATE", template)
                ])
              ]
            })
          const seen = postgres.rows(
            "select (select extract(year from rolvaliduntil) || '/' || rolconnlimit from pg_roles " +
              "where rolname = 'r'), " +
              "datconnlimit || '/' || datallowconn || '/' || datistemplate from pg_database where datname = 'd'"
          )
          yield* done(postgres, of("2030-06-01", "1_000", "true", "off"))
          assert.deepStrictEqual(yield* seen, [["2030/1000", "1000/true/false"]])
          yield* done(postgres, of("Jun 1 2030", "1000", "on", "false"))
          yield* done(postgres, of("2020-06-01", "0x10", "false", "true"))
          assert.deepStrictEqual(yield* seen, [["2020/16", "16/false/true"]])
          yield* done(postgres, of("2020-06-01 00:00", "-1", "true", "false"))
          assert.deepStrictEqual(yield* seen, [["2020/-1", "-1/true/false"]])
          yield* postgres.rows("alter role r valid until 'infinity'; alter database d connection limit 3")
          yield* done(postgres, of("2020-06-01", "7", "true", "false"))
          assert.deepStrictEqual(yield* seen, [["2020/7", "7/true/false"]])
        })
      )
    )

    it.live(`that only CREATE ROLE knows are memberships, and a password is changed all the same (${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          const of = (password: string, more: ReadonlyArray<ReturnType<typeof bare>> = []) =>
            specOf({
              roles: [
                role("team"),
                role('o"ther'),
                role("boss"),
                role("r", verifier(scram(password)), [
                  bare("IN ROLE", 'TEAM, "o""ther"'),
                  bare("ADMIN", "boss"),
                  bare("SYSID", "7"),
                  ...more
                ])
              ]
            })
          const members = postgres.rows(
            "select r.rolname, m.rolname, a.admin_option from pg_auth_members a join pg_roles r on r.oid = a.roleid " +
              "join pg_roles m on m.oid = a.member where 'r' in (r.rolname, m.rolname) " +
              "and r.rolname <> 'neon_superuser' " +
              'order by r.rolname collate "C", 2'
          )
          const all = [
            ['o"ther', "r", "f"],
            ["r", "boss", "t"],
            ["team", "r", "f"]
          ]
          yield* done(postgres, of("one"))
          assert.deepStrictEqual(yield* members, all)
          yield* done(postgres, of("two"))
          assert.deepStrictEqual(yield* postgres.rows("select rolpassword from pg_authid where rolname = 'r'"), [
            [scram("two")]
          ])
          yield* postgres.rows("revoke team from r; revoke r from boss")
          yield* done(postgres, of("three", [bare("CONNECTION LIMIT", "1")]))
          assert.deepStrictEqual(yield* members, all)
        })
      )
    )

    it.live(`privileged says whether a role is a member of the privileged one (${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          const of = (first: boolean | null, second: boolean | null) =>
            specOf({
              roles: [
                { ...role("one"), privileged: first },
                { ...role("two"), privileged: second }
              ]
            })
          const members = Effect.map(
            postgres.rows(
              "select distinct m.rolname from pg_auth_members a join pg_roles m on m.oid = a.member " +
                "join pg_roles r on " +
                "r.oid = a.roleid where r.rolname = 'neon_superuser' order by 1"
            ),
            (rows) => rows.flat()
          )
          yield* done(postgres, of(false, null))
          assert.deepStrictEqual(yield* members, ["two"])
          assert.deepStrictEqual(yield* postgres.rows("select rolcreaterole from pg_roles where rolname = 'one'"), [
            ["f"]
          ])
          yield* done(postgres, of(true, false))
          assert.deepStrictEqual(yield* members, ["one"])
          yield* done(postgres, of(null, null))
          assert.deepStrictEqual(yield* members, ["one"])
          // Whoever granted it.
          yield* postgres.rows("grant neon_superuser to one with admin option; grant neon_superuser to two")
          if (major >= 16) yield* postgres.rows("set role one; grant neon_superuser to two")
          yield* done(postgres, of(true, false))
          assert.deepStrictEqual(yield* members, ["one"])
        })
      )
    )
  }

  it.live("after its last day a role does not log in, and again does when the day moves", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const spec = (until: string) =>
          specOf({ roles: [role("r", verifier(scram("x")), [text("VALID UNTIL", until)])], databases: [] })
        yield* done(postgres, spec("2020-01-01"))
        yield* postgres.rows(
          "copy (select 'host all cloud_admin 127.0.0.1/32 trust' union all " +
            `select 'host all all 127.0.0.1/32 scram-sha-256') to '${postgres.pgdata}/pg_hba.conf'`
        )
        yield* postgres.rows("select pg_reload_conf()")
        const login = Effect.scoped(connect({ ...postgres.config("r"), password: Redacted.make("x") }))
        const refused = yield* Effect.flip(login)
        assert.strictEqual("sqlState" in refused ? refused.sqlState : "", "28P01")
        yield* done(postgres, spec("infinity"))
        yield* login
      })
    )
  )

  it.live("that only the creation of a database decides are reported at a start, and refused later", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const of = (given: ReadonlyArray<ReturnType<typeof bare>>) =>
          specOf({ roles: [role("r")], databases: [database("d", "r", given)] })
        const created = of([text("ENCODING", "LATIN1"), text("LC_CTYPE", "C"), bare("TEMPLATE", "template0")])
        yield* done(postgres, created)
        const same = of([text("encoding", "iso-8859-1"), text("LOCALE", "C"), text("STRATEGY", "file_copy")])
        yield* done(postgres, same)
        const other = of([text("ENCODING", "UTF8"), text("LC_COLLATE", "de_DE.UTF-8")])
        const expected = [
          'ENCODING is "LATIN1", and only the creation of a database decides it',
          'LC_COLLATE is "C", and only the creation of a database decides it'
        ]
        for (const [kind, outcome] of [
          ["start", "skipped"],
          ["reconfigure", "failed"]
        ] as const) {
          const { operations } = yield* applyOn(postgres, other, options, kind)
          const reasons = operations.filter((one) => one.outcome === outcome).map(({ reason }) => reason)
          assert.includeMembers(reasons, expected)
        }
        const closed = specOf({
          roles: [role("r")],
          databases: [database("postgres", "r", [bare("ALLOW_CONNECTIONS", "false")])]
        })
        const plan = yield* planOn(postgres, closed)
        assert.isTrue(
          plan.operations.some(
            ({ decision }) => decision._tag === "Refuse" && /works in this database/.test(decision.reason)
          )
        )
      })
    )
  )

  it.live("a database moves to another tablespace", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const wire = yield* postgres.connect()
        yield* wire.simple("set allow_in_place_tablespaces = on")
        yield* wire.simple("create tablespace fast location ''")
        const of = (space: string) =>
          specOf({ roles: [role("r")], databases: [database("d", "r", [bare("TABLESPACE", space)])] })
        for (const space of ["pg_default", "fast", '"pg_default"']) yield* done(postgres, of(space))
      })
    )
  )
})

describe("a verifier", () => {
  const key = (bytes: number) => Buffer.alloc(bytes, 7).toString("base64")
  const scramOf = (rounds: string, salt: string, stored: string, server: string) =>
    `SCRAM-SHA-256$${rounds}:${salt}$${stored}:${server}`
  // Without those that have no salt or no rounds at all: Postgres 18 stores them, and nobody can log in with one.
  const texts = [
    scram("x"),
    scramOf("4096", "c2FsdA==", key(32), key(32)),
    scramOf("1", "c2FsdA==", key(32), key(32)),
    scramOf("4096", "c2FsdA", key(32), key(32)),
    scramOf("4096", "c2FsdA==", key(31), key(32)),
    scramOf("4096", "c2FsdA==", key(32), key(33)),
    scramOf("4096", "c2FsdA==", key(32).slice(0, -1), key(32)),
    scramOf("4096", "c2FsdA==", `${key(32)}=`, key(32)),
    scramOf("4k", "c2FsdA==", key(32), key(32)),
    "SCRAM-SHA-256",
    "SCRAM-SHA-256$4096:a",
    `md5${"0a".repeat(16)}`,
    `md5${"0A".repeat(16)}`,
    `md5${"0a".repeat(15)}`,
    `md5${"0a".repeat(16)}0`,
    `md5${"0g".repeat(16)}`,
    "md5",
    "secret"
  ]
  for (const { major } of installs) {
    it.live(`is one to us exactly where it is one to Postgres ${major}`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          for (const one of texts) {
            yield* postgres.rows(`drop role if exists r; create role r password '${one}'`)
            const stored = yield* postgres.rows("select rolpassword from pg_authid where rolname = 'r'")
            assert.strictEqual(isVerifier(one), stored[0]?.[0] === one, one)
          }
          const spec = specOf({
            roles: [role("s", unmanaged), role("long", verifier(scramOf("4096", "c2Fs".repeat(120), key(32), key(32))))]
          })
          const { operations } = yield* applyOn(postgres, spec)
          assert.deepStrictEqual(
            operations.filter(({ outcome }) => outcome === "failed").map(({ object }) => object),
            ['role "long"']
          )
        })
      )
    )
  }
})
