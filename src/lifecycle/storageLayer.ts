/**
 * Where a compute's data lives, as the command line says it, and the part that keeps it there.
 */
import type * as Duration from "effect/Duration"
import type { SpawnRequest } from "../platform/Spawn.ts"
import type { CgroupUnusable } from "../errors/Failure.ts"
import type * as Effect from "effect/Effect"
import { LocalStorage } from "../storage/local/LocalStorage.ts"
import { NeonStorage } from "../storage/neon/NeonStorage.ts"
import { VolumeStorage } from "../storage/volume/VolumeStorage.ts"

export type StorageOptions =
  | { readonly _tag: "Neon" }
  | {
      readonly _tag: "Local"
      readonly directory: string
      readonly durability: "os" | "process"
      /** Where seed clusters are kept, for other storages too; by default each storage has its own. */
      readonly seedDirectory?: string
      /** Fail when it has no such timeline yet. */
      readonly requireExisting?: boolean
      /** How long a stop may take before what only makes the next start faster is given up. */
      readonly stopBudget?: Duration.Duration
    }
  /** PGDATA lies on a volume and stays as it is. */
  | { readonly _tag: "Volume"; readonly requireExisting?: boolean }

interface Compute {
  readonly storage: StorageOptions
  readonly allowUnfenced?: boolean
  readonly host: { readonly cacheDirectory: string }
}

/** In a virtual machine, `postgres --sync-safekeepers` runs in Postgres's cgroup too. */
interface Vm {
  readonly enter: (request: SpawnRequest) => Effect.Effect<SpawnRequest, CgroupUnusable>
}

export const storageLayer = ({ allowUnfenced = false, host, storage }: Compute, vm: Vm | null) => {
  switch (storage._tag) {
    case "Neon":
      return NeonStorage.layer(vm === null ? {} : { enter: vm.enter })
    case "Local":
      return LocalStorage.layer({ ...storage, allowUnfenced })
    case "Volume":
      return VolumeStorage.layer({ ...storage, allowUnfenced, seedDirectory: host.cacheDirectory })
  }
}
