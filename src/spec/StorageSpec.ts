/**
 * The wire's words about where the data lives (reference sections 2.2 and 2.5). `parseStorage.ts` reads them in
 * the order of their sources.
 */
import * as Schema from "effect/Schema"
import { HexId, LsnText, opt, U32, U64, U8 } from "./SpecScalars.ts"

export const expectedMode = "\"Primary\", \"Replica\" or {\"Static\": LSN}"

export const ComputeModeWire = Schema.Union([
  Schema.Literals(["Primary", "Replica"]).annotate({ expected: expectedMode }),
  Schema.Struct({ Static: LsnText })
]).annotate({ identifier: "ComputeMode" })
export type ComputeModeWire = typeof ComputeModeWire.Type

export const PageserverWire = Schema.Struct({
  id: opt(U64),
  libpq_url: opt(Schema.String),
  grpc_url: opt(Schema.String)
}).annotate({ identifier: "Pageserver" })

export const PageserverConnectionInfoWire = Schema.Struct({
  /** 0: unsharded. */
  shard_count: U8,
  stripe_size: opt(U32),
  /** By shard index, `NNCC`: shard number and shard count, two hex digits each. */
  shards: Schema.Record(Schema.String, Schema.Struct({ pageservers: Schema.Array(PageserverWire) })),
  prefer_protocol: Schema.optionalKey(Schema.Literals(["libpq", "grpc"]))
}).annotate({ identifier: "PageserverConnectionInfo" })
export type PageserverConnectionInfoWire = typeof PageserverConnectionInfoWire.Type

export const storageFields = {
  tenant_id: opt(HexId),
  timeline_id: opt(HexId),
  pageserver_connection_info: opt(PageserverConnectionInfoWire),
  /** One conninfo or URL per shard, in shard order, separated by commas. */
  pageserver_connstring: opt(Schema.String),
  shard_stripe_size: opt(U32),
  safekeepers_generation: opt(U32),
  safekeeper_connstrings: Schema.optionalKey(Schema.Array(Schema.String)),
  mode: Schema.optionalKey(ComputeModeWire),
  storage_auth_token: opt(Schema.String)
}
