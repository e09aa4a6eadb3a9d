/**
 * Extensions of the system database, the schema `neon`, and the audit extensions (phases 6a, 8, 9 and 13).
 *
 * On a Postgres that does not have one, the work for it is skipped, with the reason; only the audit, which somebody
 * relies on, is refused.
 */
import { quoteIdentifier } from "../pgwire/quote.ts"
import { readList } from "../postgres/confText.ts"
import { type ParsedSpec, settingOf } from "../spec/ParsedSpec.ts"
import { add, type Draft, makersOf, setMaker } from "./draft.ts"
import { databaseObject, operation, type Phase, refuse, skip, transactional } from "./operations.ts"

export const planSchemaNeon = (draft: Draft): void => {
  if (draft.schemas.has("neon")) return
  setMaker(
    draft,
    "schema neon",
    add(
      draft,
      transactional({
        phase: "CreateSchemaNeon",
        object: "schema neon",
        action: "create",
        because: "it does not exist",
        sql: ["CREATE SCHEMA IF NOT EXISTS neon"],
        change: { _tag: "CreateSchema", name: "neon" }
      })
    )
  )
}

export const planOtherExtensions = (draft: Draft, spec: ParsedSpec): void => {
  if (!readList(settingOf(spec.settings, "shared_preload_libraries") ?? "").includes("pg_stat_statements")) return
  planExtension(draft, "pg_stat_statements", "HandleOtherExtensions", "shared_preload_libraries names it")
}

/** Why there is no such extension here. */
export const whyMissing = ({ faultyExtensions }: Pick<Draft, "faultyExtensions">, name: string): string => {
  const fault = faultyExtensions.get(name)
  return fault === undefined ? "this Postgres does not have it" : `its files cannot be used: ${fault}`
}

const planExtension = (draft: Draft, name: string, phase: Phase, because: string): void => {
  const known = draft.extensions.get(name)
  if (known?.installed != null) return
  const about = { phase, object: `extension ${name}`, action: "create", because } as const
  if (known === undefined) {
    setMaker(
      draft,
      `extension ${name}`,
      add(
        draft,
        operation({
          ...about,
          decision:
            phase === "Audit"
              ? refuse(whyMissing(draft, name), "use a Postgres with the audit extensions, or turn the audit off")
              : skip(whyMissing(draft, name))
        })
      )
    )
    return
  }
  setMaker(
    draft,
    `extension ${name}`,
    add(
      draft,
      transactional({
        ...about,
        sql: [`CREATE EXTENSION IF NOT EXISTS ${quoteIdentifier(name)} WITH SCHEMA public`],
        change: { _tag: "PutExtension", name, schema: "public", version: known.available ?? "", relocatable: true }
      })
    )
  )
}

/** Its control file says that it cannot be moved, and it could not get out of the schema it was once created in. */
const relocatable =
  "UPDATE pg_catalog.pg_extension SET extrelocatable = true WHERE extname = 'neon' AND NOT extrelocatable"

export const planNeonExtension = (draft: Draft): void => {
  const known = draft.extensions.get("neon")
  const about = { phase: "HandleNeonExtension", object: "extension neon" } as const
  if (known === undefined) {
    add(
      draft,
      operation({
        ...about,
        action: "create",
        because: "Neon's storage needs it",
        decision: skip(whyMissing(draft, "neon"))
      })
    )
    return
  }
  const put = {
    _tag: "PutExtension",
    name: "neon",
    schema: "neon",
    version: known.available ?? "",
    relocatable: true
  } as const
  const { installed } = known
  if (installed === null) {
    add(
      draft,
      transactional({
        ...about,
        action: "create",
        because: "it does not exist",
        after: makersOf(draft, "schema neon"),
        sql: ["CREATE EXTENSION IF NOT EXISTS neon WITH SCHEMA neon", relocatable],
        change: put
      })
    )
    return
  }
  const moved = installed.schema !== "neon"
  const old = known.available !== null && installed.version !== known.available
  if (!moved && !old && installed.relocatable) return
  add(
    draft,
    transactional({
      ...about,
      action:
        [moved ? "move to schema neon" : "", old ? `update to ${known.available}` : ""]
          .filter((word) => word !== "")
          .join(" and ") || "make relocatable",
      because: "it is not as it should be",
      after: makersOf(draft, "schema neon"),
      sql: [
        relocatable,
        ...(moved ? ["ALTER EXTENSION neon SET SCHEMA neon"] : []),
        ...(old ? ["ALTER EXTENSION neon UPDATE", relocatable] : [])
      ],
      change: put
    })
  )
}

const auditExtensions = (spec: ParsedSpec): ReadonlyArray<string> => {
  switch (spec.auditLevel) {
    case "Disabled":
      return []
    case "Log":
    case "Base":
      return ["pgaudit"]
    case "Hipaa":
    case "Extended":
    case "Full":
      return ["pgaudit", "pgauditlogtofile"]
  }
}

export const planAudit = (draft: Draft, spec: ParsedSpec): void => {
  const names = auditExtensions(spec)
  for (const name of names) planExtension(draft, name, "Audit", `the audit level is ${spec.auditLevel}`)
  const system = draft.systemDatabase
  if (names.length === 0 || draft.databases.get(system)?.auditLogOff !== false) return
  add(
    draft,
    transactional({
      phase: "Audit",
      object: databaseObject(system),
      action: "turn the audit of the system database off",
      because: "only what is done in users' databases is audited",
      after: makersOf(draft, ...names.map((name) => `extension ${name}`)),
      sql: [`ALTER DATABASE ${quoteIdentifier(system)} SET pgaudit.log TO 'none'`],
      change: { _tag: "AuditLogOff", name: system }
    })
  )
}
