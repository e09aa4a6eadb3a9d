/**
 * How long each part of the start took (reference section 4.10): what `/metrics.json` answers.
 *
 * Milliseconds, unless the name says otherwise; 0 when the step was not reached.
 */
export interface ComputeMetrics {
  readonly wait_for_spec_ms: number
  readonly sync_sk_check_ms: number
  readonly sync_safekeepers_ms: number
  readonly pageserver_connect_micros: number
  readonly basebackup_ms: number
  readonly basebackup_bytes: number
  readonly start_postgres_ms: number
  readonly config_ms: number
  readonly total_startup_ms: number
  readonly load_ext_ms: number
  readonly num_ext_downloaded: number
  readonly largest_ext_size: number
  readonly total_ext_download_size: number
}

export const zeroMetrics: ComputeMetrics = {
  wait_for_spec_ms: 0,
  sync_sk_check_ms: 0,
  sync_safekeepers_ms: 0,
  pageserver_connect_micros: 0,
  basebackup_ms: 0,
  basebackup_bytes: 0,
  start_postgres_ms: 0,
  config_ms: 0,
  total_startup_ms: 0,
  load_ext_ms: 0,
  num_ext_downloaded: 0,
  largest_ext_size: 0,
  total_ext_download_size: 0
}
