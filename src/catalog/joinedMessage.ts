/**
 * Many operations as one message, which is one transaction: all of them, or none.
 *
 * Verifiers are written to `pg_authid` by one UPDATE for all roles. `CREATE ROLE ... PASSWORD '<SCRAM>'` makes the
 * server compute a SCRAM exchange (is the password empty?) of 4096 rounds for each role, which is most of the time
 * of a big apply. Only a superuser may; anyone else, and a batch that failed, uses the PASSWORD form one by one.
 */
import * as Redacted from "effect/Redacted"
import { quoteIdentifier, quoteLiteral } from "../pgwire/quote.ts"
import type { ApplyPlan, Operation } from "./operations.ts"
import { templateDatabase } from "../pgwire/ownSessions.ts"
import { recordCopies } from "./planVisitRecords.ts"

export interface JoinedMessage {
  readonly sql: Redacted.Redacted<string>
  readonly statements: number
}

/** `null`: these cannot be joined. */
export const joinOperations = (
  operations: ReadonlyArray<Operation>,
  joining: ApplyPlan["joining"]
): JoinedMessage | null => {
  const joined = operations.map((one) => one.joined)
  if (joined.some((one) => one === null)) return null
  const parts = joined.filter((one) => one !== null)
  const verifiers = parts.map((one) => one.verifier).filter((one) => one !== undefined)
  if (verifiers.length > 0 && !joining.superuser) return null
  const privileged = quoteIdentifier(joining.privilegedRole)
  const members = parts.map((one) => one.member).filter((one) => one !== undefined)
  const granted = parts.map((one) => one.granted).filter((one) => one !== undefined)
  const copied = parts.map((one) => one.copied).filter((one) => one !== undefined)
  const sqls = [
    ...parts.flatMap((one) => one.statements),
    ...(members.length === 0 ? [] : [`GRANT ${privileged} TO ${members.map(quoteIdentifier).join(", ")}`]),
    ...(granted.length === 0
      ? []
      : [`GRANT ALL PRIVILEGES ON DATABASE ${granted.map(quoteIdentifier).join(", ")} TO ${privileged}`]),
    ...(copied.length === 0 ? [] : [recordCopies(copied, templateDatabase, joining.privilegedRole)]),
    ...(verifiers.length === 0 ? [] : [writeVerifiers(verifiers)])
  ]
  return {
    sql: Redacted.make(sqls.join(";\n"), { label: "statements" }),
    statements: sqls.length
  }
}

type WrittenVerifier = NonNullable<NonNullable<Operation["joined"]>["verifier"]>

/** Divides by zero, and so undoes the message, unless every role was there to be written to. */
const writeVerifiers = (verifiers: ReadonlyArray<WrittenVerifier>): string => {
  const values = verifiers.map(
    ({ role, verifier }) =>
      `(${quoteLiteral(role)}, ${verifier === null ? "NULL" : quoteLiteral(Redacted.value(verifier))})`
  )
  return (
    `WITH written AS (UPDATE pg_catalog.pg_authid a SET rolpassword = v.verifier::pg_catalog.text ` +
    `FROM (VALUES ${values.join(", ")}) AS v(role, verifier) WHERE a.rolname = v.role::pg_catalog.name RETURNING 1) ` +
    `SELECT 1 / CASE WHEN pg_catalog.count(*) = ${verifiers.length} THEN 1 ELSE 0 END FROM written`
  )
}
