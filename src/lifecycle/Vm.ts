/**
 * The compute in a virtual machine: Postgres starts inside its cgroup, and the vm-monitor speaks to the autoscaler.
 *
 * Only with `AUTOSCALING`; its modules are loaded only then, because a start elsewhere shall not pay for them.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { ComputeState } from "../compute/ComputeState.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import type { CgroupUnusable } from "../errors/Failure.ts"
import type { SpawnRequest } from "../platform/Spawn.ts"
import { printFamilies } from "../telemetry/prometheus.ts"
import type { CgroupPolicy } from "../autoscaling/vmCgroup.ts"
import { vmFamilies } from "../autoscaling/metrics.ts"
import type { Actor } from "../compute/Supervisor.ts"

export interface VmOptions {
  /** `host:port` for the agent. */
  readonly address: string
  readonly cgroup: string
  readonly policy: CgroupPolicy
  /** The superuser session that sizes the file cache. */
  readonly fileCacheConnstr: ConnString | null
  /** The PATH of our environment. */
  readonly path: string | undefined
}

export interface Vm {
  readonly actor: Actor<ComputeState>
  /** The request to start Postgres, made to enter the cgroup first. */
  readonly enter: (request: SpawnRequest) => Effect.Effect<SpawnRequest, CgroupUnusable>
  /** Prometheus text of what was seen and decided. */
  readonly metrics: Effect.Effect<string>
}

export const openVm = Effect.fnUntraced(function*(options: VmOptions) {
  const [{ vmMonitor }, { cgroupCommand, defaultCgroupRoot }, { VmTally }] = yield* Effect.promise(() =>
    Promise.all([import("../autoscaling/VmMonitor.ts"), import("../autoscaling/Cgroup.ts"), import("../autoscaling/VmTally.ts")]))
  const tally = yield* Effect.provide(VmTally, VmTally.layer)
  const { address, cgroup, fileCacheConnstr, path, policy } = options
  const monitor = vmMonitor({
    address,
    cgroup,
    policy,
    fileCacheConnstr,
    disableLfcResizing: (spec) => spec?.disableLfcResizing ?? false
  })
  return {
    actor: { ...monitor, run: Effect.provide(monitor.run, Layer.succeed(VmTally, tally)) },
    enter: (request) => cgroupCommand({ root: defaultCgroupRoot, name: cgroup, policy, path }, request),
    metrics: Effect.map(tally.now, (now) => printFamilies(vmFamilies(now)))
  } satisfies Vm
})
