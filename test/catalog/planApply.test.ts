/**
 * Laws of the plan, over random specs, deltas and catalogs.
 */
import { assert, describe, it } from "@effect/vitest"
import { isReservedRole, majorOf } from "../../src/catalog/Catalog.ts"
import type { Operation } from "../../src/catalog/operations.ts"
import { isEmpty, planApply } from "../../src/catalog/planApply.ts"
import { printPlan } from "../../src/catalog/planText.ts"
import { templateDatabase } from "../../src/pgwire/ownSessions.ts"
import { catalogOf, emptyScenario, options, runs, Scenario, scramText, simulate, specOf } from "./scenario.ts"

const todo = (operations: ReadonlyArray<Operation>) => operations.filter(({ decision }) => decision._tag === "Do")
const planOf = (scenario: Scenario) => planApply(specOf(scenario), catalogOf(scenario), options)

/**
 * The template's one visit grants to `web_access`. Where this apply creates, alters or renames that role, the grant may
 * fail, and with a template the databases would fail with it: they are made one by one.
 */
const makesWebAccess = (operations: ReadonlyArray<Operation>): boolean =>
  operations.some(
    ({ change }) =>
      (change._tag === "PutRole" && change.role.name === "web_access") ||
      (change._tag === "RenameRole" && change.to === "web_access")
  )

/** Holds for random scenarios, and for each of those that once broke it. */
const law = (title: string, holds: (scenario: Scenario) => void, broken: Readonly<Record<string, Scenario>> = {}) => {
  it.prop(title, { scenario: Scenario }, ({ scenario }) => holds(scenario), runs(400))
  for (const [what, scenario] of Object.entries(broken)) it(`${title}: ${what}`, () => holds(scenario))
}

describe("the plan of an apply", () => {
  law(
    "after a plan that succeeded nothing is left to do",
    (scenario) => {
      const spec = specOf(scenario)
      const seen = catalogOf(scenario)
      const plan = planApply(spec, seen, options)
      const next = planApply(spec, simulate(seen, plan.operations), options)
      // What is refused is refused again; nothing else is.
      assert.deepStrictEqual(
        todo(next.operations).map(({ id }) => id),
        []
      )
      assert.strictEqual(isEmpty(next), !next.operations.some(({ decision }) => decision._tag === "Refuse"))
    },
    {
      "a role whose drop is refused, because the spec makes it an owner": {
        ...emptyScenario,
        databases: [["e'$x$", "a"]],
        deltas: [
          [3, "a", 'd"q'],
          [2, "a", "a"],
          [2, 'd"q', "a"]
        ],
        thereRoles: [
          ['d"q', 0, false],
          ["a", 0, false]
        ]
      },
      "a rename to an owner that the spec does not make": {
        ...emptyScenario,
        roles: [["b", 0, 0]],
        databases: [["e'$x$", "c"]],
        deltas: [[3, "b", "c"]]
      },
      "a list of which a drop is refused and a rename is done": {
        ...emptyScenario,
        databases: [
          ['d"q', "a"],
          ['d"q', "b"]
        ],
        deltas: [
          [2, "b", "c"],
          [3, "b", "a"]
        ],
        thereRoles: [["b", 0, false]]
      },
      "a list that would drop again what a replay makes": {
        ...emptyScenario,
        databases: [
          ["a", "web_access"],
          ["b", "web_access"]
        ],
        deltas: [
          [1, "a", "b"],
          [1, "b", "c"],
          [0, "a", "c"],
          [1, 'd"q', "b"]
        ]
      }
    }
  )

  law(
    "many new databases at once are copied from one template, and then nothing is left to do",
    (scenario) => {
      const some = specOf(scenario)
      const many = Array.from({ length: 10 }, (_, index) => ({
        name: `many ${index}`,
        owner: options.superuser,
        options: []
      }))
      const spec = { ...some, databases: [...some.databases, ...many] }
      const seen = catalogOf(scenario)
      const plan = planApply(spec, seen, options)
      const made = todo(plan.operations).filter(({ change }) => change._tag === "CreateDatabase")
      const template = made.find(({ change }) => change._tag === "CreateDatabase" && change.name === templateDatabase)
      const copies = made.filter(({ statements }) =>
        statements.some(({ shown }) => shown.includes(`TEMPLATE "${templateDatabase}"`))
      )
      const anon = spec.features.has("anon_extension")
      const cannot = !seen.superuser || majorOf(seen) < 15 || makesWebAccess(plan.operations)
      assert.strictEqual(template === undefined, copies.length === 0)
      if (cannot) assert.isEmpty(copies)
      else if (!anon) assert.isAtLeast(copies.length, 10)
      for (const copy of copies) assert.include(copy.after, template?.id)
      const after = simulate(seen, plan.operations)
      for (const { name } of many) assert.isTrue(after.databases.has(name), name)
      assert.deepStrictEqual(
        todo(planApply(spec, after, options).operations).map(({ id }) => id),
        []
      )
    },
    {
      "a role that is renamed to web_access": {
        ...emptyScenario,
        deltas: [[3, 'd"q', "web_access"]],
        thereRoles: [['d"q', 0, false]]
      },
      "a role web_access that is created": { ...emptyScenario, roles: [["web_access", 0, 0]] }
    }
  )

  law(
    "the settings of our own role are one row, so no two sessions write them at once",
    (scenario) => {
      for (const { tracks } of planOf(scenario).groups) {
        const writers = tracks.filter((lanes) =>
          lanes.some(({ operations }) =>
            operations.some(({ change }) => change._tag === "RecordDeltas" || change._tag === "ForgetDeltas")
          )
        )
        assert.isAtMost(writers.length, 1)
      }
    },
    {
      "two renames that share no name": {
        ...emptyScenario,
        deltas: [
          [1, "a", 'd"q'],
          [1, "e'$x$", "b"]
        ],
        thereDatabases: [
          ["a", "a", 0],
          ["e'$x$", "a", 0]
        ]
      }
    }
  )

  law("the same input gives the same plan", (scenario) => {
    assert.strictEqual(printPlan(planOf(scenario)), printPlan(planOf(scenario)))
  })

  law("nothing that is wanted is dropped, and reserved things are left alone", (scenario) => {
    const spec = specOf(scenario)
    const invalid = new Set(
      [...catalogOf(scenario).databases.values()].filter((one) => one.invalid).map(({ name }) => name)
    )
    const operations = todo(planOf(scenario).operations)
    for (const [at, { change, phase }] of operations.entries()) {
      if (change._tag === "DropRole") {
        assert.isFalse(
          spec.roles.some(({ name }) => name === change.name),
          change.name
        )
        assert.isFalse(isReservedRole(change.name, options), change.name)
      }
      if (change._tag === "RenameRole")
        assert.isFalse(isReservedRole(change.name, options) || isReservedRole(change.to, options))
      if (change._tag === "PutRole" && phase !== "CreatePrivilegedRole")
        assert.isFalse(isReservedRole(change.role.name, options))
      if (change._tag === "DropDatabase" && !(phase === "DropInvalidDatabases" && invalid.has(change.name))) {
        const refilled = operations
          .slice(at)
          .some((later) => later.change._tag === "RenameDatabase" && later.change.to === change.name)
        assert.isTrue(refilled || !spec.databases.some(({ name }) => name === change.name), change.name)
        assert.isFalse(["postgres", "template0", "template1"].includes(change.name))
      }
    }
  })

  law("every wanted role and database is there afterwards, with its owner", (scenario) => {
    const spec = specOf(scenario)
    const after = simulate(catalogOf(scenario), planOf(scenario).operations)
    for (const { name } of spec.roles) if (!isReservedRole(name, options)) assert.isTrue(after.roles.has(name), name)
    for (const [name, owner] of new Map(scenario.databases)) assert.strictEqual(after.databases.get(name)?.owner, owner)
  })

  law(
    "operations have ids of their own, rest on earlier ones, and those to be done are in exactly one lane",
    (scenario) => {
      const plan = planOf(scenario)
      const ids = plan.operations.map(({ id }) => id)
      assert.strictEqual(new Set(ids).size, ids.length)
      const lanes = plan.groups.flatMap(({ tracks }) => tracks.flat())
      const inLanes = lanes.flatMap(({ operations }) => operations)
      assert.sameMembers(
        inLanes.map(({ id }) => id),
        todo(plan.operations).map(({ id }) => id)
      )
      for (const lane of lanes) for (const one of lane.operations) assert.strictEqual(one.database, lane.database)
      for (const one of inLanes) {
        for (const before of one.after) {
          assert.isBelow(ids.indexOf(before), ids.indexOf(one.id))
          const at = inLanes.findIndex(({ id }) => id === before)
          if (at >= 0) assert.isBelow(at, inLanes.indexOf(one))
        }
      }
    }
  )

  law("no verifier is shown", (scenario) => {
    const text = JSON.stringify(planOf(scenario))
    for (const secret of [scramText("A"), scramText("B"), "0".repeat(32)]) {
      assert.notInclude(text, JSON.stringify(secret).slice(1, -1))
      assert.notInclude(printPlan(planOf(scenario)), secret)
    }
  })

  it("a read-only compute and a spec that says so have nothing to apply", () => {
    const scenario: Scenario = { ...emptyScenario, roles: [["a", 2, 0]] }
    const spec = specOf(scenario)
    for (const one of [
      { ...spec, mode: { _tag: "Replica" as const } },
      { ...spec, skipCatalogUpdates: true }
    ]) {
      assert.isEmpty(planApply(one, catalogOf(scenario), options).operations)
    }
    assert.isNotEmpty(planApply(spec, catalogOf(scenario), options).operations)
  })
})
