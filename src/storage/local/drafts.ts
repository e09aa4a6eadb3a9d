/**
 * Folders beside the timelines of a tenant that are no timeline yet, or none any more: what a branch is made in, and
 * what is being removed. Their names begin with a dot and say which process made them, so that what a program left that
 * was killed is known and goes.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import type { FileFailed } from "../../errors/Failure.ts"
import { namesIn } from "../../platform/files.ts"
import { processOf } from "../../platform/processes.ts"
import { removeTree, statOrNull } from "./disk.ts"

/** No branch takes longer. */
export const draftWithin = Duration.minutes(10)
const staleMillis = Duration.toMillis(draftWithin) * 1.5

/** Process ids mean something only among those that see each other. */
const pidNamespace = (): string => {
  try {
    return /\d+/.exec(fs.readlinkSync("/proc/self/ns/pid"))?.[0] ?? "0"
  } catch {
    return "0"
  }
}

/** A path that nobody else has, for this process. */
export const draftPath = (tenant: string, kind: "branch" | "removed"): string => {
  const startedAt = processOf(process.pid)?.startedAt ?? "0"
  return `${tenant}/.${kind}-${pidNamespace()}-${process.pid}-${startedAt}-${randomBytes(6).toString("hex")}`
}

const pattern = /^\.(branch|removed)-(\d+)-(\d+)-(\d+)-[0-9a-f]{12}$/

const isLeft = Effect.fnUntraced(function* (path: string, [, , namespace, pid, startedAt]: RegExpExecArray) {
  if (namespace === pidNamespace() && startedAt !== "0") return processOf(Number(pid))?.startedAt !== startedAt
  const stat = yield* statOrNull(path)
  return stat !== null && (yield* Clock.currentTimeMillis) - stat.mtimeMs > staleMillis
})

/** Removes what killed programs left among the timelines of a tenant. */
export const removeDrafts: (tenant: string) => Effect.Effect<void, FileFailed> = Effect.fnUntraced(function* (tenant) {
  for (const name of yield* namesIn(tenant)) {
    const match = pattern.exec(name)
    if (match !== null && (yield* isLeft(`${tenant}/${name}`, match))) yield* removeTree(`${tenant}/${name}`)
  }
})
