/**
 * The record of lists of deltas that are done, and are not to be done again to whatever has the names by then: as
 * settings of our own role, which no tenant may alter.
 */
import { quoteIdentifier } from "../pgwire/quote.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import type { ApplyOptions } from "./Catalog.ts"
import { add, type Draft } from "./draft.ts"
import { type Operation, type Phase, roleObject, transactional } from "./operations.ts"
import { type DeltaChain, deltaDigests, doneDeltasSetting } from "./planDeltas.ts"

const setting = (digest: string): string => quoteIdentifier(`${doneDeltasSetting}${digest}`)

/** `after` is all of it: the record is never there for half of a list. */
export const recordDeltas = (
  draft: Draft,
  options: ApplyOptions,
  { deltas, digest }: DeltaChain,
  phase: Phase,
  after: ReadonlyArray<string>
): Operation =>
  add(
    draft,
    transactional({
      phase,
      object: roleObject(options.superuser),
      action: `record that ${deltas.length} delta operations are done (${digest})`,
      because: "they come again with the next start, and what has their names then is something else",
      after,
      sql: [`ALTER ROLE ${quoteIdentifier(options.superuser)} SET ${setting(digest)} TO 'done'`],
      change: { _tag: "RecordDeltas", digest }
    })
  )

/** Records of lists that the spec does not hold any more: should one come again, it is meant again. */
export const forgetDeltas = (draft: Draft, options: ApplyOptions, spec: ParsedSpec): void => {
  const current = deltaDigests(spec)
  for (const digest of draft.doneDeltas) {
    if (current.has(digest)) continue
    add(
      draft,
      transactional({
        phase: "RenameRoles",
        object: roleObject(options.superuser),
        action: `forget delta operations that are done (${digest})`,
        because: "the spec does not hold them any more",
        sql: [`ALTER ROLE ${quoteIdentifier(options.superuser)} RESET ${setting(digest)}`],
        change: { _tag: "ForgetDeltas", digest }
      })
    )
  }
}
