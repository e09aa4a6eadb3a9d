/**
 * What a service manager (systemd with `Type=notify`, or a container runtime) is told of the compute: that it is ready,
 * what it is doing, that a spec is read again, that it ends, and that it is alive. Only where `NOTIFY_SOCKET` is set.
 *
 * Ready is a compute that accepts connections, and one that waits for somebody to send it a spec: a machine whose boot
 * waits for its services must not wait for that. What cannot be sent is the condition `actor_failing`, no more.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import { hrtime } from "node:process"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Snapshot } from "../compute/snapshot.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { isTerminating } from "../compute/transitions.ts"
import { notify } from "../platform/notifySocket.ts"

export interface ServiceManager {
  readonly actor: Actor<ComputeState>
  /** Around the reading and the apply of a spec that the manager asked for (SIGHUP). */
  readonly reload: <A, E, R>(work: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

/** As the manager sets them. */
export interface ManagerEnvironment {
  readonly NOTIFY_SOCKET?: string | undefined
  /** Microseconds without a message after which we count as dead. */
  readonly WATCHDOG_USEC?: string | undefined
  /** Whom it watches; not there: whoever reads it. */
  readonly WATCHDOG_PID?: string | undefined
}

type Send = (assignments: ReadonlyArray<string>) => Effect.Effect<void, unknown>

type Phase = "starting" | "ready" | "stopping"

/** What is told. */
export interface View {
  readonly phase: Phase
  readonly status: string
}

/** A status that changes more often is told so often. */
const statusEvery = Duration.seconds(1)
/** A recovery gets this much more time, so often: the postmaster's own watch ends one that stands still. */
const extension = Duration.minutes(1)
const extendEvery = Duration.seconds(20)
/** One message that gets lost does not end a compute. */
const pingsPerWatchdog = 3

const recoveryOf = ({ degraded, status }: Snapshot) =>
  status === "init" ? degraded.find(({ code }) => code === "recovering") : undefined

const statusOf = (now: Snapshot): string => {
  switch (now.status) {
    case "empty":
      return now.waitingFor === null ? "Starting" : `Waiting for ${now.waitingFor}`
    case "init": {
      const last = now.steps.at(-1)
      return recoveryOf(now)?.message ?? (last === undefined ? "Starting" : `Starting: ${last.name} is done`)
    }
    case "running": {
      const codes = [...new Set(now.degraded.map(({ code }) => code))].join(", ")
      const base =
        now.notAccepting === null
          ? "Postgres accepts connections"
          : `Postgres takes no new sessions: ${now.notAccepting}`
      return codes === "" ? base : `${base}; not as it should be: ${codes}`
    }
    case "configuration_pending":
    case "configuration":
      return now.postgresAlive ? "Applying a new spec" : "Starting"
    case "refresh_configuration_pending":
    case "refresh_configuration":
      return "Fetching the spec again"
    case "failed":
      return `Failed: ${now.error ?? "no cause is known"}`
    case "termination_pending_fast":
    case "termination_pending_immediate":
      return "Stopping Postgres"
    case "terminated":
      return "Postgres is stopped"
  }
}

/** Once ready it stays so until it ends: a failed compute whose Postgres lives can be healed by a new spec. */
const phaseOf = (now: Snapshot, before: Phase): Phase => {
  if (isTerminating(now.status) || (now.status === "failed" && !now.postgresAlive)) return "stopping"
  if (now.status === "running" || (now.status === "empty" && now.waitingFor !== null)) return "ready"
  return before
}

export const viewOf = (now: Snapshot, before: Phase): View => ({ phase: phaseOf(now, before), status: statusOf(now) })

const edges: Record<Phase, ReadonlyArray<string>> = { starting: [], ready: ["READY=1"], stopping: ["STOPPING=1"] }

/** What has changed since `told`, as assignments. */
export const changesBetween = (told: View, now: View): ReadonlyArray<string> => [
  ...(now.phase === told.phase ? [] : edges[now.phase]),
  ...(now.status === told.status ? [] : [`STATUS=${now.status}`])
]

const micros = (duration: Duration.Duration): string => String(Math.round(Duration.toMillis(duration) * 1000))

/** `null`: nobody watches us. */
const pingEvery = ({ WATCHDOG_PID, WATCHDOG_USEC }: ManagerEnvironment, pid: number): Duration.Duration | null => {
  const usec = Number(WATCHDOG_USEC)
  if (!(usec > 0) || (WATCHDOG_PID !== undefined && Number(WATCHDOG_PID) !== pid)) return null
  return Duration.millis(usec / 1000 / pingsPerWatchdog)
}

const until = (state: ComputeState["Service"], wanted: (now: Snapshot) => boolean) =>
  state.changes.pipe(Stream.filter(wanted), Stream.runHead, Effect.asVoid)

/** Ready and stopping at once, the status now and then; nothing at all of a start that is over within a second. */
const tellView = (send: Send, phase: { now: Phase }) =>
  Effect.gen(function* () {
    const state = yield* ComputeState
    let told: View = { phase: "starting", status: "" }
    let at = yield* Clock.currentTimeMillis
    while (true) {
      const view = viewOf(yield* state.now, told.phase)
      const left = Duration.toMillis(statusEvery) - ((yield* Clock.currentTimeMillis) - at)
      if (view.phase !== told.phase || (view.status !== told.status && left <= 0)) {
        phase.now = view.phase
        yield* send(changesBetween(told, view))
        at = yield* Clock.currentTimeMillis
        told = view
        continue
      }
      const before = told
      yield* view.status === told.status
        ? until(state, (now) => changesBetween(before, viewOf(now, before.phase)).length > 0)
        : Effect.raceFirst(
            Effect.sleep(Duration.millis(left)),
            until(state, (now) => phaseOf(now, before.phase) !== before.phase)
          )
    }
  })

const extendRecovery = (send: Send) =>
  Effect.gen(function* () {
    const state = yield* ComputeState
    while (true) {
      yield* until(state, (now) => recoveryOf(now) !== undefined)
      yield* send([`EXTEND_TIMEOUT_USEC=${micros(extension)}`])
      yield* Effect.sleep(extendEvery)
    }
  })

/** `null`: nobody wants to be told. */
export const serviceManager = (
  environment: ManagerEnvironment,
  pid: number,
  deliver: (socket: string, assignments: ReadonlyArray<string>) => Effect.Effect<void, unknown> = notify
): ServiceManager | null => {
  const socket = environment.NOTIFY_SOCKET
  if (!socket) return null
  const turn = Semaphore.makeUnsafe(1)
  // One at a time, so that they arrive in order.
  const send: Send = (assignments) => turn.withPermit(deliver(socket, assignments))
  const every = pingEvery(environment, pid)
  const phase: { now: Phase } = { now: "starting" }
  const whileReady = (assignments: () => ReadonlyArray<string>) =>
    Effect.suspend(() => (phase.now === "ready" ? Effect.ignore(send(assignments())) : Effect.void))
  return {
    actor: {
      name: "service manager",
      kind: "auxiliary",
      run: Effect.all(
        [
          tellView(send, phase),
          extendRecovery(send),
          ...(every === null ? [] : [Effect.forever(Effect.andThen(send(["WATCHDOG=1"]), Effect.sleep(every)))])
        ],
        { concurrency: "unbounded", discard: true }
      )
    },
    reload: (work) =>
      whileReady(() => ["RELOADING=1", `MONOTONIC_USEC=${hrtime.bigint() / 1000n}`]).pipe(
        Effect.andThen(work),
        Effect.ensuring(whileReady(() => ["READY=1"]))
      )
  }
}
