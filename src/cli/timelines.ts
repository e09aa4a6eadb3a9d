/**
 * `compute_ctl timelines`: the timelines of a local storage as a tree of branches; `timelines rm` removes one of them,
 * and `compute_ctl branch` makes one. A timeline is named as the tree has it: by its id, with its tenant before it
 * where two tenants have the same.
 */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as path from "node:path"
import { BranchRefused, type Failure, StorageMissing } from "../errors/Failure.ts"
import { causesOf, failed, hintOf } from "../errors/policy.ts"
import { Spawn } from "../platform/Spawn.ts"
import {
  type Lsn,
  parseLsn,
  parseTenantId,
  parseTimelineId,
  printLsn,
  type TenantId,
  type TimelineId
} from "../spec/identifiers.ts"
import { branchTimeline } from "../storage/local/branch.ts"
import { timelinesOf } from "../storage/local/layout.ts"
import { listTimelines, removeTimeline, type TimelineInfo } from "../storage/local/timelines.ts"
import { type Given, type Read, usageError } from "./given.ts"
import type { StorageChoice } from "./RunSettings.ts"

type Print = (text: string) => void

/** As somebody wrote it; `tenant` is looked for in the storage where it is not said. */
interface TimelineName {
  readonly tenant: TenantId | null
  readonly timeline: TimelineId
}

export interface BranchSettings {
  readonly directory: string
  readonly from: TimelineName
  readonly to: TimelineId
  /** `null`: as late as can be. */
  readonly at: Lsn | null
}

export interface TimelinesSettings {
  readonly directory: string
  readonly json: boolean
  /** To be removed. */
  readonly remove: TimelineName | null
}

const readName = (word: string): Read<TimelineName> => {
  const [, before, last = ""] = /^(?:([^/]*)\/)?([^/]*)$/.exec(word) ?? []
  const tenant = before === undefined ? null : Option.getOrUndefined(parseTenantId(before))
  const timeline = Option.getOrUndefined(parseTimelineId(last))
  return tenant === undefined || timeline === undefined
    ? usageError(null, "a timeline is 32 hexadecimal digits, or TENANT/TIMELINE with 32 each")
    : Result.succeed({ tenant, timeline })
}

const readFolder = (storage: StorageChoice, command: string): Read<string> =>
  storage._tag === "Local" && storage.directory !== null
    ? Result.succeed(path.resolve(storage.directory))
    : usageError("--storage", `${command} needs --storage local:DIR`)

export const readBranch = (given: Given, words: ReadonlyArray<string>, storage: StorageChoice): Read<BranchSettings> =>
  Result.gen(function* () {
    const [from, to] = words
    if (from === undefined || to === undefined || words.length > 2) {
      return yield* usageError(null, "branch takes two timelines: the one to branch, and the one to make of it")
    }
    const at = given.get("at")
    const lsn = at === undefined ? null : Option.getOrUndefined(parseLsn(at.value))
    if (lsn === undefined) return yield* usageError(at?.as ?? null, "--at expects an LSN, such as 0/1A2B3C4")
    const made = yield* readName(to)
    const parent = yield* readName(from)
    if (made.tenant !== null && made.tenant !== parent.tenant) {
      return yield* usageError(null, "a branch belongs to the tenant of the timeline that it is a branch of")
    }
    return { directory: yield* readFolder(storage, "branch"), from: parent, to: made.timeline, at: lsn }
  })

export const readTimelines = (
  given: Given,
  words: ReadonlyArray<string>,
  storage: StorageChoice
): Read<TimelinesSettings> =>
  Result.gen(function* () {
    const [verb, word] = words
    if (verb !== undefined && (verb !== "rm" || word === undefined || words.length > 2)) {
      return yield* usageError(null, "timelines takes no words, or rm and the timeline to remove")
    }
    const directory = yield* readFolder(storage, "timelines")
    return { directory, json: given.has("json"), remove: word === undefined ? null : yield* readName(word) }
  })

/** The tenant, where only one has such a timeline. */
const resolve = Effect.fnUntraced(function* (
  directory: string,
  name: TimelineName
): Effect.fn.Return<TenantId, Failure> {
  if (name.tenant !== null) return name.tenant
  const tenants = (yield* timelinesOf(directory)).flatMap((known) => {
    const [tenant = "", timeline] = known.split("/")
    return timeline === name.timeline ? Option.toArray(parseTenantId(tenant)) : []
  })
  const [first, second] = tenants
  if (first === undefined) {
    const hint = "compute_ctl timelines says which there are"
    return yield* new StorageMissing({ directory, detail: `no tenant has a timeline ${name.timeline}`, hint })
  }
  if (second === undefined) return first
  return yield* new BranchRefused({
    detail: `${tenants.length} tenants have a timeline ${name.timeline}`,
    hint: `say which: ${first}/${name.timeline}`
  })
})

const units = ["kB", "MB", "GB", "TB"] as const

const printBytes = (bytes: number): string => {
  let value = bytes / 1000
  let unit = 0
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`
}

/** To the second, in UTC. */
const printTime = (millis: number): string =>
  DateTime.formatIso(DateTime.makeUnsafe(millis))
    .replace("T", " ")
    .replace(/\.\d+Z$/, "Z")

const rowOf = (info: TimelineInfo, indent: string): ReadonlyArray<string> => [
  `${indent}${info.timeline}`,
  info.ancestor === null ? "" : `at ${info.ancestor.lsn}`,
  printBytes(info.bytes),
  `own ${printBytes(info.ownBytes)}`,
  info.usedAt === null ? "never used" : printTime(info.usedAt),
  info.holder === null ? "" : `running (${info.holder})`
]

/** Branches below what they are branches of; one whose ancestor is gone stands alone. */
export const printTree = (infos: ReadonlyArray<TimelineInfo>): string => {
  const rows: Array<ReadonlyArray<string>> = []
  const addBranches = (of: TimelineInfo, indent: string): void => {
    const branches = infos.filter(({ ancestor, tenant }) => tenant === of.tenant && ancestor?.timeline === of.timeline)
    for (const [index, info] of branches.entries()) {
      const isLast = index === branches.length - 1
      rows.push(rowOf(info, `${indent}${isLast ? "└─ " : "├─ "}`))
      addBranches(info, `${indent}${isLast ? "   " : "│  "}`)
    }
  }
  for (const tenant of new Set(infos.map((info) => info.tenant))) {
    rows.push([`tenant ${tenant}`])
    const own = infos.filter((info) => info.tenant === tenant)
    for (const info of own) {
      if (own.some(({ timeline }) => timeline === info.ancestor?.timeline)) continue
      rows.push(rowOf(info, "  "))
      addBranches(info, "  ")
    }
  }
  const widths = [0, 1, 2, 3, 4].map((column) =>
    Math.max(0, ...rows.filter((row) => row.length > 1).map((row) => row[column]?.length ?? 0))
  )
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join("  ")
          .trimEnd()}\n`
    )
    .join("")
}

const jsonOf = (info: TimelineInfo) => ({
  tenant_id: info.tenant,
  timeline_id: info.timeline,
  ancestor_timeline_id: info.ancestor?.timeline ?? null,
  ancestor_lsn: info.ancestor?.lsn ?? null,
  branched_at: info.ancestor?.made ?? null,
  bytes: info.bytes,
  own_bytes: info.ownBytes,
  used_at: info.usedAt === null ? null : DateTime.formatIso(DateTime.makeUnsafe(info.usedAt)),
  running: info.holder !== null
})

const ended = (work: Effect.Effect<void, Failure>, err: Print): Effect.Effect<number> =>
  work.pipe(
    Effect.as(0),
    Effect.catch((failure) =>
      Effect.sync(() => {
        err(`${causesOf(failure).join(": ")} (hint: ${hintOf(failure)})\n`)
        return failed
      })
    )
  )

/** The exit code. */
export const branchCommand = (
  { at, directory, from, to }: BranchSettings,
  out: Print,
  err: Print
): Effect.Effect<number> =>
  ended(
    Effect.gen(function* () {
      const tenantId = yield* resolve(directory, from)
      const request = { storage: directory, tenantId, from: from.timeline, to, ...(at === null ? {} : { at }) }
      const { lsn } = yield* Effect.provide(branchTimeline(request), Spawn.layer)
      out(`${tenantId}/${to} is a branch of ${from.timeline} at ${printLsn(lsn)}\n`)
    }),
    err
  )

/** The exit code. */
export const timelinesCommand = (
  { directory, json, remove }: TimelinesSettings,
  out: Print,
  err: Print
): Effect.Effect<number> =>
  ended(
    Effect.gen(function* () {
      if (remove !== null) {
        const tenantId = yield* resolve(directory, remove)
        yield* removeTimeline({ storage: directory, tenantId, timelineId: remove.timeline })
        return out(`${tenantId}/${remove.timeline} is removed\n`)
      }
      const infos = yield* listTimelines(directory)
      if (json) return out(`${JSON.stringify(infos.map(jsonOf), null, 2)}\n`)
      out(infos.length === 0 ? `${directory}: no timeline of local storage is here\n` : printTree(infos))
    }),
    err
  )
