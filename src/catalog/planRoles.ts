/**
 * Roles: the privileged one and those the spec wants (phases 1 and 4).
 *
 * Reserved roles are left alone, but for one thing: a verifier that the spec gives for the superuser is set.
 */
import * as Redacted from "effect/Redacted"
import { quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import { faultsOfRoleOptions, roleOptionsOf } from "../spec/clusterOptions.ts"
import { faultOfRoleName, isVerifier } from "../spec/names.ts"
import type { ParsedSpec, Role } from "../spec/ParsedSpec.ts"
import { type ApplyOptions, isReservedRole, type ObservedRole } from "./Catalog.ts"
import { add, type Draft, makersOf } from "./draft.ts"
import {
  databaseObject,
  type Decision,
  type Joined,
  operation,
  refuse,
  roleObject,
  skip,
  type Statement,
  statement,
  transactional
} from "./operations.ts"
import { wantedDatabases } from "./planDatabases.ts"
import {
  attributesText,
  bareRole,
  newRole,
  newRoleText,
  sameAttributes,
  sameVerifier,
  wantedRole
} from "./roleAttributes.ts"

/** The last of a name counts. */
export const wantedRoles = (spec: ParsedSpec): ReadonlyMap<string, Role> =>
  new Map(spec.roles.map((role) => [role.name, role]))

/** It gets neither the usual attributes nor the membership. */
const isPlain = (spec: ParsedSpec, { name, privileged }: Role): boolean =>
  spec.jwksRoles.has(name) || privileged === false

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
  for (const role of wantedRoles(spec).values()) {
    const known = draft.roles.get(role.name)
    if (known === undefined || isReservedRole(role.name, options) || isPlain(spec, role)) continue
    const alter = `ALTER ROLE ${quoteIdentifier(role.name)} CREATEROLE CREATEDB`
    add(
      draft,
      operation({
        ...about,
        object: roleObject(role.name),
        action: "make a member of the privileged role",
        statements: [statement(`${alter}; GRANT ${quoted} TO ${quoteIdentifier(role.name)}`)],
        joined: { statements: [alter], member: role.name },
        change: { _tag: "PutRole", role: { ...known, createRole: true, createDatabase: true }, memberOf: name }
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

export const planRoles = (draft: Draft, spec: ParsedSpec, options: ApplyOptions): void => {
  for (const role of wantedRoles(spec).values()) {
    const known = draft.roles.get(role.name)
    if (isReservedRole(role.name, options)) planReserved(draft, role, known, options)
    else if (known === undefined) planNewRole(draft, role, isPlain(spec, role), options)
    else planKnownRole(draft, role, known)
  }
}

const faultOfPassword = ({ password }: Role): Decision =>
  password._tag === "Verifier" && !isVerifier(Redacted.value(password.verifier))
    ? refuse(
        "the password is neither a SCRAM-SHA-256 nor an md5 verifier",
        "send a verifier, never a password in the clear"
      )
    : { _tag: "Do" }

const faultOfRole = (role: Role): Decision => {
  const name = faultOfRoleName(role.name)
  if (name !== null) return refuse(name, "choose another name")
  const [option] = faultsOfRoleOptions(role.options)
  if (option !== undefined) return refuse(option.message, "correct the role's options")
  return faultOfPassword(role)
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
export const roleOptionsText = (role: Role): string =>
  `${attributesText(roleOptionsOf(role.options))}${passwordText(role).sent}`

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

const planNewRole = (draft: Draft, role: Role, plain: boolean, options: ApplyOptions): void => {
  const quoted = quoteIdentifier(role.name)
  const decision = faultOfRole(role)
  const given = roleOptionsOf(role.options)
  const text = `CREATE ROLE ${quoted}${plain ? "" : newRoleText(given)}`
  const membership = plain ? "" : ` IN ROLE ${quoteIdentifier(options.privilegedRole)}`
  const described = attributesText(given)
  const known = plain ? bareRole(role.name) : newRole(role.name)
  add(
    draft,
    operation({
      phase: "CreateAndAlterRoles",
      object: roleObject(role.name),
      action: "create",
      because: "the spec wants it",
      decision,
      statements: decision._tag === "Do" ? [withPassword(`${text}${membership}${described}`, role)] : [],
      joined: {
        statements: [`${text}${described}`],
        ...(plain ? {} : { member: role.name }),
        ...(role.password._tag === "Verifier" ? joinedVerifier(role) : {})
      },
      after: plain ? [] : makersOf(draft, roleObject(options.privilegedRole)),
      change: {
        _tag: "PutRole",
        role: { ...wantedRole(known, given, draft.times), verifier: wantedVerifier(role, known) },
        ...(plain ? {} : { memberOf: options.privilegedRole })
      }
    })
  )
}

const passwordDiffers = (role: Role, known: ObservedRole): boolean =>
  role.password._tag !== "Unmanaged" &&
  (known.verifier === "unseen" ||
    !sameVerifier(role.password._tag === "None" ? null : role.password.verifier, known.verifier))

const planKnownRole = (draft: Draft, role: Role, known: ObservedRole): void => {
  const decision = faultOfRole(role)
  const given = roleOptionsOf(role.options)
  const wanted = decision._tag === "Do" ? wantedRole(known, given, draft.times) : known
  const drifted = !sameAttributes(known, wanted)
  const password = passwordDiffers(role, known)
  if (decision._tag === "Do" && !drifted && !password) return
  const head = `ALTER ROLE ${quoteIdentifier(role.name)}`
  const attributes = decision._tag === "Do" ? attributesText(given) : ""
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
        statements: drifted ? [`${head}${attributes}`] : [],
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
    const decision = faultOfPassword(role)
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
