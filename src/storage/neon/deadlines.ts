/**
 * How long Neon's storage may keep us waiting, per kind of wait. Waits for nothing itself.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"

export interface NeonDeadlines {
  /**
   * One safekeeper's `TIMELINE_STATUS`, dialling included. Only a lost quorum waits this long, and then the full sync
   * is there to fall back to; the reference's 100 ms made a loaded host take the long way with healthy safekeepers.
   */
  readonly ping: Duration.Duration
  /** One run of `postgres --sync-safekeepers` at the start; it waits for a quorum by itself. */
  readonly sync: Duration.Duration
  /** The only run at the end. Shorter: the data is acknowledged already, and somebody waits for us to leave. */
  readonly finalSync: Duration.Duration
  /** Dialling the pageserver and logging in. */
  readonly connect: Duration.Duration
  /** From the request to the first byte of the basebackup. A pageserver waits a minute for WAL, and then says so. */
  readonly firstByte: Duration.Duration
  /** Between two pieces of the basebackup. */
  readonly progress: Duration.Duration
  /** A lease on an LSN from one shard, dialling included. */
  readonly lease: Duration.Duration
}

export const NeonDeadlines = Context.Reference<NeonDeadlines>("compute/storage/neon/NeonDeadlines", {
  defaultValue: () => ({
    ping: Duration.millis(500),
    sync: Duration.minutes(5),
    finalSync: Duration.minutes(1),
    connect: Duration.seconds(10),
    firstByte: Duration.seconds(65),
    progress: Duration.seconds(60),
    lease: Duration.seconds(10)
  })
})
