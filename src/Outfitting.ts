/**
 * Composes the outfit of a real compute from its rooms: extensions, file cache, inventory, swap and disk.
 *
 * Loaded by `Program.ts` only after HTTP listens: none of it is needed before.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { ComputeState } from "./ComputeState.ts"
import type { Failure } from "./domain/Failure.ts"
import type { ParsedSpec } from "./domain/ParsedSpec.ts"
import { RemoteExtensions } from "./extensions/RemoteExtensions.ts"
import { protectFromOom } from "./host/oomScore.ts"
import { Spawn } from "./host/Spawn.ts"
import { resizeSwap, setDiskQuota } from "./host/swapAndQuota.ts"
import { Inventory, inventoryKeeper } from "./inventory/Inventory.ts"
import { autoprewarm, Lfc, lfcKeeper } from "./lfc/Lfc.ts"
import { Outfit } from "./Outfit.ts"
import { printFamilies } from "./plan/metricsText.ts"
import type { Actor } from "./Supervisor.ts"

export interface OutfitOptions {
  readonly dialect: "2024" | "head"
  readonly buildTag: string
  /** `-r`; `null`: no extension is fetched. */
  readonly extensionsBase: string | null
  /** As Node says it: `x64`, `arm64`. */
  readonly arch: string
  /** Whether a spec may resize swap. */
  readonly resizeSwap: boolean
  /** The file system whose quota a spec may set. */
  readonly diskQuotaMount: string | null
  readonly inventorySeconds: number
}

type Rooms = RemoteExtensions | Lfc | Inventory | Spawn | ComputeState

const make = Effect.fnUntraced(function*(options: OutfitOptions) {
  const context = yield* Effect.context<Rooms>()
  const extensions = yield* RemoteExtensions
  const lfc = yield* Lfc
  const inventory = yield* Inventory
  const here = <A, E>(effect: Effect.Effect<A, E, Rooms>): Effect.Effect<A, E> => Effect.provide(effect, context)
  const actor = (one: Actor<Rooms>): Actor => ({ ...one, run: here(one.run) })

  const memoryAndDisk = Effect.fnUntraced(function*({ diskQuotaBytes, swapSizeBytes }: ParsedSpec) {
    const { diskQuotaMount } = options
    if (options.resizeSwap && swapSizeBytes !== null) yield* resizeSwap(swapSizeBytes)
    if (diskQuotaMount !== null && diskQuotaBytes !== null) yield* setDiskQuota(diskQuotaBytes, diskQuotaMount)
  })

  return Outfit.of({
    before: (spec): Effect.Effect<void, Failure> =>
      here(Effect.all([memoryAndDisk(spec), spec.remoteExtensions === null ? Effect.void : extensions.prepare(spec)], {
        concurrency: "unbounded",
        discard: true
      })),
    spawned: (pid) => Effect.asVoid(protectFromOom(pid)),
    renewed: () => Effect.void,
    running: (spec) => here(autoprewarm(spec)),
    ended: Effect.void,
    actors: [actor(inventoryKeeper), actor(lfcKeeper)],
    fetchExtension: extensions.download,
    fileCache: lfc,
    installedExtensions: inventory.take,
    metrics: Effect.map(inventory.family, (family) => printFamilies([family]))
  })
})

export const outfitting = (options: OutfitOptions) =>
  Layer.effect(Outfit, make(options)).pipe(Layer.provide([
    RemoteExtensions.layer({
      dialect: options.dialect,
      base: options.extensionsBase,
      buildTag: options.buildTag,
      arch: options.arch
    }),
    Lfc.layer(),
    Inventory.layer({ dialect: options.dialect, intervalSeconds: options.inventorySeconds })
  ]))
