/**
 * What keeps the data when PGDATA is gone, as the lifecycle sees it.
 *
 * Three implementations: Neon's safekeepers and pageserver (`storage/neon`), a folder on this machine from which PGDATA
 * is built (`storage/local`), and PGDATA itself, on a volume (`storage/volume`). Which files and settings they
 * need in PGDATA is decided in `postgres/startPlan.ts`. What a claim holds is released when its scope closes.
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { ExitStatus, Failure, FileFailed } from "../errors/Failure.ts"
import type { RunAs } from "../platform/Spawn.ts"
import type { PgdataSource } from "../postgres/Pgdata.ts"
import type { Lsn } from "../spec/identifiers.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

/** Of the disks of this machine that hold the timeline. */
interface Room {
  /** The effect again, where there was no room for it, without what can be given up. */
  readonly make: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | FileFailed, R>
  /** Gives that up, because Postgres found no room and is gone. */
  readonly giveUp: Effect.Effect<void>
  /** For a person: what is full, how much of it is the timeline's own, and what of that may be deleted. */
  readonly hint: Effect.Effect<string>
}

/** One timeline, claimed by this compute until the scope closes. */
export interface Timeline {
  /** Where small files may be kept from one start to the next. Nothing that a start relies on. */
  readonly notes?: { readonly folder: string; readonly owner: RunAs | null }
  /** Neon's storage is on other machines. */
  readonly room?: Room
  /**
   * Makes what was acknowledged durable and agreed, and learns the LSN it ends at; `null` when there is nothing
   * to agree on (non-primary, local). At the start PGDATA holds postgresql.conf already.
   */
  readonly commitLsn: (moment: "start" | "end") => Effect.Effect<Lsn | null, Failure>
  /** What PGDATA is built from at this LSN (`null`: whatever is latest). */
  readonly source: (lsn: Lsn | null) => PgdataSource
  /**
   * The open configuration is written and Postgres has been signalled: returns when everything acknowledged from now on
   * survives what the durability promises, and everything written so far does too. Until it returns only the
   * superuser can connect.
   */
  readonly secure: Effect.Effect<void, Failure>
  /** Background upkeep while Postgres runs (a new base before replay gets long). Runs until interrupted. */
  readonly keep: Effect.Effect<void, Failure>
  /**
   * Postgres has left: publish what makes the next start fast. Never loses anything when it is skipped. `spent` is how
   * long the stop has taken so far.
   */
  readonly leave: (exit: ExitStatus, spent: Duration.Duration) => Effect.Effect<void, Failure>
}

export class Storage extends Context.Service<
  Storage,
  {
    readonly kind: "neon" | "local" | "volume"
    /** Fences whatever may still write to the timeline of this spec, and keeps others out. */
    readonly claim: (spec: ParsedSpec, pgdata: string) => Effect.Effect<Timeline, Failure, Scope.Scope>
  }
>()("compute/storage/Storage") {}
