/**
 * What an apply would change, attribute by attribute: the catalog as it is beside the catalog as the plan would leave
 * it.
 *
 * Complete by what it compares: a plan decides on nothing but the catalog, and every operation changes a copy of that.
 * Verifiers are shown by their kind alone.
 */
import * as DateTime from "effect/DateTime"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { templateDatabase } from "../pgwire/ownSessions.ts"
import type { Catalog, ObservedDatabase, ObservedRole } from "./Catalog.ts"
import { type ApplyPlan, databaseObject, type Operation, roleObject } from "./operations.ts"
import { bareRole, isMd5 } from "./roleAttributes.ts"

type Value = string | number | boolean | null

export interface Difference {
  /** By the name that it would have, such as `role "web"`. */
  readonly object: string
  readonly attribute: string
  /** `null`: none, or nothing is known of it. */
  readonly from: Value
  readonly to: Value
  /** Why it stays as it is; `null`: the apply would change it. */
  readonly refused: string | null
}

/** In the order of roles, databases, and what is in the system database; what is refused comes last. */
export const differencesOf = ({ after, before, operations }: ApplyPlan): ReadonlyArray<Difference> => {
  const roles = originsOf(before.roles, operations, "role")
  const databases = originsOf(before.databases, operations, "database")
  return [
    ...[...objectsOf(before.roles, after.roles, roles)].flatMap((pair) => roleDifferences(pair)),
    ...membershipDifferences(before, after, roles),
    ...[...objectsOf(before.databases, after.databases, databases)]
      .filter((pair) => pair.before !== undefined || pair.after?.name !== templateDatabase)
      .flatMap((pair) => databaseDifferences(pair)),
    ...systemDifferences(before, after),
    ...operations.flatMap(refusalOf)
  ]
}

/** What the object with a name at the end was called at the beginning. A new one is not there. */
const originsOf = (
  names: ReadonlyMap<string, unknown>,
  operations: ReadonlyArray<Operation>,
  kind: "role" | "database"
): ReadonlyMap<string, string> => {
  const origins = new Map([...names.keys()].map((name) => [name, name]))
  for (const { change, decision } of operations) {
    if (decision._tag !== "Do") continue
    const renames = kind === "role" ? change._tag === "RenameRole" : change._tag === "RenameDatabase"
    const drops = kind === "role" ? change._tag === "DropRole" : change._tag === "DropDatabase"
    if ((!renames && !drops) || !("name" in change)) continue
    const origin = origins.get(change.name)
    origins.delete(change.name)
    if (renames && "to" in change && typeof change.to === "string" && origin !== undefined)
      origins.set(change.to, origin)
  }
  return origins
}

interface Pair<A> {
  /** At the end; `undefined`: it is dropped. */
  readonly after: A | undefined
  /** At the beginning; `undefined`: it is made. */
  readonly before: A | undefined
}

function* objectsOf<A>(
  before: ReadonlyMap<string, A>,
  after: ReadonlyMap<string, A>,
  origins: ReadonlyMap<string, string>
): Iterable<Pair<A>> {
  const kept = new Set(origins.values())
  for (const [name, now] of before) if (!kept.has(name)) yield { before: now, after: undefined }
  for (const [name, then] of after) yield { before: before.get(origins.get(name) ?? ""), after: then }
}

type Attributes = Readonly<Record<string, Value>>

const differing = (object: string, now: Attributes, then: Attributes): ReadonlyArray<Difference> =>
  Object.entries(then).flatMap(([attribute, to]) => {
    const from = now[attribute] ?? null
    return from === to ? [] : [{ object, attribute, from, to, refused: null }]
  })

const exists = (object: string, there: boolean): Difference => ({
  object,
  attribute: "exists",
  from: !there,
  to: there,
  refused: null
})

/** A verifier by its kind. Another one of the same kind is another one. */
const passwordOf = ({ verifier }: ObservedRole, before?: ObservedRole): Value => {
  if (verifier === null) return null
  if (verifier === "unseen") return "one that cannot be read"
  const kind = isMd5(verifier) ? "md5" : "SCRAM-SHA-256"
  const old = before?.verifier
  const another = old != null && old !== "unseen" && Redacted.value(old) !== Redacted.value(verifier)
  return another && isMd5(old) === isMd5(verifier) ? `another ${kind}` : kind
}

const timeOf = (epoch: string | null): Value => {
  if (epoch === null) return null
  if (epoch === "Infinity" || epoch === "-Infinity") return epoch.toLowerCase()
  const millis = Number(epoch) * 1000
  // Postgres knows times that nothing else here does.
  return Option.match(DateTime.make(millis), { onNone: () => epoch, onSome: DateTime.formatIso })
}

const roleAttributes = (role: ObservedRole, before?: ObservedRole): Attributes => ({
  name: role.name,
  password: passwordOf(role, before),
  "valid until": timeOf(role.validUntil),
  login: role.login,
  superuser: role.superuser,
  inherit: role.inherit,
  "create role": role.createRole,
  "create database": role.createDatabase,
  replication: role.replication,
  "bypass row security": role.bypassRls,
  "connection limit": role.connectionLimit
})

/** Of what is made: how it differs from what Postgres would make without being told. */
const roleDifferences = ({ after: then, before: now }: Pair<ObservedRole>): ReadonlyArray<Difference> => {
  if (then === undefined) return now === undefined ? [] : [exists(roleObject(now.name), false)]
  const object = roleObject(then.name)
  if (now !== undefined) return differing(object, roleAttributes(now), roleAttributes(then, now))
  const plain = roleAttributes({ ...bareRole(then.name), login: false })
  return [exists(object, true), ...differing(object, plain, roleAttributes(then))]
}

const membershipDifferences = (
  before: Catalog,
  after: Catalog,
  origins: ReadonlyMap<string, string>
): ReadonlyArray<Difference> => {
  const renamed = new Map([...origins].map(([name, origin]) => [origin, name]))
  const kinds = ({ memberships }: Catalog, nameOf: (name: string) => string | undefined) => {
    const all = new Map<string, Attributes>()
    for (const { admin, member, role } of memberships) {
      const [group, name] = [nameOf(role), nameOf(member)]
      if (group === undefined || name === undefined) continue
      const attribute = `member of ${JSON.stringify(group)}`
      const others = all.get(name) ?? {}
      if (others[attribute] !== "with admin option")
        all.set(name, { ...others, [attribute]: admin ? "with admin option" : "yes" })
    }
    return all
  }
  const then = kinds(after, (name) => name)
  const now = kinds(before, (name) => renamed.get(name))
  return [...new Set([...then.keys(), ...now.keys()])].flatMap((name) => {
    const left = Object.keys(now.get(name) ?? {}).map((attribute): [string, Value] => [attribute, null])
    return differing(roleObject(name), now.get(name) ?? {}, { ...Object.fromEntries(left), ...then.get(name) })
  })
}

/** What the record says, which is JSON. */
const visitOf = ({ visited }: ObservedDatabase): Value =>
  visited === null ? null : visited.intact ? visited.applied : `${visited.applied}, changed since`

const databaseAttributes = (database: ObservedDatabase): Attributes => ({
  name: database.name,
  owner: database.owner,
  "connection limit": database.connectionLimit,
  "allows connections": database.allowsConnections,
  "is a template": database.template,
  tablespace: database.tablespace,
  "privileges of the privileged role": database.granted,
  "last visit": visitOf(database),
  subscriptions: database.subscriptions,
  "audit turned off": database.auditLogOff
})

const plainDatabase: Attributes = {
  "connection limit": -1,
  "allows connections": true,
  "is a template": false,
  tablespace: "pg_default",
  "privileges of the privileged role": false,
  subscriptions: false,
  "audit turned off": false
}

const databaseDifferences = ({ after: then, before: now }: Pair<ObservedDatabase>): ReadonlyArray<Difference> => {
  if (then === undefined) return now === undefined ? [] : [exists(databaseObject(now.name), false)]
  const object = databaseObject(then.name)
  if (now !== undefined) return differing(object, databaseAttributes(now), databaseAttributes(then))
  return [exists(object, true), ...differing(object, { ...plainDatabase, name: then.name }, databaseAttributes(then))]
}

const systemDifferences = (before: Catalog, after: Catalog): ReadonlyArray<Difference> => [
  ...[...after.extensions].flatMap(([name, { installed }]) => {
    const attributes = (one: typeof installed): Attributes =>
      one === null ? {} : { version: one.version, schema: one.schema, "can be moved": one.relocatable }
    return differing(
      `extension ${name}`,
      attributes(before.extensions.get(name)?.installed ?? null),
      attributes(installed)
    )
  }),
  ...[...after.schemas].filter((name) => !before.schemas.has(name)).map((name) => exists(`schema ${name}`, true)),
  ...(after.healthCheck && !before.healthCheck ? [exists("table public.health_check", true)] : []),
  ...differing(
    "subscriptions of this timeline",
    { dropped: before.subscriptionsDropped },
    { dropped: after.subscriptionsDropped }
  ),
  ...[...new Set([...before.doneDeltas, ...after.doneDeltas])].flatMap((digest) =>
    differing(
      `delta operations ${digest}`,
      { "recorded as done": before.doneDeltas.has(digest) },
      { "recorded as done": after.doneDeltas.has(digest) }
    )
  )
]

const refusalOf = ({ action, decision, differs, object }: Operation): ReadonlyArray<Difference> => {
  if (decision._tag === "Do" || (decision._tag === "Skip" && differs === null)) return []
  return [{ object, attribute: action, from: null, to: null, ...differs, refused: decision.reason }]
}

const print = (value: Value): string => (value === null ? "none" : JSON.stringify(value))

const printDifference = ({ attribute, from, refused, to }: Difference): string => {
  const change = from === null && to === null ? attribute : `${attribute}: ${print(from)} -> ${print(to)}`
  return refused === null ? `    ${change}` : `  ! ${change} (stays: ${refused})`
}

/** Empty when nothing differs. */
export const printDifferences = (differences: ReadonlyArray<Difference>): string =>
  [...Map.groupBy(differences, ({ object }) => object)]
    .map(([object, ofObject]) => [object, ...ofObject.map(printDifference)].join("\n"))
    .join("\n")
