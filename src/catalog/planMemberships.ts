/**
 * Memberships that the spec asks for: `privileged`, and the options IN ROLE, ROLE and ADMIN, which only CREATE ROLE
 * knows (phase 4). They are granted by statements of their own, so that they can be wished at any time.
 *
 * A membership that the spec does not name is left alone.
 */
import { doBlock, quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import { roleOptionsOf } from "../spec/clusterOptions.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { type ApplyOptions, isReservedRole, majorOf } from "./Catalog.ts"
import { add, type Draft, makersOf, membershipOf } from "./draft.ts"
import { type Operation, roleObject, transactional } from "./operations.ts"
import { wantedRoles } from "./planRoles.ts"

interface Wish {
  readonly role: string
  readonly member: string
  readonly admin: boolean
}

const wishesOf = (spec: ParsedSpec, options: ApplyOptions): ReadonlyArray<Wish> =>
  [...wantedRoles(spec).values()]
    .filter(({ name }) => !isReservedRole(name, options))
    .flatMap(({ name, options: given, privileged }) => [
      ...(privileged === true ? [{ role: options.privilegedRole, member: name, admin: false }] : []),
      ...roleOptionsOf(given).flatMap((option): ReadonlyArray<Wish> => {
        if (option._tag === "MemberOf") return option.roles.map((role) => ({ role, member: name, admin: false }))
        return option._tag === "Members"
          ? option.roles.map((member) => ({ role: name, member, admin: option.admin }))
          : []
      })
    ])

/** `dropped` are roles that this same apply drops: since Postgres 16 a membership goes with whoever granted it. */
export const planMemberships = (
  draft: Draft,
  spec: ParsedSpec,
  options: ApplyOptions,
  dropped: ReadonlyArray<string>
): void => {
  const lasts = (grantor: string | null) => majorOf(draft) < 16 || grantor === null || !dropped.includes(grantor)
  for (const wish of wishesOf(spec, options)) {
    const there = draft.memberships.some(
      (one) => one.role === wish.role && one.member === wish.member && (one.admin || !wish.admin) && lasts(one.grantor)
    )
    if (!there) add(draft, grantMembership(draft, wish))
  }
  for (const { name, privileged } of wantedRoles(spec).values()) {
    if (privileged !== false || isReservedRole(name, options)) continue
    const there = draft.memberships.some((one) => one.role === options.privilegedRole && one.member === name)
    if (there) add(draft, revokeMembership(draft, options.privilegedRole, name))
  }
}

const grantMembership = (draft: Draft, { admin, member, role }: Wish): Operation =>
  transactional({
    phase: "CreateAndAlterRoles",
    object: roleObject(member),
    action: `make a member of ${JSON.stringify(role)}${admin ? " with admin option" : ""}`,
    because: "the spec says so",
    after: makersOf(draft, roleObject(role), roleObject(member)),
    sql: [`GRANT ${quoteIdentifier(role)} TO ${quoteIdentifier(member)}${admin ? " WITH ADMIN OPTION" : ""}`],
    change: { _tag: "PutMembership", membership: membershipOf(role, member, admin) }
  })

/** Since Postgres 16 there is one membership for each who granted it. */
const revokeMembership = (draft: Draft, role: string, member: string): Operation =>
  transactional({
    phase: "CreateAndAlterRoles",
    object: roleObject(member),
    action: `make no member of ${JSON.stringify(role)} any more`,
    because: "the spec says that it is not privileged",
    after: makersOf(draft, roleObject(role), roleObject(member)),
    sql: [
      majorOf(draft) < 16
        ? `REVOKE ${quoteIdentifier(role)} FROM ${quoteIdentifier(member)} CASCADE`
        : doBlock(`
DECLARE grantor text;
BEGIN
  FOR grantor IN
    SELECT g.rolname FROM pg_catalog.pg_auth_members a
    JOIN pg_catalog.pg_roles r ON r.oid = a.roleid JOIN pg_catalog.pg_roles m ON m.oid = a.member
    JOIN pg_catalog.pg_roles g ON g.oid = a.grantor
    WHERE r.rolname = ${quoteLiteral(role)} AND m.rolname = ${quoteLiteral(member)}
  LOOP
    EXECUTE pg_catalog.format('REVOKE %I FROM %I GRANTED BY %I CASCADE',
      ${quoteLiteral(role)}, ${quoteLiteral(member)}, grantor);
  END LOOP;
END`)
    ],
    change: { _tag: "DropMembership", role, member }
  })
