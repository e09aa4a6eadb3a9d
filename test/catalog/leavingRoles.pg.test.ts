/**
 * Roles that a delta drops, whatever they hold, granted, or were granted, in one apply.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { installs, startPostgres, type TestPostgres } from "../support/postgres.ts"
import { applyOn, assertSettled, database, role, specOf } from "./fixture.ts"

const failures = (report: {
  readonly operations: ReadonlyArray<{
    readonly outcome: string
    readonly object: string
    readonly reason: string | null
  }>
}) =>
  report.operations.filter(({ outcome }) => outcome === "failed").map(({ object, reason }) => `${object}: ${reason}`)

// The privileged role may use every schema, and these are to have nothing but what a case gives them.
const plain = (name: string) => ({ ...role(name), privileged: false })
const stay = ["owner", "middle", "other"].map(plain)
const leave = ["g", "h"]
const start = specOf({
  roles: [...stay, ...leave.map(plain)],
  databases: [database("d", "owner"), database("e", "owner")]
})
const end = specOf({
  roles: stay,
  databases: [database("d", "owner"), database("e", "owner")],
  deltas: leave.map((name) => ({ _tag: "DropRole", name }))
})

const run = Effect.fnUntraced(function* (postgres: TestPostgres, sql: ReadonlyArray<string>, name = "d") {
  const wire = yield* postgres.connect(undefined, name)
  for (const one of sql) yield* wire.simple(one)
})

/** Passes a privilege from its owner to `middle`, to `g`, to `h` and to `other`, each in its own name. */
const passOn = (what: string, object: string, first = "owner"): ReadonlyArray<string> => [
  `set role ${first}; grant ${what} on ${object} to middle with grant option`,
  `set role middle; grant ${what} on ${object} to g with grant option`,
  `set role g; grant ${what} on ${object} to h with grant option; grant ${what} on ${object} to other`,
  `set role h; grant ${what} on ${object} to other`,
  "reset role"
]

const goesAway = Effect.fnUntraced(function* (postgres: TestPostgres) {
  assert.deepStrictEqual(failures(yield* applyOn(postgres, end)), [])
  assert.deepStrictEqual(yield* postgres.rows("select rolname from pg_roles where rolname in ('g', 'h')"), [])
  yield* assertSettled(postgres, end)
})

interface Case {
  readonly what: string
  readonly from?: number
  readonly setUp: ReadonlyArray<string>
  /** Rows that are to be there afterwards, in database `d`. */
  readonly keeps?: readonly [sql: string, rows: ReadonlyArray<ReadonlyArray<string>>]
}

const hidden = "create schema hidden authorization owner; set role owner"
const cases: ReadonlyArray<Case> = [
  {
    what: "a function, in a schema that the grantor may not use",
    setUp: [
      hidden,
      "create function hidden.f(a int, b text[]) returns int language sql as 'select 1'; " +
        "grant usage on schema hidden to g, h",
      "reset role",
      ...["owner", "middle", "g"].flatMap((by, at) => [
        "grant usage on schema hidden to middle, g, h",
        `set role ${by}; grant execute on function hidden.f(int, text[]) to ` +
          `${["middle", "g", "h"][at]} with grant option`,
        "reset role"
      ]),
      "revoke usage on schema hidden from middle, g, h"
    ],
    keeps: [
      "select has_function_privilege('middle', 'hidden.f(int, text[])', 'execute'), " +
        "has_schema_privilege('middle', 'hidden', 'usage')",
      [["t", "f"]]
    ]
  },
  {
    what: "a procedure with an argument that it gives back",
    setUp: [
      "create procedure public.p(a int, inout b text) language sql as 'select b'; " +
        "alter procedure public.p(int, text) owner to owner",
      ...passOn("execute", "procedure public.p(int, text)")
    ]
  },
  {
    what: "a type",
    setUp: [
      "create type public.y as enum ('a'); alter type public.y owner to owner",
      ...passOn("usage", "type public.y")
    ]
  },
  {
    what: "a domain",
    setUp: [
      "create domain public.o as int; alter domain public.o owner to owner",
      ...passOn("usage", "domain public.o")
    ]
  },
  { what: "a database", setUp: passOn("create", "database d") },
  {
    what: "a language",
    setUp: [
      "grant usage on language plpgsql to middle with grant option",
      ...passOn("usage", "language plpgsql").slice(1)
    ]
  },
  {
    what: "a large object",
    setUp: ["select lo_create(4711); alter large object 4711 owner to owner", ...passOn("select", "large object 4711")]
  },
  {
    what: "a foreign server and its wrapper",
    setUp: [
      "create foreign data wrapper w; create server s foreign data wrapper w; alter server s owner to owner; " +
        "grant usage on foreign data wrapper w to middle with grant option",
      ...passOn("usage", "foreign data wrapper w").slice(1),
      ...passOn("usage", "foreign server s"),
      "create user mapping for g server s"
    ]
  },
  {
    what: "a parameter",
    from: 15,
    setUp: [
      "grant set on parameter work_mem to middle with grant option; " +
        'grant set on parameter "x.y" to middle with grant option',
      ...passOn("set", "parameter work_mem").slice(1),
      ...passOn("set", "parameter x.y").slice(1)
    ]
  },
  {
    what: "a table, its columns, a sequence and a schema",
    setUp: [
      'create schema n authorization owner; create table n.t (a int, "b c" int); alter table n.t owner to owner; ' +
        "create sequence n.q; alter sequence n.q owner to owner",
      ...passOn("usage", "schema n"),
      ...passOn("select", "n.t"),
      ...passOn('update (a, "b c")', "n.t"),
      ...passOn("usage", "sequence n.q")
    ],
    keeps: [
      "select has_table_privilege('middle', 'n.t', 'select'), has_table_privilege('other', 'n.t', 'select')",
      [["t", "f"]]
    ]
  },
  {
    what: "default privileges, of it and for it",
    setUp: [
      "alter default privileges for role owner grant select on tables to g; " +
        "alter default privileges for role g grant execute on functions to other; " +
        "alter default privileges for role h in schema public grant usage on types to g"
    ]
  },
  {
    what: "event triggers and foreign-data wrappers of a leaving superuser, and publications",
    setUp: [
      "alter role g superuser; create function public.e() returns event_trigger language plpgsql as 'begin end'; " +
        "create event trigger seen on ddl_command_start execute function public.e(); " +
        "alter event trigger seen owner to g; " +
        "create foreign data wrapper w; alter foreign data wrapper w owner to g",
      "create publication everything for all tables; alter publication everything owner to g"
    ],
    keeps: ["select evtowner::regrole::text from pg_event_trigger", [["cloud_admin"]]]
  },
  {
    what: "a subscription",
    setUp: [
      "alter role g superuser; create subscription s connection 'dbname=x' publication p with (connect = false); " +
        "alter subscription s owner to g"
    ]
  },
  {
    what: "each other's membership, granted by each other",
    setUp: [
      "create role team; grant team to g with admin option; set role g; grant team to h with admin option; " +
        "set role h; grant team to other",
      "reset role; grant g to h with admin option; grant h to other with admin option",
      "grant owner to g; set role g; create schema mine; create table mine.t (); grant select on mine.t to h"
    ]
  },
  {
    what: "what a superuser, who was none then, passed on",
    setUp: [
      "create table public.t (); alter table public.t owner to owner",
      ...passOn("select", "public.t"),
      "alter role middle superuser"
    ],
    keeps: [
      "select rolsuper, has_table_privilege('middle', 'public.t', 'select') from pg_roles where rolname = 'middle'",
      [["t", "t"]]
    ]
  },
  {
    what: "policies, settings and objects in two databases",
    setUp: [
      "create table public.t (); create policy p on public.t to g, other using (true); " +
        "alter table public.t owner to g; " +
        "alter role g in database e set work_mem = '5MB'; grant temporary on database e to h"
    ],
    keeps: ["select tableowner from pg_tables where tablename = 't'", [["owner"]]]
  }
]

describe("a role that leaves", () => {
  for (const { major } of installs) {
    it.live(
      `whatever was granted to it, by it, or is its own (Postgres ${major})`,
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const postgres = yield* startPostgres({ major, settings: { wal_level: "logical" } })
            for (const { from = 0, keeps, setUp, what } of cases) {
              if (major < from) continue
              yield* applyOn(postgres, start)
              yield* Effect.scoped(run(postgres, setUp)).pipe(Effect.mapError((cause) => new Error(what, { cause })))
              assert.deepStrictEqual(failures(yield* applyOn(postgres, end)), [], what)
              const left = yield* postgres.rows("select rolname from pg_roles where rolname in ('g', 'h')")
              assert.deepStrictEqual(left, [], what)
              if (keeps !== undefined) assert.deepStrictEqual(yield* postgres.rows(keeps[0], "d"), keeps[1], what)
              yield* assertSettled(postgres, end)
              yield* postgres.rows("alter role middle nosuperuser")
              yield* Effect.scoped(
                run(postgres, [
                  "drop event trigger if exists seen; drop schema if exists hidden cascade",
                  "drop schema if exists n cascade",
                  "drop schema if exists mine cascade; drop table if exists public.t",
                  "drop foreign data wrapper if exists w cascade",
                  "do $$begin if exists (select from pg_subscription) then alter subscription s disable; " +
                    "alter subscription s set (slot_name = none); drop subscription s; end if; end$$"
                ])
              )
            }
          })
        ),
      240_000
    )
  }

  it.live("is no heir of another that leaves", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* applyOn(postgres, start)
        yield* postgres.rows("create database loose owner g")
        yield* run(postgres, ["create table public.held (); alter table public.held owner to h"], "loose")
        yield* goesAway({ ...postgres })
        assert.deepStrictEqual(
          yield* postgres.rows("select tableowner from pg_tables where tablename = 'held'", "loose"),
          [["cloud_admin"]]
        )
      })
    )
  )

  it.live("stays, and says where, while a closed database holds something of it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* applyOn(postgres, start)
        yield* run(postgres, ["create table public.held (); alter table public.held owner to g"], "e")
        yield* postgres.rows("alter database e allow_connections false")
        assert.deepStrictEqual(failures(yield* applyOn(postgres, end)), [
          'role "g": it holds something in database "e", which does not allow connections'
        ])
        yield* postgres.rows("alter database e allow_connections true")
        yield* goesAway(postgres)
      })
    )
  )
})
