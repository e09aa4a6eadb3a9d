/**
 * The wire's words about things beside Postgres (reference sections 2.6 and 2.7): extensions that are fetched on
 * demand, the local proxy, TLS, and one vendor's settings. Checked for shape; most of it is not used by us.
 */
import * as Schema from "effect/Schema"
import { opt } from "./SpecScalars.ts"

/** A file's own name: with a slash or dots in it, writing the file would end up elsewhere. */
const isPlainName = (name: string): boolean => name !== "" && name !== "." && name !== ".." && !/[/\0]/.test(name)

const ControlData = Schema.Record(Schema.String, Schema.String).check(
  Schema.makeFilter((files: Readonly<Record<string, string>>) =>
    Object.keys(files).filter((name) => !isPlainName(name)).map((name) => ({ path: [name], issue: "expected the plain name of a file" })))
)

/** Extensions are asked for by name, and their archives are named after them. */
const extensionData = <S extends Schema.Constraint>(one: S) =>
  Schema.Record(Schema.String, one).check(
    Schema.makeFilter((all: Readonly<Record<string, unknown>>) =>
      Object.keys(all).filter((name) => !isPlainName(name)).map((name) => ({ path: [name], issue: "expected the name of an extension" })))
  )

const Sha256 = Schema.String.check(Schema.isPattern(/^[0-9A-Fa-f]{64}$/u, { expected: "64 hexadecimal digits" }))

export const RemoteExtensionsWire = Schema.Struct({
  public_extensions: opt(Schema.Array(Schema.String)),
  custom_extensions: opt(Schema.Array(Schema.String)),
  library_index: Schema.Record(Schema.String, Schema.String),
  extension_data: extensionData(
    Schema.Struct({
      control_data: ControlData,
      /** Not used: the path follows from the name (reference section 10.2). */
      archive_path: Schema.String,
      /** Ours: the digest of the archive as it is served. */
      sha256: opt(Sha256)
    })
  )
}).annotate({ identifier: "RemoteExtensions" })
export type RemoteExtensionsWire = typeof RemoteExtensionsWire.Type

export const TlsWire = Schema.Struct({
  key_path: Schema.String,
  cert_path: Schema.String
}).annotate({ identifier: "Tls" })

export const LocalProxyKeysWire = Schema.Struct({
  id: Schema.String,
  role_names: Schema.Array(Schema.String),
  jwks_url: Schema.String,
  provider_name: Schema.String,
  jwt_audience: opt(Schema.String)
})
export type LocalProxyKeysWire = typeof LocalProxyKeysWire.Type

export const LocalProxyWire = Schema.Struct({
  jwks: opt(Schema.Array(LocalProxyKeysWire)),
  tls: opt(TlsWire)
}).annotate({ identifier: "LocalProxy" })

export const DatabricksWire = Schema.Struct({
  pg_compute_tls_settings: Schema.Struct({
    cert_file: Schema.String,
    key_file: Schema.String,
    ca_file: Schema.String
  }),
  databricks_pg_hba: Schema.String,
  databricks_pg_ident: Schema.String,
  databricks_workspace_host: Schema.String
}).annotate({ identifier: "DatabricksSettings" })
