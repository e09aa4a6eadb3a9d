/**
 * The vm-monitor: tells the autoscaler's agent when Postgres needs more memory and whether it can do with less.
 *
 * Listens while Postgres runs after a start that succeeded, and is done when the compute is ending. One agent at a
 * time: the newest wins. It moves no memory itself and writes nothing but the limit of the file cache.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as os from "node:os"
import { ComputeState, type Snapshot } from "../compute/ComputeState.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import { ListenFailed } from "../errors/Failure.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { isTerminating, type Status } from "../compute/Status.ts"
import { parseVmAddress } from "./vmAddress.ts"
import type { CgroupPolicy } from "./vmCgroup.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { bridge, type Surroundings } from "./agent.ts"
import { defaultCgroupRoot, openCgroup } from "./Cgroup.ts"
import { openDoor } from "./door.ts"
import { openFileCache } from "./FileCache.ts"
import type { Peer } from "./Peer.ts"
import { quietly } from "./telling.ts"
import type { VmTally } from "./VmTally.ts"

export interface VmMonitorOptions {
  /** `host:port`, such as `0.0.0.0:10301`; with port 0 the system chooses. */
  readonly address: string
  /** Relative to the root. `null`: no memory is watched, and every downscale is granted. */
  readonly cgroup: string | null
  /** `/sys/fs/cgroup` by default. */
  readonly cgroupRoot?: string
  /** What to do for agents when the cgroup cannot be used. `refuse` by default. */
  readonly policy?: CgroupPolicy
  /** Where the superuser of our Postgres is reached. `null`: the file cache is left alone. */
  readonly fileCacheConnstr: ConnString | null
  /** Looked up when the listening begins. */
  readonly disableLfcResizing?: (spec: ParsedSpec | null) => boolean
  /** Bytes. The kernel's own total by default, which in a container is the host's. */
  readonly totalMemory?: number
}

export const defaultVmAddress = "0.0.0.0:10301"
export const defaultCgroup = "neon-postgres"

export interface Serving {
  readonly port: number
  /** Attends to agents until it is interrupted. */
  readonly attend: Effect.Effect<never, never, VmTally>
}

interface Arrival {
  readonly peer: Peer
  readonly replaced: Deferred.Deferred<void>
}

const tellBlindEveryMillis = 60_000
/** Agents that are on their way in; beyond that they are turned away. */
const arrivals = 16

const surroundingsOf = (options: VmMonitorOptions, spec: ParsedSpec | null): Surroundings => {
  const { cgroup, cgroupRoot: root = defaultCgroupRoot, fileCacheConnstr: at } = options
  return {
    totalMemory: options.totalMemory ?? os.totalmem(),
    cgroup: cgroup === null ? null : openCgroup({ root, name: cgroup }),
    policy: options.policy ?? "refuse",
    tellBlind: quietly(tellBlindEveryMillis),
    openCache: at === null || options.disableLfcResizing?.(spec) === true ? null : openFileCache(at)
  }
}

/** Listens from now until the scope closes; agents are attended to only while `attend` runs. */
export const serve = Effect.fn("Vm.serve")(function*(
  options: VmMonitorOptions,
  spec: ParsedSpec | null
): Effect.fn.Return<Serving, ListenFailed, Scope.Scope> {
  const address = parseVmAddress(options.address)
  if (Result.isFailure(address)) {
    const cause = new Error(`${JSON.stringify(options.address)}: ${address.failure}`)
    return yield* new ListenFailed({ what: "the vm-monitor", port: 0, cause })
  }
  const queue = yield* Queue.dropping<Arrival>(arrivals)
  let newest: Arrival | undefined
  const port = yield* openDoor(address.success, (peer) => {
    const before = newest
    newest = { peer, replaced: Deferred.makeUnsafe() }
    // The swap and the word to the old one happen in one turn, so two that come together cannot both stay.
    if (before !== undefined) Deferred.doneUnsafe(before.replaced, Effect.void)
    if (!Queue.offerUnsafe(queue, newest)) peer.drop()
  })
  const surroundings = surroundingsOf(options, spec)
  const attend = Effect.scoped(Effect.gen(function*() {
    const agents = yield* FiberSet.make()
    while (true) {
      const { peer, replaced } = yield* Queue.take(queue)
      const life = Effect.catchCause(bridge(peer, Deferred.await(replaced), surroundings), (cause) =>
        Effect.logError(`the connection of the agent ${peer.name} broke`, cause))
      yield* FiberSet.run(agents, life)
    }
  }))
  yield* Effect.logInfo(`the vm-monitor listens on port ${port}`)
  return { port, attend }
})

const ending = ["termination_pending_fast", "termination_pending_immediate", "terminated"] as const satisfies ReadonlyArray<Status>

/** A compute that failed to take a new spec still serves; one whose Postgres is gone does not. */
const over = ({ postgresAlive, status }: Snapshot): boolean => isTerminating(status) || (status === "failed" && !postgresAlive)

export const vmMonitor = (options: VmMonitorOptions): Actor<ComputeState | VmTally> => ({
  name: "vm-monitor",
  policy: "transient",
  run: Effect.gen(function*() {
    const state = yield* ComputeState
    while (true) {
      const { spec, status } = yield* state.until("running", ...ending)
      if (isTerminating(status)) return
      const work = Effect.scoped(Effect.flatMap(serve(options, spec), ({ attend }) => attend))
      yield* Effect.raceFirst(work, Stream.runHead(Stream.filter(state.changes, over)))
    }
  })
})
