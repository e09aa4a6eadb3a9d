/**
 * From a spec to the files PGDATA shall hold, before the start and once it is open. Decides everything, does nothing.
 */

/** A file in PGDATA: its name there, and its whole content. */
export interface PgdataFile {
  readonly name: string
  readonly content: string
}

/** Lines to append to a file of the basebackup unless an identical line is there. */
export interface AppendedLine {
  readonly name: string
  readonly line: string
}

export interface StartPlan {
  /** postgresql.conf while Postgres starts and the spec is applied. */
  readonly starting: ReadonlyArray<PgdataFile>
  /** Files once users may connect: what differs from `starting`. Empty: nothing to open. */
  readonly opening: ReadonlyArray<PgdataFile>
  /** pg_hba.conf line and the like, for files that the basebackup brought. */
  readonly appended: ReadonlyArray<AppendedLine>
  /** Empty files such as `standby.signal`. */
  readonly signalFiles: ReadonlyArray<string>
  /** Link `pg_dynshmem` to `/dev/shm/` (reference section 4.7 step 6). */
  readonly linkDynshmem: boolean
  /** Whether the catalog is made to match the spec. */
  readonly applyCatalog: boolean
  /** Content of the temporary override while the catalog is applied; `null`: none is needed. */
  readonly override: string | null
}
