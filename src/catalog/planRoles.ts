/**
 * Roles: the privileged one, renames, those the spec wants, and those a delta drops (phases 1, 3, 4 and 11).
 *
 * Reserved roles are left alone, but for one thing: a verifier that the spec gives for the superuser is set.
 */
import * as Redacted from "effect/Redacted"
import { quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import { faultOfName } from "../spec/ComputeSpec.ts"
import type { ParsedSpec, Role } from "../spec/ParsedSpec.ts"
import { faultOfOption } from "./options.ts"
import { type ApplyOptions, isReservedRole, type ObservedRole } from "./Catalog.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import {
  databaseObject,
  type Joined,
  operation,
  refuse,
  roleObject,
  skip,
  type Statement,
  statement,
  transactional,
  type Decision
} from "./operations.ts"
import { decideRename } from "./renames.ts"
import { wantedDatabases } from "./planDatabases.ts"
import {
  attributesText,
  bareRole,
  newRole,
  newRoleText,
  hasUnseenOptions,
  isVerifier,
  sameAttributes,
  sameVerifier,
  wantedRole
} from "./roleAttributes.ts"

/** The last of a name counts. */
const wantedRoles = (spec: ParsedSpec): ReadonlyMap<string, Role> =>
  new Map(spec.roles.map((role) => [role.name, role]))

export const planPrivilegedRole = (draft: Draft, spec: ParsedSpec, options: ApplyOptions): void => {
  const name = options.privilegedRole
  if (draft.roles.has(name)) return
  const quoted = quoteIdentifier(name)
  const created = add(
    draft,
    transactional({
      phase: "CreatePrivilegedRole",
      object: roleObject(name),
      action: "create",
      because: "the privileged role does not exist",
      sql: [
        `CREATE ROLE ${quoted} CREATEDB CREATEROLE NOLOGIN REPLICATION BYPASSRLS ` +
          "IN ROLE pg_read_all_data, pg_write_all_data"
      ],
      change: { _tag: "PutRole", role: { ...newRole(name), login: false } }
    })
  )
  const about = {
    phase: "CreatePrivilegedRole",
    because: "it is older than the privileged role",
    after: [created.id]
  } as const
  for (const role of wantedRoles(spec).keys()) {
    const known = draft.roles.get(role)
    if (known === undefined || isReservedRole(role, options) || spec.jwksRoles.has(role)) continue
    const alter = `ALTER ROLE ${quoteIdentifier(role)} CREATEROLE CREATEDB`
    add(
      draft,
      operation({
        ...about,
        object: roleObject(role),
        action: "make a member of the privileged role",
        statements: [statement(`${alter}; GRANT ${quoted} TO ${quoteIdentifier(role)}`)],
        joined: { statements: [alter], member: role },
        change: { _tag: "PutRole", role: { ...known, createRole: true, createDatabase: true } }
      })
    )
  }
  for (const database of wantedDatabases(spec).keys()) {
    if (draft.databases.get(database)?.invalid !== false) continue
    add(
      draft,
      operation({
        ...about,
        object: databaseObject(database),
        action: "grant to the privileged role",
        statements: [statement(`GRANT ALL PRIVILEGES ON DATABASE ${quoteIdentifier(database)} TO ${quoted}`)],
        joined: { statements: [], granted: database },
        change: { _tag: "GrantDatabase", name: database }
      })
    )
  }
}

export const planRoleRenames = (draft: Draft, spec: ParsedSpec, options: ApplyOptions): void => {
  const wanted = wantedRoles(spec)
  const renames = spec.deltas.filter((delta) => delta._tag === "RenameRole")
  for (const [index, { name, to }] of renames.entries()) {
    const decision = decideRename(
      renames,
      index,
      (role) => draft.roles.has(role),
      (role) => wanted.has(role)
    )
    if (decision === "absent") continue
    const action = `rename to ${JSON.stringify(to)}`
    const about = { phase: "RenameRoles", object: roleObject(name), action, because: "a delta says so" } as const
    const fault = faultOfName(to)
    if (isReservedRole(name, options) || isReservedRole(to, options)) {
      add(draft, operation({ ...about, decision: skip("the name is reserved") }))
    } else if (fault !== null) {
      add(draft, operation({ ...about, decision: refuse(fault, "correct the delta") }))
    } else if (decision !== "todo") {
      add(draft, operation({ ...about, decision: skip(decision.because) }))
    } else {
      add(
        draft,
        transactional({
          ...about,
          after: makersOf(draft, roleObject(name)),
          sql: [`ALTER ROLE ${quoteIdentifier(name)} RENAME TO ${quoteIdentifier(to)}`],
          change: { _tag: "RenameRole", name, to }
        })
      )
    }
  }
}

export const planRoles = (draft: Draft, spec: ParsedSpec, options: ApplyOptions): void => {
  for (const role of wantedRoles(spec).values()) {
    const known = draft.roles.get(role.name)
    if (isReservedRole(role.name, options)) planReserved(draft, role, known, options)
    else if (known === undefined) planNewRole(draft, role, spec.jwksRoles.has(role.name), options)
    else planKnownRole(draft, role, known)
  }
}

const faultOfRole = (role: Role): Decision => {
  const name = faultOfName(role.name)
  if (name !== null) return refuse(name, "choose another name")
  for (const option of role.options) {
    const fault = faultOfOption(option)
    if (fault !== null) return refuse(fault, "correct the role's options")
  }
  return role.password._tag === "Verifier" && !isVerifier(role.password.verifier)
    ? refuse(
        "the password is neither a SCRAM-SHA-256 nor an md5 verifier",
        "send a verifier, never a password in the clear"
      )
    : { _tag: "Do" }
}

/** ` PASSWORD '...'` as sent, and as shown. */
const passwordText = (role: Role): { readonly sent: string; readonly shown: string } => {
  switch (role.password._tag) {
    case "Unmanaged":
      return { sent: "", shown: "" }
    case "None":
      return { sent: " PASSWORD NULL", shown: " PASSWORD NULL" }
    case "Verifier":
      return {
        sent: ` PASSWORD ${quoteLiteral(Redacted.value(role.password.verifier))}`,
        shown: " PASSWORD '<redacted>'"
      }
  }
}

/**
 * All options of a role, with a leading blank (golden strings of docs/reference/compute_ctl.md#quoting). Holds the
 * verifier.
 */
export const roleOptionsText = (role: Role): string => `${attributesText(role.options)}${passwordText(role).sent}`

const withPassword = (head: string, role: Role): Statement => {
  const { sent, shown } = passwordText(role)
  return sent === shown
    ? statement(`${head}${sent}`)
    : { shown: `${head}${shown}`, secret: Redacted.make(`${head}${sent}`, { label: "statement" }) }
}

const joinedVerifier = (role: Role): Pick<Joined, "verifier"> => {
  switch (role.password._tag) {
    case "Unmanaged":
      return {}
    case "None":
      return { verifier: { role: role.name, verifier: null } }
    case "Verifier":
      return { verifier: { role: role.name, verifier: role.password.verifier } }
  }
}

const wantedVerifier = (role: Role, known: ObservedRole): ObservedRole["verifier"] =>
  role.password._tag === "Unmanaged" ? known.verifier : role.password._tag === "None" ? null : role.password.verifier

const planNewRole = (draft: Draft, role: Role, jwks: boolean, options: ApplyOptions): void => {
  const quoted = quoteIdentifier(role.name)
  const decision = faultOfRole(role)
  const attributes = jwks ? "" : newRoleText(role.options)
  const membership = jwks ? "" : ` IN ROLE ${quoteIdentifier(options.privilegedRole)}`
  const known = jwks ? bareRole(role.name) : newRole(role.name)
  const described = decision._tag === "Do" ? attributesText(role.options) : ""
  add(
    draft,
    operation({
      phase: "CreateAndAlterRoles",
      object: roleObject(role.name),
      action: "create",
      because: "the spec wants it",
      decision,
      statements:
        decision._tag === "Do"
          ? [withPassword(`CREATE ROLE ${quoted}${attributes}${membership}${described}`, role)]
          : [],
      joined: {
        statements: [`CREATE ROLE ${quoted}${attributes}${described}`],
        ...(jwks ? {} : { member: role.name }),
        ...(role.password._tag === "Verifier" ? joinedVerifier(role) : {})
      },
      after: jwks ? [] : makersOf(draft, roleObject(options.privilegedRole)),
      change: { _tag: "PutRole", role: { ...wantedRole(known, role), verifier: wantedVerifier(role, known) } }
    })
  )
}

const passwordDiffers = (role: Role, known: ObservedRole): boolean =>
  role.password._tag !== "Unmanaged" &&
  (known.verifier === "unseen" ||
    !sameVerifier(role.password._tag === "None" ? null : role.password.verifier, known.verifier))

const planKnownRole = (draft: Draft, role: Role, known: ObservedRole): void => {
  const decision = faultOfRole(role)
  const wanted = decision._tag === "Do" ? wantedRole(known, role) : known
  const drifted = !sameAttributes(known, wanted)
  const password = passwordDiffers(role, known)
  if (decision._tag === "Do" && !drifted && !password) return
  const head = `ALTER ROLE ${quoteIdentifier(role.name)}`
  const attributes = decision._tag === "Do" ? attributesText(role.options) : ""
  add(
    draft,
    operation({
      phase: "CreateAndAlterRoles",
      object: roleObject(role.name),
      action: password ? (drifted ? "alter attributes and password" : "alter password") : "alter attributes",
      because: password ? "the password in the catalog is another" : "its attributes are not what the spec says",
      decision,
      statements: [password ? withPassword(`${head}${attributes}`, role) : statement(`${head}${attributes}`)],
      joined: {
        statements: drifted || hasUnseenOptions(role.options) ? [`${head}${attributes}`] : [],
        ...(password ? joinedVerifier(role) : {})
      },
      after: makersOf(draft, roleObject(role.name)),
      change: {
        _tag: "PutRole",
        role: { ...wanted, verifier: password ? wantedVerifier(role, known) : known.verifier }
      }
    })
  )
}

const planReserved = (draft: Draft, role: Role, known: ObservedRole | undefined, options: ApplyOptions): void => {
  const about = { phase: "CreateAndAlterRoles", object: roleObject(role.name) } as const
  if (role.name === options.superuser && known !== undefined && role.password._tag === "Verifier") {
    if (!passwordDiffers(role, known)) return
    const decision = faultOfRole({ ...role, options: [] })
    add(
      draft,
      operation({
        ...about,
        action: "alter password",
        because: "the spec gives the superuser a password",
        decision,
        statements: [withPassword(`ALTER ROLE ${quoteIdentifier(role.name)}`, role)],
        joined: { statements: [], ...joinedVerifier(role) },
        change: { _tag: "PutRole", role: { ...known, verifier: role.password.verifier } }
      })
    )
    return
  }
  add(
    draft,
    operation({
      ...about,
      action: known === undefined ? "create" : "leave alone",
      because: "the spec names it",
      decision:
        known === undefined && role.name.startsWith("pg_")
          ? refuse("names that begin with pg_ are Postgres's own", "choose another name")
          : skip("the name is reserved")
    })
  )
}

const dropsOf = (spec: ParsedSpec): ReadonlySet<string> =>
  new Set(spec.deltas.filter((delta) => delta._tag === "DropRole").map((delta) => delta.name))

const keptBecause = (spec: ParsedSpec, options: ApplyOptions, name: string): string | null =>
  isReservedRole(name, options)
    ? "the name is reserved"
    : wantedRoles(spec).has(name)
      ? "the spec wants this role"
      : null

const ownedBy = (spec: ParsedSpec, name: string) => spec.databases.find((database) => database.owner === name)

/** Roles that a delta drops, that exist, and that nothing else in the spec needs. */
export const rolesToDrop = (draft: Draft, spec: ParsedSpec, options: ApplyOptions): ReadonlyArray<string> =>
  [...dropsOf(spec)].filter(
    (name) => draft.roles.has(name) && keptBecause(spec, options, name) === null && ownedBy(spec, name) === undefined
  )

/** `references` are, by role, the operations that reassign and drop what depends on it. */
export const planRoleDrops = (
  draft: Draft,
  spec: ParsedSpec,
  options: ApplyOptions,
  references: ReadonlyMap<string, ReadonlyArray<string>>
): void => {
  for (const name of dropsOf(spec)) {
    if (!draft.roles.has(name)) continue
    const owned = ownedBy(spec, name)
    const about = { phase: "DropRoles", object: roleObject(name), action: "drop", because: "a delta says so" } as const
    const kept = keptBecause(spec, options, name)
    if (kept !== null) {
      add(draft, operation({ ...about, decision: skip(kept) }))
    } else if (owned !== undefined) {
      const reason = `the spec makes it the owner of ${databaseObject(owned.name)}`
      add(draft, operation({ ...about, decision: refuse(reason, "give the database another owner") }))
    } else {
      add(
        draft,
        transactional({
          ...about,
          after: [...(references.get(name) ?? []), ...makersOf(draft, roleObject(name))],
          sql: [`DROP ROLE IF EXISTS ${quoteIdentifier(name)}`],
          change: { _tag: "DropRole", name }
        })
      )
    }
  }
}
