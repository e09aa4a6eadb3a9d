/**
 * How many connections an apply may hold at once (docs/reference/compute_ctl.md#apply-concurrency, without its zero
 * that waits for ever).
 *
 * While Postgres starts nobody else is connected; on a live system only what is reserved for superusers is ours.
 */
import { readConf } from "../postgres/confText.ts"
import { type ParsedSpec, settingOf } from "../spec/ParsedSpec.ts"
import type { ApplyOptions } from "./Catalog.ts"

const wholeNumber = (text: string | null | undefined): number | null =>
  text != null && /^\d+$/.test(text.trim()) ? Number(text) : null

/** From the settings, which come later in the file, or else from the verbatim head of postgresql.conf. */
const setting = (spec: ParsedSpec, name: string): number | null =>
  wholeNumber(settingOf(spec.settings, name)) ??
  wholeNumber(readConf(spec.postgresqlConf ?? "").findLast((entry) => entry.name === name)?.value)

const shareOf = (maxConnections: number): number =>
  maxConnections < 10
    ? Math.max(1, maxConnections)
    : maxConnections < 30
      ? 10
      : Math.min(100, Math.trunc(maxConnections / 3))

/** More connections than this only queue for the same locks and disks. */
const useful = 16

/** At least 1, whatever the spec says. */
export const concurrencyOf = (spec: ParsedSpec, kind: ApplyOptions["kind"]): number => {
  if (kind === "start") return Math.min(useful, shareOf(setting(spec, "max_connections") ?? 10))
  // One of them stays free for the monitor and for people; 3 is Postgres's own default.
  const ours = (setting(spec, "superuser_reserved_connections") ?? 3) - 1
  return Math.max(1, Math.min(useful, spec.reconfigureConcurrency, ours))
}

/** CREATE DATABASE is bound by the disk: beyond four at once nothing is won. */
export const creatorsOf = (concurrency: number): number => Math.max(1, Math.min(4, concurrency))
