/**
 * Roles that a delta renames or drops (phases 3 and 11).
 *
 * A role is dropped last, when nothing depends on it any more. One whose name another role takes is renamed out of its
 * way before, to a name of ours; should the apply end in between, the next one drops it.
 */
import { quoteIdentifier } from "../pgwire/quote.ts"
import { faultOfRoleName, leavingRolePrefix } from "../spec/names.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { type ApplyOptions, isLeavingRole, isReservedRole } from "./Catalog.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import { databaseObject, operation, refuse, roleObject, skip, transactional } from "./operations.ts"
import { decideDeltas, type DeltaChain, roleDeltas } from "./planDeltas.ts"
import { forgetDeltas, recordDeltas } from "./planDeltaRecords.ts"
import { wantedRoles } from "./planRoles.ts"

export interface PlannedRoleDeltas {
  /** By the names that they have once the renames are done. */
  readonly dropped: ReadonlyArray<string>
  /** For the report: roles that a delta names and that stay, with the reason. */
  readonly stay: ReadonlyArray<readonly [name: string, because: string]>
  /** Lists that are done when these roles are dropped, too; `renames` are operations. */
  readonly unrecorded: ReadonlyArray<{
    readonly chain: DeltaChain
    readonly renames: ReadonlyArray<string>
    readonly dropped: ReadonlyArray<string>
  }>
}

const chainsOf = (draft: Draft, spec: ParsedSpec, options: ApplyOptions): ReadonlyArray<DeltaChain> => {
  const wanted = wantedRoles(spec)
  return decideDeltas(roleDeltas(spec), {
    thing: "role",
    exists: new Set(draft.roles.keys()),
    wanted: (name) => wanted.has(name) || ownedBy(spec, name) !== undefined,
    made: (name) => wanted.has(name),
    kept: (name) => (isReservedRole(name, options) ? "the name is reserved" : null),
    recorded: (digest) => draft.doneDeltas.has(digest)
  })
}

export const planRoleDeltas = (draft: Draft, spec: ParsedSpec, options: ApplyOptions): PlannedRoleDeltas => {
  const left = [...draft.roles.keys()].filter(isLeavingRole)
  const dropped: Array<string> = [...left]
  const stay: Array<readonly [string, string]> = []
  const unrecorded: Array<PlannedRoleDeltas["unrecorded"][number]> = []
  for (const chain of chainsOf(draft, spec, options)) {
    const drops: Array<string> = []
    let refused = false
    const ids = chain.deltas.flatMap((delta, at) => {
      const decision = chain.decisions[at] ?? "absent"
      if (delta._tag === "Rename") {
        const renames = planRename(draft, delta.name, delta.to, decision)
        refused ||= decision === "do" && renames.length === 0
        return renames
      }
      if (decision === "absent") return []
      if (decision !== "do") {
        refused ||= ownerOnly(spec, delta.name) !== undefined
        stay.push([delta.name, decision.because])
        return []
      }
      const taken = chain.deltas.some(
        (later, index) =>
          index > at && later._tag === "Rename" && later.to === delta.name && chain.decisions[index] === "do"
      )
      const name = taken ? freeName(draft) : delta.name
      drops.push(name)
      return taken ? renameRole(draft, delta.name, name, "another role takes its name, and then it is dropped") : []
    })
    dropped.push(...drops)
    // All that was to be done is refused: it is, until somebody corrects it.
    if (!chain.records || (refused && ids.length + drops.length === 0)) continue
    if (drops.length > 0) unrecorded.push({ chain, renames: ids, dropped: drops })
    else recordDeltas(draft, options, chain, "RenameRoles", ids)
  }
  forgetDeltas(draft, options, spec)
  return { dropped: [...new Set(dropped)].filter((name) => draft.roles.has(name)), stay, unrecorded }
}

const freeName = (draft: Draft): string => {
  let number = 1
  while (draft.roles.has(`${leavingRolePrefix}${number}`)) number++
  return `${leavingRolePrefix}${number}`
}

const planRename = (
  draft: Draft,
  name: string,
  to: string,
  decision: DeltaChain["decisions"][number]
): ReadonlyArray<string> => {
  if (decision === "absent") return []
  const about = {
    phase: "RenameRoles",
    object: roleObject(name),
    action: `rename to ${JSON.stringify(to)}`,
    because: "a delta says so"
  } as const
  if (decision !== "do") {
    add(draft, operation({ ...about, decision: skip(decision.because) }))
    return []
  }
  const bad = faultOfRoleName(to)
  if (bad === null) return renameRole(draft, name, to, "a delta says so")
  add(draft, operation({ ...about, decision: refuse(bad, "correct the delta") }))
  return []
}

const renameRole = (draft: Draft, name: string, to: string, because: string): ReadonlyArray<string> => {
  const renamed = add(
    draft,
    transactional({
      phase: "RenameRoles",
      object: roleObject(name),
      action: `rename to ${JSON.stringify(to)}`,
      because,
      after: makersOf(draft, roleObject(name), roleObject(to)),
      sql: [`ALTER ROLE ${quoteIdentifier(name)} RENAME TO ${quoteIdentifier(to)}`],
      change: { _tag: "RenameRole", name, to }
    })
  )
  return [renamed.id]
}

const ownedBy = (spec: ParsedSpec, name: string) => spec.databases.find((database) => database.owner === name)

/** A database that has this owner by a spec that does not want the role. */
const ownerOnly = (spec: ParsedSpec, name: string) => (wantedRoles(spec).has(name) ? undefined : ownedBy(spec, name))

/** `references` are, by role, the operations that reassign and drop what depends on it. */
export const planRoleDrops = (
  draft: Draft,
  spec: ParsedSpec,
  options: ApplyOptions,
  { dropped, stay, unrecorded }: PlannedRoleDeltas,
  references: ReadonlyMap<string, ReadonlyArray<string>>
): void => {
  const about = (name: string) =>
    ({ phase: "DropRoles", object: roleObject(name), action: "drop", because: "a delta says so" }) as const
  for (const [name, because] of stay) {
    const owned = ownerOnly(spec, name)
    const decision =
      owned === undefined
        ? skip(because)
        : refuse(`the spec makes it the owner of ${databaseObject(owned.name)}`, "give the database another owner")
    add(draft, operation({ ...about(name), decision }))
  }
  const drops = new Map<string, string>()
  for (const name of dropped) {
    const { id } = add(
      draft,
      transactional({
        ...about(name),
        after: [...(references.get(name) ?? []), ...makersOf(draft, roleObject(name))],
        sql: [`DROP ROLE IF EXISTS ${quoteIdentifier(name)}`],
        change: { _tag: "DropRole", name }
      })
    )
    drops.set(name, id)
  }
  for (const { chain, dropped: names, renames } of unrecorded) {
    const done = names.flatMap((name) => drops.get(name) ?? [])
    recordDeltas(draft, options, chain, "DropRoles", [...renames, ...done])
  }
}
