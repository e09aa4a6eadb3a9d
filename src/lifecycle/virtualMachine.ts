/**
 * A compute in a virtual machine: Postgres starts inside its cgroup, and the vm-monitor speaks to the autoscaler.
 *
 * Only with `AUTOSCALING`; its modules are loaded only then, because a start elsewhere shall not pay for them.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { CgroupPolicy } from "../autoscaling/Cgroup.ts"
import type { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import type { CgroupUnusable } from "../errors/Failure.ts"
import { Admin } from "../pgwire/Admin.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import type { SpawnRequest } from "../platform/Spawn.ts"
import { printFamilies } from "../telemetry/prometheus.ts"

export interface VmOptions {
  /** `host:port` for the agent. */
  readonly address: string
  readonly cgroup: string
  readonly policy: CgroupPolicy
  /** The superuser session that sizes the file cache. */
  readonly fileCacheConnstr: ConnString | null
  /** It is one with our own Postgres, and has to be proven to be. */
  readonly fileCacheIsOurs: boolean
  /** The PATH of our environment. */
  readonly path: string | undefined
}

export interface Vm {
  readonly actor: Actor<ComputeState>
  /** The request to start Postgres, made to enter the cgroup first. */
  readonly enter: (request: SpawnRequest) => Effect.Effect<SpawnRequest, CgroupUnusable>
  /** Fails when Postgres could not enter its cgroup, and must: before anything is built for it. */
  readonly check: (request: SpawnRequest) => Effect.Effect<void, CgroupUnusable>
  /** Prometheus text of what was seen and decided. */
  readonly metrics: Effect.Effect<string>
}

export const openVm = Effect.fnUntraced(function* (options: VmOptions) {
  const [{ vmMonitor }, { cgroupCommand, checkEntry, defaultCgroupRoot }, { vmFamilies, VmMetrics }] =
    yield* Effect.promise(() =>
      Promise.all([
        import("../autoscaling/VmMonitor.ts"),
        import("../autoscaling/Cgroup.ts"),
        import("../autoscaling/metrics.ts")
      ])
    )
  const metrics = yield* Effect.provide(VmMetrics, VmMetrics.layer)
  const admin = yield* Admin
  const { address, cgroup, fileCacheConnstr, fileCacheIsOurs, path, policy } = options
  const monitor = vmMonitor({
    address,
    cgroup,
    policy,
    fileCacheConnstr,
    ...(fileCacheIsOurs ? { proveFileCache: admin.prove } : {}),
    disableLfcResizing: (spec) => spec?.disableLfcResizing ?? false
  })
  const entry = { root: defaultCgroupRoot, name: cgroup, policy, path }
  return {
    actor: { ...monitor, run: Effect.provide(monitor.run, Layer.succeed(VmMetrics, metrics)) },
    enter: (request) => cgroupCommand(entry, request),
    check: (request) => checkEntry(entry, request),
    metrics: Effect.map(metrics.now, (now) => printFamilies(vmFamilies(now)))
  } satisfies Vm
})
