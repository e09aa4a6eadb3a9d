/**
 * What failed in an apply, told apart: in a database, which is its owner's to mend, and otherwise.
 */
import { assert, describe, it } from "@effect/vitest"
import { sortFailures } from "../../src/catalog/outcome.ts"
import type { Phase } from "../../src/catalog/operations.ts"
import type { OperationReport } from "../../src/compute/snapshot.ts"

const failure = (phase: Phase, given: Partial<OperationReport> = {}): OperationReport => ({
  phase,
  database: null,
  object: "it",
  action: "change",
  outcome: "failed",
  reason: "no",
  sqlState: null,
  hint: null,
  attempts: 1,
  millis: 0,
  ...given
})
const app = 'database "app"'
const system = 'database "postgres"'

describe("what failed in an apply", () => {
  const table: ReadonlyArray<readonly [string, OperationReport, string | null]> = [
    ["a visit", failure("ChangeSchemaPermissions", { database: "app" }), app],
    ["a visit to the system database", failure("ChangeSchemaPermissions", { database: "postgres" }), system],
    ["a session that could not be had", failure("DeleteRoleReferences", { database: "app", sqlState: "58P01" }), app],
    ["a drop that somebody keeps from happening", failure("RenameAndDeleteDatabases", { object: app }), app],
    ["what the system database itself is to have", failure("HandleNeonExtension"), system],
    ["a schema there", failure("CreateSchemaNeon"), system],
    ["a table there", failure("CreateAvailabilityCheck"), system],
    ["a role", failure("CreateAndAlterRoles"), null],
    ["the privileged role", failure("CreatePrivilegedRole"), null],
    ["a role's end", failure("DropRoles"), null],
    ["a database that could not be made", failure("CreateAndAlterDatabases", { object: app, action: "create" }), null],
    ["what was refused before it was tried", failure("HandleAnonExtension", { database: "app", attempts: 0 }), null],
    ["what was done", failure("ChangeSchemaPermissions", { database: "app", outcome: "done" }), null]
  ]
  for (const [what, one, about] of table) {
    it(`${what}: ${about ?? (one.outcome === "failed" ? "the spec or the cluster" : "nothing")}`, () => {
      const { broken, others } = sortFailures({ operations: [one] }, "postgres")
      assert.deepStrictEqual([...broken.keys()], about === null ? [] : [about])
      assert.lengthOf(others, about === null && one.outcome === "failed" ? 1 : 0)
    })
  }

  it("a database that the same apply has made has no owner yet who could have broken it", () => {
    const made = failure("CreateAndAlterDatabases", { object: app, action: "create", outcome: "done" })
    const visit = failure("ChangeSchemaPermissions", { database: "app" })
    const { broken, others } = sortFailures({ operations: [made, visit] }, "postgres")
    assert.deepStrictEqual([broken.size, others.length], [0, 1])
  })
})
