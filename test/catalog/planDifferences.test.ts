/**
 * What `plan --detailed` shows: every attribute that an apply would change, old and new, and never a secret.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import type { Catalog, ObservedDatabase, ObservedRole } from "../../src/catalog/Catalog.ts"
import { isEmpty, planApply } from "../../src/catalog/planApply.ts"
import { type Difference, differencesOf, printDifferences } from "../../src/catalog/planDifferences.ts"
import { bareRole } from "../../src/catalog/roleAttributes.ts"
import { templateDatabase } from "../../src/pgwire/ownSessions.ts"
import type { GenericOption, ParsedSpec, Role } from "../../src/spec/ParsedSpec.ts"
import { emptySpec } from "../support/specs.ts"
import { catalogOf, emptyScenario, options, runs, Scenario, scramText, simulate, specOf } from "./scenario.ts"

const option = (name: string, value: string | null = null, quoted = false): GenericOption => ({ name, value, quoted })
const verifier = (text: string) => Redacted.make(text)
const md5 = `md5${"0".repeat(32)}`

const empty = catalogOf({ ...emptyScenario, switches: 16 + 64 })
const reconfigure = { ...options, kind: "reconfigure" } as const
const settled: Catalog = {
  ...simulate(empty, planApply(specOf(emptyScenario), empty, reconfigure).operations),
  times: new Map([["2030-01-01", "1893456000"]]),
  encodings: new Map([["UTF8", "UTF8"]])
}

const known = (more: Partial<ObservedRole> = {}): ObservedRole => ({ ...bareRole("r"), ...more })
const applied = (more: object) =>
  JSON.stringify({
    version: 2,
    owner: "r",
    superuser: "cloud_admin",
    privilegedRole: "neon_superuser",
    webAccess: false,
    anon: false,
    ...more
  })
const there: ObservedDatabase = {
  name: "d",
  owner: "r",
  allowsConnections: true,
  template: false,
  invalid: false,
  granted: true,
  visited: { applied: applied({}), intact: true },
  subscriptions: false,
  auditLogOff: false,
  connectionLimit: -1,
  tablespace: "pg_default",
  creation: null
}

const role = (more: Partial<Role> = {}): Role => ({
  name: "r",
  password: { _tag: "Unmanaged" },
  privileged: null,
  options: [],
  ...more
})

interface World {
  readonly role?: Partial<ObservedRole> | null
  readonly database?: Partial<ObservedDatabase> | null
  readonly memberships?: Catalog["memberships"]
}

const lines = ({ database = null, memberships = [], role = {} }: World, spec: Partial<ParsedSpec>) => {
  const roles = new Map(settled.roles)
  if (role !== null) roles.set("r", known(role))
  const databases = new Map(settled.databases)
  if (database !== null) databases.set("d", { ...there, ...database })
  const plan = planApply({ ...emptySpec, ...spec }, { ...settled, roles, databases, memberships }, reconfigure)
  return differencesOf(plan).map(
    ({ attribute, from, object, refused, to }: Difference) =>
      `${object} ${attribute}: ${JSON.stringify(from)} -> ${JSON.stringify(to)}${refused === null ? "" : " refused"}`
  )
}

const password = (text: string): Role => role({ password: { _tag: "Verifier", verifier: verifier(text) } })
const owned = (more: ReadonlyArray<GenericOption> = []) => ({
  roles: [role()],
  databases: [{ name: "d", owner: "r", options: more }]
})
const creation = {
  encoding: "LATIN1",
  collate: "C",
  ctype: "C",
  provider: "libc",
  locale: null,
  rules: null,
  oid: "16384"
}

/** A list of deltas is done once, and comes again with each start. */
const recorded = (digest: string) => `delta operations ${digest} recorded as done: false -> true`

const table: ReadonlyArray<readonly [string, World, Partial<ParsedSpec>, ReadonlyArray<string>]> = [
  ["nothing", { database: {} }, owned(), []],
  [
    "a password of the same kind",
    { role: { verifier: verifier(scramText("A")) } },
    { roles: [password(scramText("B"))] },
    ['role "r" password: "SCRAM-SHA-256" -> "another SCRAM-SHA-256"']
  ],
  [
    "a password of another kind",
    { role: { verifier: verifier(md5) } },
    { roles: [password(scramText("B"))] },
    ['role "r" password: "md5" -> "SCRAM-SHA-256"']
  ],
  [
    "no password any more",
    { role: { verifier: verifier(md5) } },
    { roles: [role({ password: { _tag: "None" } })] },
    ['role "r" password: "md5" -> null']
  ],
  [
    "a password that may not be read",
    { role: { verifier: "unseen" } },
    { roles: [password(md5)] },
    ['role "r" password: "one that cannot be read" -> "md5"']
  ],
  [
    "options of a role",
    { role: { validUntil: "Infinity", login: false } },
    { roles: [role({ options: [option("VALID UNTIL", "2030-01-01", true), option("CONNECTION LIMIT", "5")] })] },
    [
      'role "r" valid until: "infinity" -> "2030-01-01T00:00:00.000Z"',
      'role "r" login: false -> true',
      'role "r" connection limit: -1 -> 5'
    ]
  ],
  [
    "memberships",
    { memberships: [{ role: "neon_superuser", member: "r", admin: false, grantor: null }] },
    { roles: [role({ privileged: false, options: [option("IN ROLE", "pg_monitor")] })] },
    ['role "r" member of "neon_superuser": "yes" -> null', 'role "r" member of "pg_monitor": null -> "yes"']
  ],
  [
    "a new role",
    { role: null },
    { roles: [role({ privileged: false, password: { _tag: "Verifier", verifier: verifier(md5) } })] },
    ['role "r" exists: false -> true', 'role "r" password: null -> "md5"', 'role "r" login: false -> true']
  ],
  [
    "a role that is dropped",
    {},
    { deltas: [{ _tag: "DropRole", name: "r" }] },
    ['role "r" exists: true -> false', recorded("cd2a0203d229be64")]
  ],
  [
    "a role under another name",
    { role: { verifier: verifier(md5) } },
    { roles: [role({ name: "s" })], deltas: [{ _tag: "RenameRole", name: "r", to: "s" }] },
    ['role "s" name: "r" -> "s"', 'role "s" password: "md5" -> null', recorded("2294f21f143b20a6")]
  ],
  ["an owner", { database: { owner: "cloud_admin" } }, owned(), ['database "d" owner: "cloud_admin" -> "r"']],
  [
    "options of a database",
    { database: { template: true } },
    owned([option("CONNECTION LIMIT", "3"), option("IS_TEMPLATE", "false"), option("TABLESPACE", "fast")]),
    [
      'database "d" connection limit: -1 -> 3',
      'database "d" is a template: true -> false',
      'database "d" tablespace: "pg_default" -> "fast"'
    ]
  ],
  [
    "what only a creation decides",
    { database: { creation } },
    owned([option("ENCODING", "UTF8", true)]),
    ['database "d" ENCODING: "LATIN1" -> "UTF8" refused']
  ],
  [
    "what is inside a database",
    { database: { granted: false, visited: { applied: applied({ owner: "other" }), intact: false } } },
    owned(),
    [
      'database "d" privileges of the privileged role: false -> true',
      `database "d" last visit: ${JSON.stringify(`${applied({ owner: "other" })}, changed since`)} -> ` +
        JSON.stringify(applied({}))
    ]
  ],
  [
    "a database that makes room for another",
    { database: {} },
    { ...owned(), deltas: [{ _tag: "RenameDatabase", name: "d", to: "e" }], databases: [] },
    ['database "e" name: "d" -> "e"', recorded("70e495eb8663e6ef")]
  ]
]

describe("the differences of a plan", () => {
  for (const [what, world, spec, expected] of table)
    it(`show ${what}`, () => assert.deepStrictEqual(lines(world, spec), expected))

  it("show what is missing in the system database", () => {
    const bare = catalogOf({ ...emptyScenario, switches: 16 + 32 })
    const found = differencesOf(planApply(specOf(emptyScenario), bare, reconfigure))
    const objects = new Set(found.map(({ object }) => object))
    for (const object of ["schema neon", "extension neon", "extension pg_stat_statements", "table public.health_check"])
      assert.isTrue(objects.has(object), object)
  })

  it("are printed under their object, and what stays says why", () => {
    assert.strictEqual(
      printDifferences([
        { object: 'role "r"', attribute: "connection limit", from: -1, to: 5, refused: null },
        { object: 'role "r"', attribute: "valid until", from: "infinity", to: null, refused: null },
        { object: 'database "d"', attribute: "ENCODING", from: "LATIN1", to: "UTF8", refused: "it is too late" },
        { object: 'database "d"', attribute: "create", from: null, to: null, refused: "the name is bad" }
      ]),
      [
        'role "r"',
        "    connection limit: -1 -> 5",
        '    valid until: "infinity" -> none',
        'database "d"',
        '  ! ENCODING: "LATIN1" -> "UTF8" (stays: it is too late)',
        "  ! create (stays: the name is bad)"
      ].join("\n")
    )
  })

  it.prop(
    "are there exactly when there is something to do or refused, are gone afterwards, and hold no secret",
    { scenario: Scenario },
    ({ scenario }) => {
      const spec = specOf(scenario)
      const plan = planApply(spec, catalogOf(scenario), options)
      const found = differencesOf(plan).filter(({ object }) => !object.includes(templateDatabase))
      assert.strictEqual(found.length === 0, isEmpty(plan))
      const text = printDifferences(found)
      for (const secret of [scramText("A"), scramText("B"), "0".repeat(32)]) assert.notInclude(text, secret)
      const next = planApply(spec, simulate(catalogOf(scenario), plan.operations), options)
      assert.deepStrictEqual(
        differencesOf(next).filter(({ refused }) => refused === null),
        []
      )
    },
    runs(400)
  )
})
