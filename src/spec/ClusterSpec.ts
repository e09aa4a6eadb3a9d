/**
 * The wire's `cluster` and `delta_operations` (reference section 2.4): roles, databases, settings, and renames
 * and drops that a desired state can not express. Leniently typed; `parseSpec.ts` gives it meaning.
 */
import * as Schema from "effect/Schema"
import { faultOfName, opt, PgName, PgText } from "./SpecScalars.ts"

export const GenericOptionWire = Schema.Struct({
  name: PgText,
  value: opt(PgText),
  /** Only `string` has a meaning: quote the value. */
  vartype: Schema.String
}).annotate({ identifier: "GenericOption" })
export type GenericOptionWire = typeof GenericOptionWire.Type

/** `foo` or `extension.foo`, as postgresql.conf spells names; anything else would be more than one line of it. */
const settingName = /^[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*(\.[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)*$/

export const SettingWire = GenericOptionWire.check(
  Schema.makeFilter((setting: GenericOptionWire) => {
    if (!settingName.test(setting.name)) return { path: ["name"], issue: "expected the name of a Postgres setting" }
    if (setting.vartype !== "string" && /[\n\r]/.test(setting.value ?? "")) {
      return { path: ["value"], issue: "expected one line, because the vartype is not \"string\"" }
    }
    return undefined
  })
).annotate({ identifier: "Setting" })

export const RoleWire = Schema.Struct({
  name: PgName,
  /** Absent: not managed. `null`: no password. Otherwise a SCRAM verifier or the hex of an md5 one. */
  encrypted_password: opt(PgText),
  options: opt(Schema.Array(GenericOptionWire))
}).annotate({ identifier: "Role" })
export type RoleWire = typeof RoleWire.Type

export const DatabaseWire = Schema.Struct({
  name: PgName,
  owner: PgName,
  options: opt(Schema.Array(GenericOptionWire))
}).annotate({ identifier: "Database" })
export type DatabaseWire = typeof DatabaseWire.Type

const knownActions = new Set(["delete_db", "rename_db", "delete_role", "rename_role"])

/** Unknown actions are kept here and ignored later, so their names are not judged. */
export const DeltaOperationWire = Schema.Struct({
  action: Schema.String,
  name: Schema.String,
  new_name: opt(Schema.String)
}).check(Schema.makeFilter((operation: { action: string; name: string; new_name?: string | null }) => {
  if (!knownActions.has(operation.action)) return undefined
  const issues: Array<{ path: ReadonlyArray<string>; issue: string }> = []
  const name = faultOfName(operation.name)
  if (name !== null) issues.push({ path: ["name"], issue: name })
  if (operation.action.startsWith("rename_")) {
    const to = operation.new_name
    const fault = to === undefined || to === null
      ? `expected the new name, which ${operation.action} needs`
      : faultOfName(to)
    if (fault !== null) issues.push({ path: ["new_name"], issue: fault })
  }
  return issues
})).annotate({ identifier: "DeltaOperation" })
export type DeltaOperationWire = typeof DeltaOperationWire.Type

export const ClusterWire = Schema.Struct({
  cluster_id: opt(Schema.String),
  name: opt(Schema.String),
  state: opt(Schema.String),
  roles: Schema.Array(RoleWire),
  databases: Schema.Array(DatabaseWire),
  /** Verbatim head of postgresql.conf. */
  postgresql_conf: opt(PgText),
  settings: opt(Schema.Array(SettingWire))
}).annotate({ identifier: "Cluster" })
export type ClusterWire = typeof ClusterWire.Type
