/**
 * The storages that can be tried: how the program is asked for each, and where it keeps what can be damaged.
 */
import * as fs from "node:fs"
import * as path from "node:path"

export interface StorageKind {
  /** The value of `--storage`. */
  readonly option: (disk: string) => string
  /** The folder of its own small files, once it is there. */
  readonly notes: (disk: string) => string
  readonly wal: (disk: string) => string
  /** It has bases, made beside PGDATA; another PGDATA can be given at each start. */
  readonly bases: boolean
}

const timelineIn = (disk: string): string => {
  const [current] = fs.globSync(`${disk}/storage/*/*/current.json`)
  return current === undefined ? `${disk}/storage` : path.dirname(current)
}

const local: StorageKind = {
  option: (disk) => `local:${disk}/storage`,
  notes: timelineIn,
  wal: (disk) => path.join(timelineIn(disk), "wal"),
  bases: true
}

const volume: StorageKind = {
  option: () => "volume",
  notes: (disk) => path.join(disk, "pgdata/compute_ctl"),
  wal: (disk) => path.join(disk, "pgdata/pg_wal"),
  bases: false
}

export const storages = { local, volume } as const
