/**
 * Where a data directory's content comes from: the one thing that `storage` says and `pgdata` understands.
 */
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { Failure } from "../errors/Failure.ts"
import type { Lsn } from "../spec/Lsn.ts"

/** One attempt at an archive: its bytes, and how long it took to reach who sends it. */
export interface Archive {
  readonly bytes: Stream.Stream<Uint8Array, Failure>
  readonly connectMicros: number
}

export type PgdataSource =
  /** A gzipped tar, asked for anew on every attempt; PGDATA is wiped before each. */
  | {
    readonly _tag: "Archive"
    readonly lsn: Lsn
    readonly open: Effect.Effect<Archive, Failure, Scope.Scope>
  }
  /** The storage arranges the files itself: afterwards PGDATA holds exactly its base, and its inode is the same. */
  | { readonly _tag: "InPlace"; readonly lay: (pgdata: string) => Effect.Effect<void, Failure> }
