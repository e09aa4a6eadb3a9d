/**
 * Laws of the plan, over random specs, deltas and catalogs.
 */
import { assert, describe, it } from "@effect/vitest"
import { isReservedRole, majorOf, templateDatabase } from "../../src/catalog/Catalog.ts"
import { simulate } from "../../src/catalog/draft.ts"
import type { Operation } from "../../src/catalog/operations.ts"
import { isEmpty, planApply } from "../../src/catalog/planApply.ts"
import { printPlan } from "../../src/catalog/planText.ts"
import { catalogOfWorld, options, scramText, specOfWorld, World } from "./world.ts"

const runs = { arbitrary: { runs: 400 } }
const todo = (operations: ReadonlyArray<Operation>) => operations.filter(({ decision }) => decision._tag === "Do")
const planOf = (world: World) => planApply(specOfWorld(world), catalogOfWorld(world), options)

/** Deltas come again with every start. Lists that rename into a name they took from elsewhere have no fixed point. */
const replayable = (world: World): boolean => {
  const names = world.deltas.map(([kind, name]) => `${kind > 1} ${name}`)
  const targets = world.deltas.filter(([kind]) => kind === 1 || kind === 3).map(([kind, , to]) => `${kind > 1} ${to}`)
  return (
    targets.every((to) => !names.includes(to)) &&
    new Set(names).size === names.length &&
    new Set(targets).size === targets.length
  )
}

describe("plan/applyPlan", () => {
  it.prop(
    "after a plan that succeeded nothing is left to do",
    { world: World },
    ({ world }) => {
      if (!replayable(world)) return
      const spec = specOfWorld(world)
      const seen = catalogOfWorld(world)
      const plan = planApply(spec, seen, options)
      const next = planApply(spec, simulate(seen, plan.operations), options)
      // What is refused is refused again; nothing else is.
      assert.deepStrictEqual(
        todo(next.operations).map(({ id }) => id),
        []
      )
      assert.strictEqual(isEmpty(next), !next.operations.some(({ decision }) => decision._tag === "Refuse"))
    },
    runs
  )

  it.prop(
    "many new databases at once are copied from one template, and then nothing is left to do",
    { world: World },
    ({ world }) => {
      if (!replayable(world)) return
      const some = specOfWorld(world)
      const many = Array.from({ length: 10 }, (_, index) => ({
        name: `many ${index}`,
        owner: options.superuser,
        options: []
      }))
      const spec = { ...some, databases: [...some.databases, ...many] }
      const seen = catalogOfWorld(world)
      const plan = planApply(spec, seen, options)
      const made = todo(plan.operations).filter(({ change }) => change._tag === "CreateDatabase")
      const template = made.find(({ change }) => change._tag === "CreateDatabase" && change.name === templateDatabase)
      const copies = made.filter(({ statements }) =>
        statements.some(({ shown }) => shown.includes(`TEMPLATE "${templateDatabase}"`))
      )
      const makesWebAccess = plan.operations.some(
        ({ change }) => change._tag === "PutRole" && change.role.name === "web_access"
      )
      const hinders = !seen.superuser || majorOf(seen) < 15 || makesWebAccess || spec.features.has("anon_extension")
      assert.strictEqual(template === undefined, copies.length === 0)
      if (!hinders) assert.isAtLeast(copies.length, 10)
      for (const copy of copies) assert.include(copy.after, template?.id)
      const after = simulate(seen, plan.operations)
      for (const { name } of many) assert.isTrue(after.databases.has(name), name)
      assert.deepStrictEqual(
        todo(planApply(spec, after, options).operations).map(({ id }) => id),
        []
      )
    },
    runs
  )

  it.prop(
    "the same input gives the same plan",
    { world: World },
    ({ world }) => {
      assert.strictEqual(printPlan(planOf(world)), printPlan(planOf(world)))
    },
    runs
  )

  it.prop(
    "nothing that is wanted is dropped, and reserved things are left alone",
    { world: World },
    ({ world }) => {
      const spec = specOfWorld(world)
      const invalid = new Set(
        [...catalogOfWorld(world).databases.values()].filter((one) => one.invalid).map(({ name }) => name)
      )
      for (const { change, phase } of todo(planOf(world).operations)) {
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
          assert.isFalse(
            spec.databases.some(({ name }) => name === change.name),
            change.name
          )
          assert.isFalse(["postgres", "template0", "template1"].includes(change.name))
        }
      }
    },
    runs
  )

  it.prop(
    "every wanted role and database is there afterwards, with its owner",
    { world: World },
    ({ world }) => {
      const spec = specOfWorld(world)
      const after = simulate(catalogOfWorld(world), planOf(world).operations)
      for (const { name } of spec.roles) if (!isReservedRole(name, options)) assert.isTrue(after.roles.has(name), name)
      for (const [name, owner] of new Map(world.databases)) assert.strictEqual(after.databases.get(name)?.owner, owner)
    },
    runs
  )

  it.prop(
    "operations have ids of their own, rest on earlier ones, and those to be done are in exactly one lane",
    { world: World },
    ({ world }) => {
      const plan = planOf(world)
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
    },
    runs
  )

  it.prop(
    "no verifier is shown",
    { world: World },
    ({ world }) => {
      const text = JSON.stringify(planOf(world))
      for (const secret of [scramText("A"), scramText("B"), "0".repeat(32)]) {
        assert.notInclude(text, JSON.stringify(secret).slice(1, -1))
        assert.notInclude(printPlan(planOf(world)), secret)
      }
    },
    runs
  )

  it("a read-only compute and a spec that says so have nothing to apply", () => {
    const world: World = {
      roles: [["a", 2, 0]],
      reserved: [],
      databases: [],
      deltas: [],
      thereRoles: [],
      thereDatabases: [],
      references: [],
      switches: 0,
      version: 170002
    }
    const spec = specOfWorld(world)
    for (const one of [
      { ...spec, mode: { _tag: "Replica" as const } },
      { ...spec, skipCatalogUpdates: true }
    ]) {
      assert.isEmpty(planApply(one, catalogOfWorld(world), options).operations)
    }
    assert.isNotEmpty(planApply(spec, catalogOfWorld(world), options).operations)
  })
})
