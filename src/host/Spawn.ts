/**
 * Our own port for child processes: user and group, exit told as code or signal, bytes of stderr unspoiled.
 *
 * `effect/process` signals process groups, knows no uid, and hides the signal a child died of (ADR 0004).
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { ExitStatus } from "../domain/ExitStatus.ts"
import type { SpawnFailed } from "../domain/Failure.ts"
import type { Rung } from "../plan/stopLadder.ts"

/** The user that child processes drop to; `null` in a request means: stay who we are. */
export interface RunAs {
  readonly name: string
  readonly uid: number
  readonly gid: number
}

export interface SpawnRequest {
  readonly command: string
  readonly args: ReadonlyArray<string>
  /** Added to our own environment. `undefined` takes a variable away. */
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly cwd?: string
  readonly runAs: RunAs | null
  /** How the scope's end makes a child leave that has not left: rung by rung. */
  readonly ladder: ReadonlyArray<Rung>
}

export interface Child {
  readonly pid: number
  /** Any number may wait. Never fails, and is not delayed by orphans that hold the pipes. */
  readonly exit: Effect.Effect<ExitStatus>
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  /** Each may be consumed once; unread output is bounded by the pipe, so read it. */
  readonly stdout: Stream.Stream<Uint8Array>
  readonly stderr: Stream.Stream<Uint8Array>
}

export class Spawn extends Context.Service<Spawn, {
  readonly spawn: (request: SpawnRequest) => Effect.Effect<Child, SpawnFailed, Scope.Scope>
}>()("compute/host/Spawn") {}
