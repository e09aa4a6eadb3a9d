/**
 * The states of the local file cache between two computes: loaded at a start (prewarm), saved for the next (offload).
 * Shapes only.
 */

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
