/**
 * Where delta operations meet what the spec wants: which of them are to be done, decided by data alone.
 *
 * Deltas come again with every start on the same spec. The rules:
 *
 * - Deltas are done in their order. A name that the spec wants is given up only if a later rename fills it again, or
 *   if what has it goes on to another wanted name.
 * - A rename is done only if nothing is in its way to the end of its chain.
 * - A list is looked at once, and recorded as done. What has taken a name since then, made by the spec or by a user, is
 *   not what the list was about: a replay neither moves nor drops it.
 * - Without a record, nothing but the names says whether a list was done before, by a program that records nothing. One
 *   that such a replay would drop by is left alone.
 */
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

/** Begins the names of settings of our own role, one for each list that is recorded as done; its digest follows. */
export const doneDeltasSetting = "compute_ctl.done_deltas_"

export type Delta =
  | { readonly _tag: "Drop"; readonly name: string }
  | { readonly _tag: "Rename"; readonly name: string; readonly to: string }

/** `absent`: there is nothing of the old name, so it was done before or never could be. Otherwise why it is left. */
export type DeltaDecision = "do" | "absent" | { readonly because: string }

export const roleDeltas = (spec: ParsedSpec): ReadonlyArray<Delta> =>
  spec.deltas.flatMap((delta): ReadonlyArray<Delta> =>
    delta._tag === "DropRole"
      ? [{ _tag: "Drop", name: delta.name }]
      : delta._tag === "RenameRole"
        ? [{ _tag: "Rename", name: delta.name, to: delta.to }]
        : []
  )

export const databaseDeltas = (spec: ParsedSpec): ReadonlyArray<Delta> =>
  spec.deltas.flatMap((delta): ReadonlyArray<Delta> =>
    delta._tag === "DropDatabase"
      ? [{ _tag: "Drop", name: delta.name }]
      : delta._tag === "RenameDatabase"
        ? [{ _tag: "Rename", name: delta.name, to: delta.to }]
        : []
  )

export interface DeltaWorld {
  /** What the names are of. */
  readonly thing: "database" | "role"
  readonly exists: ReadonlySet<string>
  /** Nothing may leave this name empty. */
  readonly wanted: (name: string) => boolean
  /** The same apply makes it where it is not there. */
  readonly made: (name: string) => boolean
  /** Why this name is neither dropped nor renamed, nor a name to be given; `null`: it may be. */
  readonly kept: (name: string) => string | null
  /** Whether the list with this digest is recorded as done. */
  readonly recorded: (digest: string) => boolean
}

/** Deltas that share names with each other and with no other, in order. */
export interface DeltaChain {
  readonly deltas: ReadonlyArray<Delta>
  readonly decisions: ReadonlyArray<DeltaDecision>
  readonly digest: string
  /** Not recorded yet, and to be once it is done. */
  readonly records: boolean
}

/** Records are settings that every session of ours reads. Of more lists than these the names alone tell. */
const maxRecords = 100

export const decideDeltas = (deltas: ReadonlyArray<Delta>, world: DeltaWorld): ReadonlyArray<DeltaChain> =>
  chainsOf(deltas).map((chain, at) => {
    const digest = digestOf(world.thing, chain)
    const recorded = world.recorded(digest)
    const decisions = decideChain(chain, world, recorded)
    return { deltas: chain, digest, decisions, records: !recorded && at < maxRecords }
  })

/** Of all lists that the spec holds. */
export const deltaDigests = (spec: ParsedSpec): ReadonlySet<string> =>
  new Set([
    ...chainsOf(roleDeltas(spec)).map((chain) => digestOf("role", chain)),
    ...chainsOf(databaseDeltas(spec)).map((chain) => digestOf("database", chain))
  ])

const namesOf = (delta: Delta): ReadonlyArray<string> =>
  delta._tag === "Rename" ? [delta.name, delta.to] : [delta.name]

const chainsOf = (deltas: ReadonlyArray<Delta>): ReadonlyArray<ReadonlyArray<Delta>> => {
  const parents = new Map<string, string>()
  const rootOf = (name: string): string => {
    let root = name
    for (let parent = parents.get(root); parent !== undefined && parent !== root; parent = parents.get(root))
      root = parent
    return root
  }
  for (const delta of deltas) {
    const [first = "", ...rest] = namesOf(delta)
    for (const name of rest) parents.set(rootOf(name), rootOf(first))
  }
  return [...Map.groupBy(deltas, ({ name }) => rootOf(name)).values()]
}

const decideChain = (
  chain: ReadonlyArray<Delta>,
  world: DeltaWorld,
  recorded: boolean
): ReadonlyArray<DeltaDecision> => {
  const names = [...new Set(chain.flatMap(namesOf))]
  const { after, decisions } = runChain(chain, new Set(names.filter((name) => world.exists.has(name))), world)
  const leave = (because: string) => decisions.map((one) => (one === "do" ? { because } : one))
  if (recorded) return leave("it is recorded as done")
  if (!decisions.some((one, at) => one === "do" && chain[at]?._tag === "Drop")) return decisions
  const next = new Set(names.filter((name) => after.has(name) || world.made(name)))
  return runChain(chain, next, world).decisions.includes("do")
    ? leave("it would be done again with the next start, because the names that are wanted hide that it was done")
    : decisions
}

interface Run {
  readonly decisions: ReadonlyArray<DeltaDecision>
  readonly after: ReadonlySet<string>
}

const runChain = (chain: ReadonlyArray<Delta>, there: ReadonlySet<string>, world: DeltaWorld): Run => {
  const state = new Set(there)
  const origins = new Map([...there].map((name) => [name, name]))
  const decisions = chain.map((delta, at) => {
    const decision = decideOne(chain, at, state, world)
    if (decision === "do") {
      move(state, delta)
      const origin = origins.get(delta.name) ?? delta.name
      origins.delete(delta.name)
      if (delta._tag === "Rename") origins.set(delta.to, origin)
    }
    return decision
  })
  // What looked as if it would be filled again was not, for something else was left alone meanwhile.
  const goesOn = new Set([...origins].flatMap(([name, origin]) => (world.wanted(name) ? [origin] : [])))
  const lost = [...there].find((name) => world.wanted(name) && !state.has(name) && !goesOn.has(name))
  if (lost === undefined) return { decisions, after: state }
  const because = `the spec wants ${JSON.stringify(lost)}, which would be lost`
  return { decisions: decisions.map((one) => (one === "do" ? { because } : one)), after: there }
}

const move = (state: Set<string>, delta: Delta): void => {
  state.delete(delta.name)
  if (delta._tag === "Rename") state.add(delta.to)
}

const decideOne = (
  chain: ReadonlyArray<Delta>,
  at: number,
  state: ReadonlySet<string>,
  world: DeltaWorld
): DeltaDecision => {
  const delta = chain[at]
  if (delta === undefined || !state.has(delta.name)) return "absent"
  if (delta._tag === "Rename" && delta.to === delta.name) return "absent"
  const kept = namesOf(delta)
    .map(world.kept)
    .find((reason) => reason !== null)
  if (kept !== undefined && kept !== null) return { because: kept }
  if (delta._tag === "Rename" && state.has(delta.to)) return { because: `${JSON.stringify(delta.to)} exists already` }
  const { blockedBy, end, state: after } = lookAhead(chain, at, state)
  if (blockedBy !== null)
    return { because: `${JSON.stringify(blockedBy)}, where this rename would end, exists already` }
  if (!world.wanted(delta.name) || after.has(delta.name)) return "do"
  if (delta._tag === "Drop") return { because: `the spec wants this ${world.thing}` }
  return end !== null && world.wanted(end)
    ? "do"
    : { because: `the spec wants ${JSON.stringify(delta.name)} and does not want ${JSON.stringify(end ?? delta.to)}` }
}

interface Ahead {
  readonly state: ReadonlySet<string>
  /** The last name of what this rename moves; `null`: it is dropped later. */
  readonly end: string | null
  /** What keeps it from getting there. */
  readonly blockedBy: string | null
}

/** What would be there if this delta and all later ones were done as they are written. */
const lookAhead = (chain: ReadonlyArray<Delta>, at: number, there: ReadonlySet<string>): Ahead => {
  const state = new Set(there)
  let end: string | null = null
  let blockedBy: string | null = null
  for (const [index, delta] of chain.slice(at).entries()) {
    if (!state.has(delta.name)) continue
    const moved = index > 0 && delta.name === end
    if (delta._tag === "Rename" && state.has(delta.to)) {
      if (moved && delta.to !== delta.name) blockedBy = delta.to
      continue
    }
    move(state, delta)
    if (moved || index === 0) end = delta._tag === "Rename" ? delta.to : null
  }
  return { state, end, blockedBy }
}

/** FNV-1a of 64 bits: it tells lists apart and keeps no secret. */
const digestOf = (kind: DeltaWorld["thing"], chain: ReadonlyArray<Delta>): string => {
  const text = JSON.stringify([kind, chain.map((one) => [one.name, one._tag === "Rename" ? one.to : null])])
  let hash = 0xcbf29ce484222325n
  for (const byte of new TextEncoder().encode(text))
    hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn
  return hash.toString(16).padStart(16, "0")
}
