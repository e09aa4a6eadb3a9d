/**
 * When local storage makes a new base, and which files of PGDATA belong into one. Pure.
 *
 * A base costs a copy of the cluster; the WAL since the last one costs replay at the next start.
 */
import type { Lsn } from "../../spec/identifiers.ts"

export interface BaseLimits {
  /** WAL since the base, in bytes, that is always allowed. */
  readonly walBytes: number
  /** Transactions that wrote, since the base: with small records, bytes alone understate replay time. */
  readonly transactions: number
  /** Databases made since the base: replaying one copies a whole directory but is a few bytes of WAL. */
  readonly databases: number
}

export const defaultBaseLimits: BaseLimits = { walBytes: 64 * 1024 * 1024, transactions: 100_000, databases: 8 }

/** Replay runs at about 300 MB/s, so this bounds it to a few seconds however large the cluster is. */
const mostWalBytes = 512 * 1024 * 1024

interface SinceBase {
  readonly baseStart: Lsn
  readonly baseBytes: number
  readonly walAt: Lsn
  readonly transactions: number
  readonly databases: number
  /** A segment that the base needs is gone: nothing could be started from it any more. */
  readonly broken: boolean
}

/**
 * More WAL than a base may be late by: with it a start begins, or a life of a few seconds each would let it grow. Users
 * wait for it, so it is a good deal more than what makes a base due: half of a large cluster's size.
 */
export const baseOverdue = (gathered: bigint, baseBytes: number, limits: BaseLimits): boolean =>
  gathered > 2n * allowedBytes(2 * baseBytes, limits)

const allowedBytes = (baseBytes: number, limits: BaseLimits): bigint =>
  BigInt(Math.max(limits.walBytes, Math.min(Math.floor(baseBytes / 8), mostWalBytes)))

/**
 * Why a new base is due; `null` when it is not. A large cluster may gather an eighth of its size in WAL first: with the
 * base and the spare that is a little more than twice its size.
 */
export const baseDue = (since: SinceBase, limits: BaseLimits): string | null => {
  const allowed = allowedBytes(since.baseBytes, limits)
  if (since.broken) return "WAL that the present base needs was removed"
  if (since.walAt - since.baseStart > allowed) return `${since.walAt - since.baseStart} bytes of WAL since the base`
  if (since.transactions > limits.transactions) return `${since.transactions} transactions since the base`
  if (since.databases > limits.databases) return `${since.databases} databases made since the base`
  return null
}

/**
 * How a spare or a base is made: without a rest where more WAL has gathered than makes a base due, because it goes on
 * gathering until the base is there, and takes room. `gathered` is the WAL since the present base.
 */
export const paceFor = (gathered: bigint, baseBytes: number, limits: BaseLimits): "background" | "hurried" =>
  gathered > 2n * allowedBytes(baseBytes, limits) ? "hurried" : "background"

/** Folders whose content Postgres makes anew at each start, or that must not be carried over. */
const emptied = new Set([
  "pg_wal",
  "pg_replslot",
  "pg_dynshmem",
  "pg_notify",
  "pg_serial",
  "pg_snapshots",
  "pg_stat_tmp",
  "pg_subtrans"
])

/** The files at the top that are Postgres's own. The settings files are written by us at each start. */
const topFiles = new Set(["PG_VERSION", "pg_ident.conf"])

/** Never in a base, wherever they are: temporary files, and a cache that is rebuilt when missing. */
const passing = /^(pgsql_tmp.*|pg_internal\.init.*|t\d+_\d+(_.+)?|\.DS_Store)$/

/** `empty`: the folder without its content. Paths are relative to PGDATA, with `/`. */
export const contentRule = (path: string, kind: "file" | "directory"): "copy" | "empty" | "skip" => {
  const slash = path.lastIndexOf("/")
  if (passing.test(path.slice(slash + 1))) return "skip"
  if (slash !== -1) return "copy"
  if (kind === "file") return topFiles.has(path) ? "copy" : "skip"
  if (emptied.has(path)) return "empty"
  return path === "base" || path === "global" || path.startsWith("pg_") ? "copy" : "skip"
}
