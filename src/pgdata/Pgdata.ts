/**
 * The data directory: wiped and built anew on each start, never trusted, never kept.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { FileFailed, Failure } from "../domain/Failure.ts"
import type { PgdataSource } from "../PgdataSource.ts"
import type { PgdataFile, StartPlan } from "../plan/startPlan.ts"

export interface Built {
  /** Bytes of the archive as it came (compressed); 0 when the storage laid the files itself. */
  readonly archiveBytes: number
  readonly connectMicros: number
}

export class Pgdata extends Context.Service<Pgdata, {
  readonly directory: string
  /**
   * Makes the folder (0700, owned by the run-as user). For an archive: empties it and writes the starting files,
   * which `postgres --sync-safekeepers` reads. For files laid in place: leaves the content to the storage.
   */
  readonly begin: (plan: StartPlan, source: PgdataSource["_tag"]) => Effect.Effect<void, FileFailed>
  /** Fills it: archive with retries and a wipe before each, or in place; then files, lines, links, signal files. */
  readonly build: (plan: StartPlan, source: PgdataSource) => Effect.Effect<Built, Failure>
  /** Replaces files one by one, each at once or not at all; tells whether any content changed. */
  readonly rewrite: (files: ReadonlyArray<PgdataFile>) => Effect.Effect<boolean, FileFailed>
}>()("compute/pgdata/Pgdata") {}
