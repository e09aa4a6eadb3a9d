/**
 * The local file cache between two computes: its states, what they look like to HTTP, and where its map is kept
 * (reference section 11.7). Moves nothing.
 *
 * A prewarm or an offload may be repeated, but there is never more than one of each.
 */
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { LfcBusy } from "../errors/Failure.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

/** `pages` are what Postgres says afterwards; times are milliseconds. */
export type PrewarmState =
  | { readonly status: "not_prewarmed" | "prewarming" | "skipped" | "cancelled" }
  | { readonly status: "failed"; readonly error: string }
  | {
    readonly status: "completed"
    readonly total: number
    readonly prewarmed: number
    readonly skipped: number
    readonly state_download_time_ms: number
    readonly uncompress_time_ms: number
    readonly prewarm_time_ms: number
  }

export type OffloadState =
  | { readonly status: "not_offloaded" | "offloading" | "skipped" }
  | { readonly status: "failed"; readonly error: string }
  | {
    readonly status: "completed"
    readonly state_query_time_ms: number
    readonly compress_time_ms: number
    readonly state_upload_time_ms: number
  }

export const beginPrewarm = (state: PrewarmState): Result.Result<PrewarmState, LfcBusy> =>
  state.status === "prewarming" ? Result.fail(new LfcBusy({ what: "prewarm" })) : Result.succeed({ status: "prewarming" })

export const beginOffload = (state: OffloadState): Result.Result<OffloadState, LfcBusy> =>
  state.status === "offloading" ? Result.fail(new LfcBusy({ what: "prewarm offload" })) : Result.succeed({ status: "offloading" })

/** A cache that is half loaded, or was never loaded because that failed, must not overwrite a better map. */
export const isWorthSaving = (state: PrewarmState): boolean =>
  state.status === "completed" || state.status === "not_prewarmed" || state.status === "skipped"

export interface MapPlace {
  readonly url: string
  readonly token: Redacted.Redacted<string>
}

/** Where the map of this endpoint, or of the one named, is kept; or the sentence that says what the spec lacks. */
export const mapPlace = (spec: ParsedSpec | null, fromEndpoint: string | null): Result.Result<MapPlace, string> => {
  if (spec === null) return Result.fail("there is no spec yet")
  const { address, token } = spec.endpointStorage
  const endpoint = fromEndpoint ?? spec.endpointId
  if (address === null) return Result.fail("pspec.endpoint_storage_addr missing")
  if (token === null) return Result.fail("pspec.endpoint_storage_token missing")
  if (endpoint === null || endpoint === "") return Result.fail("pspec.endpoint_id missing")
  const url = `http://${address}/${[spec.tenant, spec.timeline, endpoint].map(encodeURIComponent).join("/")}/lfc_state`
  return URL.canParse(url) ? Result.succeed({ url, token }) : Result.fail("pspec.endpoint_storage_addr is not an address")
}
