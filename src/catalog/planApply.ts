/**
 * From a spec and the catalog that is there to the operations that make them agree, in the reference's order.
 *
 * Decides everything, does nothing: the same input gives the same plan, and the plan after a plan that succeeded is
 * empty.
 */
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { planAvailability } from "./availability.ts"
import type { ApplyOptions, Catalog } from "./Catalog.ts"
import { concurrencyOf, creatorsOf } from "./concurrency.ts"
import { planDatabaseDeltas, planDatabases, planInvalidDatabases } from "./planDatabases.ts"
import { type Draft, draftOf } from "./draft.ts"
import { planAudit, planNeonExtension, planOtherExtensions, planSchemaNeon } from "./planExtensions.ts"
import type { ApplyPlan, Group, Lane, Operation, Track } from "./operations.ts"
import { planVisits } from "./planVisits.ts"
import { planReferences } from "./planReferences.ts"
import { planPrivilegedRole, planRoleDrops, planRoleRenames, planRoles, rolesToDrop } from "./planRoles.ts"
import { planSubscriptionDrops, planSubscriptionsDone } from "./planSubscriptions.ts"
import { planTemplate } from "./planTemplate.ts"

/** Whether this spec wants its catalog applied at all: never on a read-only compute. */
export const appliesCatalog = (spec: ParsedSpec): boolean => spec.mode._tag === "Primary" && !spec.skipCatalogUpdates

export const planApply = (spec: ParsedSpec, seen: Catalog, options: ApplyOptions): ApplyPlan => {
  const draft = draftOf(seen)
  const width = concurrencyOf(spec, options.kind)
  const creators = creatorsOf(width)
  const groups = appliesCatalog(spec) ? planGroups(draft, spec, options, width, creators) : []
  return {
    kind: options.kind,
    groups,
    operations: draft.operations,
    joining: { superuser: seen.superuser, privilegedRole: options.privilegedRole },
    width,
    creators
  }
}

const planGroups = (draft: Draft, spec: ParsedSpec, options: ApplyOptions, width: number, creators: number): ReadonlyArray<Group> => {
  const privileged = addedBy(draft, () => planPrivilegedRole(draft, spec, options))
  const invalid = planInvalidDatabases(draft)
  const roles = addedBy(draft, () => {
    planRoleRenames(draft, spec, options)
    planRoles(draft, spec, options)
  })
  const deltas = planDatabaseDeltas(draft, spec)
  const leaving = rolesToDrop(draft, spec, options)
  const template = planTemplate(draft, spec, options, leaving)
  const { altered, created } = planDatabases(draft, spec, options, template)
  const schema = addedBy(draft, () => planSchemaNeon(draft))
  const { outside, visits } = planVisits(draft, spec, options, leaving, template.copies)
  const references = planReferences(draft, spec, options, leaving)
  const subscriptions = planSubscriptionDrops(draft, spec)
  const system = addedBy(draft, () => {
    planOtherExtensions(draft, spec)
    planNeonExtension(draft)
    planAvailability(draft)
    planRoleDrops(draft, spec, options, references.ofRole)
    planSubscriptionsDone(draft, spec, subscriptions)
    planAudit(draft, spec)
  })
  const first = invalid.length === 0 ? [beside(joined([...privileged, ...roles]), template.creation)] : [
    joined(privileged),
    { tracks: invalid.map((one) => [alone(one)]), width: creators },
    beside(joined(roles), template.creation)
  ]
  return [
    ...first,
    { tracks: [...deltas, ...template.gone.map((one) => [alone(one)])], width: creators },
    beside(joined([...altered, ...schema]), template.visit),
    { tracks: databaseTracks(created, visits), width },
    joined(outside),
    // One database at a time: these touch shared rows (pg_shdepend, pg_subscription, privileges on databases).
    { tracks: inDatabases([...references.operations, ...subscriptions]), width: 1 },
    joined(system)
  ].filter(({ tracks }) => tracks.length > 0)
}

/** The operations to be done that a planner added. */
const addedBy = (draft: Draft, plan: () => void): ReadonlyArray<Operation> => {
  const before = draft.operations.length
  plan()
  return draft.operations.slice(before).filter(({ verdict }) => verdict._tag === "Do")
}

const joined = (operations: ReadonlyArray<Operation>): Group => ({
  tracks: operations.length === 0 ? [] : [[{ database: null, joined: true, operations }]],
  width: 1
})

/** One more track: making the template rests on none of the roles, and its visit on nothing outside of it. */
const beside = ({ tracks, width }: Group, track: Track): Group =>
  track.length === 0 ? { tracks, width } : { tracks: [...tracks, track], width: width + 1 }

const alone = (operation: Operation): Lane => ({ database: operation.database, joined: false, operations: [operation] })

/** A database is visited as soon as it is there, while others are still being made. */
const databaseTracks = (
  created: ReadonlyMap<string, Operation>,
  visits: ReadonlyMap<string, ReadonlyArray<Operation>>
): ReadonlyArray<Track> =>
  [...new Set([...created.keys(), ...visits.keys()])].map((name) => {
    const creation = created.get(name)
    const visit = visits.get(name)
    return [
      ...(creation === undefined ? [] : [alone(creation)]),
      ...(visit === undefined ? [] : [{ database: name, joined: true, operations: visit }])
    ]
  })

const inDatabases = (operations: ReadonlyArray<Operation>): ReadonlyArray<Track> =>
  [...Map.groupBy(operations, ({ database }) => database)].map(([database, those]) => [{ database, joined: true, operations: those }])

/** Nothing is to be done, and nothing was refused. */
export const isEmpty = (plan: ApplyPlan): boolean => plan.operations.every(({ verdict }) => verdict._tag === "Skip")
