/** A replica that follows its primary, as Postgres tells it. */
import type { ReplicaSample } from "../../src/compute/replication.ts"

export const streaming: ReplicaSample = {
  receiver: "streaming",
  silentFor: 0,
  end: 100n,
  replayed: 100n,
  receiverTimeout: 60_000,
  applyDelay: 0,
  source: "primary"
}
