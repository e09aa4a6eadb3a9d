/**
 * What lies in PGDATA and is not data: removed at each start, so that nothing of it outlives the spec that it came
 * from. The files of the configuration are then written anew (`postgres/startPlan.ts`).
 *
 * What is not known to be something else counts as data and stays: an extension may keep its keys there. What Postgres
 * itself throws away when it starts (temporary files, notifications, snapshots, shared memory) is left to it.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { attempt, textOrNull } from "../../platform/files.ts"
import { certificateFile, keyFile } from "../../postgres/postgresqlConf.ts"
import { removeTree } from "../local/disk.ts"
import { failpoint } from "../local/failpoint.ts"
import type { VolumeLayout } from "./layout.ts"

const names = new Set([
  "postmaster.pid",
  "postmaster.opts",
  "current_logfiles",
  "current_logfiles.tmp",
  "promote",
  "fallback_promote",
  "logrotate",
  "recovery.done",
  "backup_label.old",
  "tablespace_map.old",
  "backup_manifest",
  "neon-communicator.socket",
  ...[certificateFile, keyFile].flatMap((name) => [name, `${name}.new`])
])

/** Configuration and halves of it; signals; core dumps. */
const patterns: ReadonlyArray<RegExp> = [/\.conf(\.|$)/, /\.signal(\.|$)/, /^core(\.|$)/, /^\.s\.PGSQL\./]

/** No folder is ever taken for one of these files: it may hold anything. */
const isTransient = (entry: fs.Dirent): boolean =>
  !entry.isDirectory() &&
  (names.has(entry.name) ||
    patterns.some((pattern) => pattern.test(entry.name)) ||
    !(entry.isFile() || entry.isSymbolicLink()))

/** What somebody may miss, and why it is gone. */
const remark = (name: string): string | null =>
  name.endsWith(".signal")
    ? `${name} is removed: a compute recovers to the end of the WAL and serves as its spec says`
    : null

const settingsByHand = Effect.fnUntraced(function* (layout: VolumeLayout) {
  const auto = (yield* textOrNull(`${layout.root}/postgresql.auto.conf`)) ?? ""
  const set = auto
    .split("\n")
    .map((line) => line.replace(/\s*=.*$/, "").trim())
    .filter((name) => name !== "" && !name.startsWith("#"))
  if (set.length > 0) {
    yield* Effect.logWarning(`settings by ALTER SYSTEM do not outlive a start; dropped: ${set.join(", ")}`)
  }
})

/** Only when nobody else can be there. */
export const removeTransient = Effect.fn("VolumeStorage.removeTransient")(function* (layout: VolumeLayout) {
  yield* Effect.ignore(settingsByHand(layout))
  const entries = yield* attempt("list", layout.root, () => fs.readdirSync(layout.root, { withFileTypes: true }))
  for (const entry of entries.filter(isTransient)) {
    const said = remark(entry.name)
    if (said !== null) yield* Effect.logWarning(said)
    yield* removeTree(`${layout.root}/${entry.name}`)
  }
  yield* failpoint("volume-cleaned")
})
