/**
 * The wire's words about things beside Postgres (reference sections 2.6 and 2.7): extensions that are fetched on
 * demand, the local proxy, TLS, and one vendor's settings. Checked for shape; most of it is not used by us.
 */
import * as Schema from "effect/Schema"
import { opt } from "./SpecScalars.ts"

export const RemoteExtensionsWire = Schema.Struct({
  public_extensions: opt(Schema.Array(Schema.String)),
  custom_extensions: opt(Schema.Array(Schema.String)),
  library_index: Schema.Record(Schema.String, Schema.String),
  extension_data: Schema.Record(
    Schema.String,
    Schema.Struct({
      control_data: Schema.Record(Schema.String, Schema.String),
      archive_path: Schema.String
    })
  )
}).annotate({ identifier: "RemoteExtensions" })

export const TlsWire = Schema.Struct({
  key_path: Schema.String,
  cert_path: Schema.String
}).annotate({ identifier: "Tls" })

export const LocalProxyWire = Schema.Struct({
  jwks: opt(Schema.Array(Schema.Struct({
    id: Schema.String,
    role_names: Schema.Array(Schema.String),
    jwks_url: Schema.String,
    provider_name: Schema.String,
    jwt_audience: opt(Schema.String)
  }))),
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
