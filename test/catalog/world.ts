/**
 * Random worlds for the oracle: specs with deltas as JSON, and what a cluster has to look like after each, kept by a
 * model that knows nothing of the planner. Private to the tests of this folder.
 */

interface Attributes {
  readonly inherit: boolean
  readonly createRole: boolean
  readonly createDatabase: boolean
  readonly login: boolean
  readonly replication: boolean
  readonly bypassRls: boolean
  readonly limit: number
  readonly until: string | null
  readonly verifier: string | null
}

interface ModelRole extends Attributes {
  /** Which role it is, whatever its name. */
  readonly id: number
}

interface ModelDatabase {
  readonly id: number
  readonly owner: string
  readonly limit: number
  readonly open: boolean
  readonly template: boolean
}

type Wire = { readonly [key: string]: unknown }
type Delta = readonly [action: string, name: string, to?: string]

export interface World {
  readonly roles: Map<string, ModelRole>
  readonly databases: Map<string, ModelDatabase>
  /** `[role, member]` as JSON, and whether with admin option. */
  readonly members: Map<string, boolean>
  /**
   * Before Postgres 15 the schema public is its database's owner's by name, and while a database is closed nobody can
   * give it to another: that owner cannot be dropped, and is refused. So there none is closed.
   */
  readonly closes: boolean
}

export const emptyWorld = (major: number): World => ({
  roles: new Map(),
  databases: new Map(),
  members: new Map(),
  closes: major >= 15
})

export type Roll = (sides: number) => number

/** Mulberry32: the same numbers for the same seed. */
export const rollOf = (seed: number): Roll => {
  let state = seed >>> 0
  return (sides) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % sides
  }
}

const privileged = "neon_superuser"
const suffixes = ["a", "b'", 'c"$x$', "d e", "\u00fc\\", "F"]
const times: ReadonlyArray<readonly [text: string, epoch: string]> = [
  ["2030-01-01 00:00:00+00", "1893456000"],
  ["2020-06-01T12:00:00Z", "1591012800"],
  ["infinity", "Infinity"]
]
const limits: ReadonlyArray<readonly [text: string, value: number]> = [
  ["1_000", 1000],
  ["5", 5],
  ["0x10", 16],
  ["-1", -1]
]
const flags: ReadonlyArray<readonly [word: string, key: keyof Attributes]> = [
  ["INHERIT", "inherit"],
  ["CREATEROLE", "createRole"],
  ["CREATEDB", "createDatabase"],
  ["LOGIN", "login"],
  ["REPLICATION", "replication"],
  ["BYPASSRLS", "bypassRls"]
]

const verifierOf = (roll: Roll): string => {
  const key = () => Buffer.from(Array.from({ length: 32 }, () => roll(256))).toString("base64")
  return roll(2) === 0
    ? `SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2E=$${key()}:${key()}`
    : Buffer.from(Array.from({ length: 16 }, () => roll(256))).toString("hex")
}

const quote = (name: string): string => `"${name.replaceAll('"', '""')}"`

let ids = 0

/** Changes the world to what it has to be after the spec that is the answer. */
export const step = (world: World, seed: number, roll: Roll, last: boolean): Wire => {
  const nameOf = (): string => `s${seed}_${suffixes[roll(suffixes.length)]}${roll(3)}`
  const pick = <A>(all: ReadonlyArray<A>): A | undefined => all[roll(Math.max(1, all.length))]
  const deltas: Array<Delta> = []
  const wantedRoles = new Set<string>()
  const wantedDatabases = new Set<string>()
  deltaRoles(world, roll, nameOf, deltas, wantedRoles, last)
  deltaDatabases(world, roll, nameOf, deltas, wantedDatabases, last)
  // Noise that is about nothing.
  if (roll(2) === 0) deltas.push(["rename_db", `s${seed}_none`, `s${seed}_no`], ["delete_role", `s${seed}_nobody`])
  if (!last) for (let more = roll(3) + 1; more > 0; more--) wantedRoles.add(nameOf())
  const named = new Set(
    deltas.filter(([action]) => action.endsWith("role")).flatMap(([, name, to]) => [name, to ?? ""])
  )
  const free = [...wantedRoles].filter((name) => world.roles.has(name) || !named.has(name))
  const roles = free.map((name) => wishRole(world, roll, name, free))
  const owners = [...free]
  if (!last && owners.length > 0) for (let more = roll(2); more > 0; more--) wantedDatabases.add(nameOf())
  // Whoever owns a database has to stay, and so has the database's wish.
  const touched = new Set(
    deltas.filter(([action]) => action.endsWith("db")).flatMap(([, name, to]) => [name, to ?? ""])
  )
  const databases = [...wantedDatabases]
    .filter((name) => (world.databases.has(name) || !touched.has(name)) && owners.length > 0)
    .map((name) => wishDatabase(world, roll, name, pick(owners) ?? ""))
  return {
    format_version: 1,
    cluster: { roles, databases, settings: [{ name: "max_connections", value: "100", vartype: "integer" }] },
    delta_operations: deltas.map(([action, name, to]) => ({
      action,
      name,
      ...(to === undefined ? {} : { new_name: to })
    }))
  }
}

const renameRole = (world: World, from: string, to: string): void => {
  const role = world.roles.get(from)
  if (role === undefined) throw new Error(`the model has no role ${from}`)
  world.roles.delete(from)
  // Postgres forgets an md5 verifier on a rename.
  world.roles.set(to, { ...role, verifier: role.verifier?.startsWith("md5") === true ? null : role.verifier })
  for (const [name, one] of world.databases) if (one.owner === from) world.databases.set(name, { ...one, owner: to })
  for (const [key, admin] of Array.from(world.members)) {
    const pair = (JSON.parse(key) as ReadonlyArray<string>).map((name) => (name === from ? to : name))
    world.members.delete(key)
    world.members.set(JSON.stringify(pair), admin)
  }
}

const dropRole = (world: World, name: string): void => {
  world.roles.delete(name)
  for (const [database, one] of world.databases)
    if (one.owner === name) world.databases.set(database, { ...one, owner: "cloud_admin" })
  for (const key of world.members.keys()) if (JSON.parse(key).includes(name)) world.members.delete(key)
}

const deltaRoles = (
  world: World,
  roll: Roll,
  nameOf: () => string,
  deltas: Array<Delta>,
  wanted: Set<string>,
  last: boolean
): void => {
  const all = [...world.roles.keys()]
  if (last) {
    for (const name of all) {
      deltas.push(["delete_role", name])
      dropRole(world, name)
    }
    return
  }
  for (let at = 0; at < all.length; at++) {
    const [one = "", other = ""] = [all[at], all[at + 1]]
    const fresh = nameOf()
    const isFree = !world.roles.has(fresh) && !all.includes(fresh) && !wanted.has(fresh)
    switch (roll(6)) {
      case 0:
        wanted.add(one)
        break
      case 1:
        deltas.push(["delete_role", one])
        dropRole(world, one)
        break
      case 2:
        if (!isFree) break
        deltas.push(["rename_role", one, fresh])
        renameRole(world, one, fresh)
        wanted.add(fresh)
        break
      case 3:
        if (other === "") break
        // `other` makes room, and `one` takes its name.
        deltas.push(["delete_role", other], ["rename_role", one, other])
        dropRole(world, other)
        renameRole(world, one, other)
        wanted.add(other)
        at++
        break
      case 4:
        if (other === "" || !isFree) break
        deltas.push(["rename_role", one, fresh], ["rename_role", other, one], ["rename_role", fresh, other])
        renameRole(world, one, fresh)
        renameRole(world, other, one)
        renameRole(world, fresh, other)
        wanted.add(one).add(other)
        at++
    }
  }
}

const renameDatabase = (world: World, from: string, to: string): void => {
  const database = world.databases.get(from)
  if (database === undefined) throw new Error(`the model has no database ${from}`)
  world.databases.delete(from)
  world.databases.set(to, database)
}

const deltaDatabases = (
  world: World,
  roll: Roll,
  nameOf: () => string,
  deltas: Array<Delta>,
  wanted: Set<string>,
  last: boolean
): void => {
  const all = [...world.databases.keys()]
  if (last) {
    for (const name of all) deltas.push(["delete_db", name])
    world.databases.clear()
    return
  }
  for (let at = 0; at < all.length; at++) {
    const [one = "", other = ""] = [all[at], all[at + 1]]
    const fresh = nameOf()
    const isFree = !world.databases.has(fresh) && !all.includes(fresh) && !wanted.has(fresh)
    switch (roll(5)) {
      case 0:
        wanted.add(one)
        break
      case 1:
        deltas.push(["delete_db", one])
        world.databases.delete(one)
        break
      case 2:
        if (!isFree) break
        deltas.push(["rename_db", one, fresh])
        renameDatabase(world, one, fresh)
        wanted.add(fresh)
        break
      case 3:
        if (other === "") break
        deltas.push(["delete_db", other], ["rename_db", one, other])
        world.databases.delete(other)
        renameDatabase(world, one, other)
        wanted.add(other)
        at++
        break
      case 4:
        if (other === "" || !isFree) break
        deltas.push(["rename_db", one, fresh], ["rename_db", other, one], ["rename_db", fresh, other])
        renameDatabase(world, one, fresh)
        renameDatabase(world, other, one)
        renameDatabase(world, fresh, other)
        wanted.add(one).add(other)
        at++
    }
  }
}

const wishRole = (world: World, roll: Roll, name: string, all: ReadonlyArray<string>): Wire => {
  const options: Array<Wire> = []
  const member = (role: string, of: string, admin: boolean) => {
    const key = JSON.stringify([role, of])
    world.members.set(key, admin || world.members.get(key) === true)
  }
  const wish = [undefined, undefined, true, false][roll(4)]
  const known = world.roles.get(name)
  const usual = wish !== false
  let role: ModelRole = known ?? {
    id: ++ids,
    inherit: true,
    createRole: usual,
    createDatabase: usual,
    login: true,
    replication: usual,
    bypassRls: usual,
    limit: -1,
    until: null,
    verifier: null
  }
  if (wish === true || (known === undefined && usual)) member(privileged, name, false)
  if (wish === false) world.members.delete(JSON.stringify([privileged, name]))
  role = { ...role, login: true }
  for (const [word, key] of flags) {
    if (roll(5) > 0) continue
    const on = roll(2) === 0
    options.push({ name: `${on ? "" : "NO"}${word}`, vartype: "bool" })
    role = { ...role, [key]: on }
  }
  if (roll(3) === 0) {
    const [value, limit] = limits[roll(limits.length)] ?? ["-1", -1]
    options.push({ name: "CONNECTION LIMIT", value, vartype: "integer" })
    role = { ...role, limit }
  }
  if (roll(3) === 0) {
    const [value, until] = times[roll(times.length)] ?? ["infinity", "Infinity"]
    options.push({ name: "valid until", value, vartype: "string" })
    role = { ...role, until }
  }
  // Only in one direction, so that nobody becomes a member of a member.
  const others = all.filter((one) => one < name && !reaches(world, one, name))
  const group = others[roll(Math.max(1, others.length))]
  if (group !== undefined && roll(3) === 0) {
    options.push({ name: "IN ROLE", value: quote(group), vartype: "name" })
    member(group, name, false)
  }
  const password = roll(3)
  const verifier = password === 0 ? null : verifierOf(roll)
  if (password < 2) role = { ...role, verifier: verifier?.replace(/^(?=[0-9a-f]{32}$)/, "md5") ?? null }
  world.roles.set(name, role)
  return {
    name,
    ...(password < 2 ? { encrypted_password: verifier } : {}),
    ...(wish === undefined ? {} : { privileged: wish }),
    options
  }
}

/** Whether `role` is a member of `group`, over others too: then the group cannot become one of the role. */
const reaches = (world: World, role: string, group: string): boolean =>
  [...world.members.keys()].some((key) => {
    const [of = "", member = ""] = JSON.parse(key) as ReadonlyArray<string>
    return member === role && (of === group || reaches(world, of, group))
  })

const wishDatabase = (world: World, roll: Roll, name: string, owner: string): Wire => {
  const options: Array<Wire> = []
  let database: ModelDatabase = world.databases.get(name) ?? {
    id: ++ids,
    owner,
    limit: -1,
    open: true,
    template: false
  }
  database = { ...database, owner }
  if (roll(2) === 0) {
    const [value, limit] = limits[roll(limits.length)] ?? ["-1", -1]
    options.push({ name: "CONNECTION LIMIT", value, vartype: "integer" })
    database = { ...database, limit }
  }
  if ((roll(4) === 0 || !database.open) && world.closes) {
    // One that was closed is opened again, so that roles can leave it.
    const open = !database.open
    options.push({ name: "ALLOW_CONNECTIONS", value: String(open), vartype: "bool" })
    database = { ...database, open }
  }
  if (roll(5) === 0) {
    const template = roll(2) === 0
    options.push({ name: "IS_TEMPLATE", value: template ? "on" : "off", vartype: "bool" })
    database = { ...database, template }
  }
  world.databases.set(name, database)
  return { name, owner, options }
}
