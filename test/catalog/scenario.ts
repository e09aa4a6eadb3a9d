/**
 * Random specs and random catalogs over few names, so that they meet, and a catalog after operations that succeeded.
 *
 * For the laws of the plan.
 */
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type { ApplyOptions, Catalog, ObservedDatabase, ObservedRole } from "../../src/catalog/Catalog.ts"
import { add, draftOf } from "../../src/catalog/draft.ts"
import type { Operation } from "../../src/catalog/operations.ts"
import { bareRole } from "../../src/catalog/roleAttributes.ts"
import type { DeltaOperation, GenericOption, ParsedSpec, Password } from "../../src/spec/ParsedSpec.ts"
import { emptySpec } from "../support/specs.ts"

/** How many cases of each law: `RUNS=100000` before a release, with `--testTimeout=0`. */
export const runs = (usual: number) => ({ arbitrary: { runs: Number(process.env["RUNS"] ?? usual) } })

export const options: ApplyOptions = {
  kind: "start",
  privilegedRole: "neon_superuser",
  superuser: "cloud_admin",
  fileCopy: false
}

export const scramText = (letter: string) => `SCRAM-SHA-256$4096:c2FsdA==$${letter.repeat(43)}=:${letter.repeat(43)}=`

const name = Schema.Literals(["a", "b", "c", 'd"q', "e'$x$", "web_access"])
const reserved = Schema.Literals(["cloud_admin", "neon_superuser", "pg_monitor", "zenith_admin", "a", "b"])
const passwords: ReadonlyArray<Password> = [
  { _tag: "Unmanaged" },
  { _tag: "None" },
  { _tag: "Verifier", verifier: Redacted.make(scramText("A")) },
  { _tag: "Verifier", verifier: Redacted.make(scramText("B")) },
  { _tag: "Verifier", verifier: Redacted.make(`md5${"0".repeat(32)}`) }
]
const roleOptions: ReadonlyArray<ReadonlyArray<GenericOption>> = [
  [],
  [{ name: "NOBYPASSRLS", value: null, quoted: false }],
  [{ name: "CONNECTION LIMIT", value: "3", quoted: false }],
  [{ name: "VALID UNTIL", value: "infinity", quoted: true }],
  [{ name: "NOLOGIN", value: null, quoted: false }]
]
const small = (top: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: top }))
const few = <S extends Schema.Constraint>(schema: S, most: number) =>
  Schema.Array(schema).check(Schema.isMaxLength(most))

export const Scenario = Schema.Struct({
  roles: few(Schema.Tuple([name, small(4), small(4)]), 5),
  reserved: few(reserved, 2),
  databases: few(Schema.Tuple([name, name]), 5),
  deltas: few(Schema.Tuple([small(3), Schema.Union([name, reserved]), name]), 5),
  thereRoles: few(Schema.Tuple([name, small(4), Schema.Boolean]), 6),
  thereDatabases: few(Schema.Tuple([name, name, small(63)]), 6),
  references: few(Schema.Tuple([name, Schema.NullOr(name)]), 3),
  switches: small(127),
  version: Schema.Literals([140010, 150008, 160003, 170002, 180000])
})
export type Scenario = typeof Scenario.Type

export const emptyScenario: Scenario = {
  roles: [],
  reserved: [],
  databases: [],
  deltas: [],
  thereRoles: [],
  thereDatabases: [],
  references: [],
  switches: 0,
  version: 170002
}

const delta = ([kind, from, to]: readonly [number, string, string]): DeltaOperation =>
  kind === 0
    ? { _tag: "DropDatabase", name: from }
    : kind === 1
      ? { _tag: "RenameDatabase", name: from, to }
      : kind === 2
        ? { _tag: "DropRole", name: from }
        : { _tag: "RenameRole", name: from, to }

export const specOf = (scenario: Scenario): ParsedSpec => ({
  ...emptySpec,
  roles: [
    ...scenario.roles.map(([role, password, options]) => ({
      name: role,
      password: passwords[password] ?? { _tag: "Unmanaged" as const },
      privileged: null,
      options: roleOptions[options] ?? []
    })),
    ...scenario.reserved.map((role) => ({
      name: role,
      password: { _tag: "None" as const },
      privileged: null,
      options: []
    }))
  ],
  databases: scenario.databases.map(([database, owner]) => ({ name: database, owner, options: [] })),
  deltas: scenario.deltas.map(delta),
  jwksRoles: new Set((scenario.switches & 1) === 0 ? [] : ["a"]),
  dropSubscriptions: (scenario.switches & 2) !== 0,
  auditLevel: (scenario.switches & 4) === 0 ? "Disabled" : "Full",
  features: new Set((scenario.switches & 8) === 0 ? [] : ["anon_extension"]),
  settings: [{ name: "shared_preload_libraries", value: "neon, pg_stat_statements,anon", quoted: true }]
})

const verifierOf = (choice: number): ObservedRole["verifier"] => {
  const password = passwords[choice]
  return password?._tag === "Verifier" ? password.verifier : null
}

export const catalogOf = (scenario: Scenario): Catalog => {
  const roles = new Map<string, ObservedRole>()
  for (const role of ["cloud_admin", "pg_monitor", "pg_read_all_data"])
    roles.set(role, { ...bareRole(role), login: role === "cloud_admin" })
  if ((scenario.switches & 16) !== 0) roles.set("neon_superuser", { ...bareRole("neon_superuser"), login: false })
  for (const [role, password, login] of scenario.thereRoles)
    roles.set(role, { ...bareRole(role), login, verifier: verifierOf(password) })
  const database = (name: string, owner: string, bits: number): ObservedDatabase => ({
    name,
    owner,
    allowsConnections: (bits & 1) === 0,
    template: (bits & 2) !== 0,
    invalid: (bits & 12) === 12,
    granted: (bits & 16) !== 0,
    visited: null,
    subscriptions: (bits & 32) !== 0,
    auditLogOff: false,
    connectionLimit: -1,
    tablespace: "pg_default",
    creation: null
  })
  const databases = new Map([
    ["postgres", database("postgres", "cloud_admin", 32)],
    ["template1", database("template1", "cloud_admin", 2)]
  ])
  for (const [one, owner, bits] of scenario.thereDatabases) databases.set(one, database(one, owner, bits))
  const extension = { available: "1.2", installed: null }
  const all = ["neon", "pg_stat_statements", "anon", "pgaudit", "pgauditlogtofile"]
  return {
    serverVersion: scenario.version,
    superuser: true,
    systemDatabase: "postgres",
    roles,
    databases,
    extensions: new Map(
      (scenario.switches & 32) === 0 ? all.slice(3).map((one) => [one, extension]) : all.map((one) => [one, extension])
    ),
    faultyExtensions: new Map(),
    references: scenario.references.filter(([role]) => roles.has(role)).map(([role, one]) => ({ role, database: one })),
    memberships: [],
    times: new Map([["infinity", "Infinity"]]),
    encodings: new Map(),
    doneDeltas: new Set(),
    schemas: new Set((scenario.switches & 64) === 0 ? ["public"] : ["public", "neon"]),
    healthCheck: false,
    subscriptionsDropped: false,
    migrated: null
  }
}

/** The catalog after these operations, all of them successful. */
export const simulate = (catalog: Catalog, operations: ReadonlyArray<Operation>): Catalog => {
  const draft = draftOf(catalog)
  for (const operation of operations) add(draft, operation)
  return draft
}
