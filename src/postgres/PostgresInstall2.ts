/**
 * Which Postgres we run, and as whom: its programs, its version, and the user that owns PGDATA and storage.
 */
import * as Context from "effect/Context"
import type { RunAs } from "../platform/Spawn.ts"

export class PostgresInstall extends Context.Service<PostgresInstall, {
  /** Absolute paths that the run-as user can reach and execute. */
  readonly postgres: string
  /** `null` where the installation lacks it. */
  readonly initdb: string | null
  readonly pgDump: string | null
  readonly major: number
  /** As `postgres --version` says it, without the words: `17.10`. */
  readonly version: string
  readonly runAs: RunAs | null
}>()("compute/host/PostgresInstall") {}
