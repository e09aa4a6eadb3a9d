/**
 * Where the data lives, from whichever source says so first (docs/reference/compute_ctl.md#spec-validation): fields of
 * the spec, then settings of the cluster. Puts what is wrong in `problems`, with the reference's words so that clients
 * find them.
 */
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { redactUrls } from "../errors/redactUrls.ts"
import { type HostPort, parseHostPort, printHostPort } from "../pgwire/address.ts"
import { isConnUrl, parseConnString } from "../pgwire/ConnString.ts"
import type { PageserverConnectionInfoWire } from "./ComputeSpec.ts"
import {
  parseLsn,
  parseTenantId,
  parseTimelineId,
  printShardIndex,
  type TenantId,
  type TimelineId
} from "./identifiers.ts"
import type { ApiVersion, ComputeMode, NeonStorage, Pageservers, PageserverShard, ParsedSpec } from "./ParsedSpec.ts"
import type { JsonPath, Problems } from "./problems.ts"

/** What is read of the wire; `settings` is `cluster.settings`. */
export interface StorageWire {
  readonly tenant_id?: string | null
  readonly timeline_id?: string | null
  readonly ancestor_timeline_id?: string | null
  readonly ancestor_lsn?: string | null
  readonly pageserver_connection_info?: PageserverConnectionInfoWire | null
  readonly pageserver_connstring?: string | null
  readonly shard_stripe_size?: number | null
  readonly safekeepers_generation?: number | null
  readonly safekeeper_connstrings?: ReadonlyArray<string>
  readonly storage_auth_token?: string | null
  readonly settings: ReadonlyArray<{ readonly name: string; readonly value?: string | null }> | null
}

/** A value and the place it came from. */
interface Found<A> {
  readonly value: A
  readonly path: JsonPath
  readonly fromSetting: boolean
}

/** The **first** setting of that name, spelled in any case, counts, and without a value it says nothing. */
const setting = (wire: StorageWire, name: string): Found<string> | null => {
  const index = wire.settings?.findIndex((one) => one.name.toLowerCase() === name) ?? -1
  const value = wire.settings?.[index]?.value ?? null
  return value === null ? null : { value, path: ["cluster", "settings", index, "value"], fromSetting: true }
}

const field = <A>(name: keyof StorageWire, value: A | null | undefined): Found<A> | null =>
  value === null || value === undefined ? null : { value, path: [name], fromSetting: false }

type Report = (path: JsonPath, message: string) => null

const reportIn =
  (problems: Problems): Report =>
  (path, message) => {
    problems.add(path, message)
    return null
  }

export interface StorageReading {
  readonly tenant: TenantId | null
  readonly timeline: TimelineId | null
  readonly ancestor: ParsedSpec["ancestor"]
  readonly neon: NeonStorage | null
}

const zeroId = "0".repeat(32)

/** Local storage needs no addresses, and only keeps its timelines apart by their ids. */
export const readLocalStorage = (wire: StorageWire, problems: Problems): StorageReading => {
  const report = reportIn(problems)
  const timeline = readId(wire, "timeline", parseTimelineId, zeroId, report)
  return {
    tenant: readId(wire, "tenant", parseTenantId, zeroId, report),
    timeline,
    ancestor: readAncestor(wire, timeline, report),
    neon: null
  }
}

/** The schema has seen to it that both are what they should be. */
const readAncestor = (wire: StorageWire, timeline: TimelineId | null, report: Report): ParsedSpec["ancestor"] => {
  const { ancestor_lsn: lsn = null, ancestor_timeline_id: id = null } = wire
  if (id === null) {
    return lsn === null ? null : report(["ancestor_lsn"], "goes with an ancestor_timeline_id, which is missing")
  }
  const ancestor = Option.getOrNull(parseTimelineId(id))
  if (ancestor === null) return null
  if (ancestor === timeline) return report(["ancestor_timeline_id"], "a timeline cannot be a branch of itself")
  return { timeline: ancestor, lsn: lsn === null ? null : Option.getOrNull(parseLsn(lsn)) }
}

export const readNeonStorage = (
  wire: StorageWire,
  { apiVersion, mode }: { readonly mode: ComputeMode["_tag"]; readonly apiVersion: ApiVersion },
  problems: Problems
): StorageReading => {
  const report = reportIn(problems)
  const pageservers = readPageservers(wire, apiVersion, report)
  const safekeepers = readSafekeepers(wire, mode === "Primary", apiVersion, report)
  const tenant = readId(wire, "tenant", parseTenantId, null, report)
  const timeline = readId(wire, "timeline", parseTimelineId, null, report)
  const fromSettings = new Set<"pageservers" | "safekeepers" | "tenant" | "timeline">()
  if (pageservers?.fromSetting === true) fromSettings.add("pageservers")
  if (safekeepers.fromSetting) fromSettings.add("safekeepers")
  if (field("tenant_id", wire.tenant_id) === null) fromSettings.add("tenant")
  if (field("timeline_id", wire.timeline_id) === null) fromSettings.add("timeline")
  const token = wire.storage_auth_token ?? null
  const neon: NeonStorage | null =
    pageservers === null
      ? null
      : {
          pageservers: pageservers.value,
          safekeepers: safekeepers.value,
          safekeepersGeneration: safekeepers.generation,
          token: token === null ? null : Redacted.make(token, { label: "storage_auth_token" }),
          fromSettings
        }
  for (const name of ["ancestor_timeline_id", "ancestor_lsn"] as const) {
    if ((wire[name] ?? null) === null) continue
    report([name], "needs --storage local:DIR; branches of Neon's timelines are made by its pageservers")
  }
  return { tenant, timeline, ancestor: null, neon }
}

const readId = <A>(
  wire: StorageWire,
  what: "tenant" | "timeline",
  parse: (text: string) => Option.Option<A>,
  fallback: string | null,
  report: Report
): A | null => {
  const own = what === "tenant" ? field("tenant_id", wire.tenant_id) : field("timeline_id", wire.timeline_id)
  const found = own ?? setting(wire, `neon.${what}_id`) ?? field("settings", fallback)
  if (found === null) return report([`${what}_id`], `${what} id should be provided`)
  return Option.getOrElse(parse(found.value), () => report(found.path, `invalid ${what} id`))
}

const readPageservers = (wire: StorageWire, apiVersion: ApiVersion, report: Report): Found<Pageservers> | null => {
  const info = field("pageserver_connection_info", wire.pageserver_connection_info)
  if (info !== null) {
    const value = readConnectionInfo(info.value, info.path, report)
    return value === null ? null : { ...info, value }
  }
  const found =
    field("pageserver_connstring", wire.pageserver_connstring) ?? setting(wire, "neon.pageserver_connstring")
  if (found === null) {
    return report(["pageserver_connection_info"], "pageserver connection information should be provided")
  }
  const stripe = found.fromSetting ? settingStripe(wire, report) : (wire.shard_stripe_size ?? null)
  const value = readConnStrings(found, stripe, apiVersion, report)
  return value === null ? null : { ...found, value }
}

const settingStripe = (wire: StorageWire, report: Report): number | null => {
  const found = setting(wire, "neon.stripe_size")
  if (found === null) return null
  const stripe = /^\s*[0-9]{1,10}\s*$/.test(found.value) ? Number(found.value) : -1
  return stripe >= 0 && stripe < 2 ** 32 ? stripe : report(found.path, "expected a number of pages")
}

/** One element: unsharded, and a stripe size means nothing. More: sharded, and the later generation needs it. */
const readConnStrings = (
  found: Found<string>,
  stripe: number | null,
  apiVersion: ApiVersion,
  report: Report
): Pageservers | null => {
  const urls = found.value.split(",").map((url) => url.trim())
  if (urls.length > 255) return report(found.path, "expected at most 255 shards")
  const faults = urls.flatMap((url, number) => {
    const parsed = parseConnString(url)
    return Result.isSuccess(parsed) ? [] : [`expected where shard ${number}'s pageserver is: ${parsed.failure}`]
  })
  for (const fault of faults) report(found.path, fault)
  if (urls.length > 1 && stripe === null && apiVersion === "head")
    return report(found.path, `${urls.length} shards but no stripe_size`)
  if (faults.length > 0) return null
  return {
    shardCount: urls.length === 1 ? 0 : urls.length,
    stripeSize: urls.length === 1 ? null : stripe,
    shards: urls.map((url, number) => ({ number, pageservers: [{ libpqUrl: url, grpcUrl: null }] })),
    preferProtocol: "libpq"
  }
}

/** Shard 0 must be reachable as preferred, at its first pageserver: the basebackup comes from there. */
const readConnectionInfo = (info: PageserverConnectionInfoWire, path: JsonPath, report: Report): Pageservers | null => {
  const preferProtocol = info.prefer_protocol ?? "libpq"
  const shards: Array<PageserverShard> = []
  const entries = new Map<string, readonly [key: string, shard: (typeof info.shards)[string]]>()
  for (const [key, shard] of Object.entries(info.shards)) {
    const index = key.toLowerCase()
    if (!entries.has(index)) entries.set(index, [key, shard])
  }
  for (let number = 0; number < Math.max(1, info.shard_count); number += 1) {
    const index = printShardIndex(number, info.shard_count)
    const entry = entries.get(index)
    const first = entry?.[1].pageservers[0]
    if (entry === undefined) report([...path, "shards"], `shard connection info missing for shard ${index}`)
    else if (first === undefined)
      report([...path, "shards", entry[0], "pageservers"], "must have at least one pageserver")
    else {
      const at = [...path, "shards", entry[0], "pageservers"]
      if (number === 0 && ((preferProtocol === "grpc" ? first.grpc_url : first.libpq_url) ?? null) === null) {
        report([...at, 0], `no ${preferProtocol}_url for shard ${index}`)
      }
      const pageservers = entry[1].pageservers.map(
        ({ grpc_url: grpcUrl = null, libpq_url: libpqUrl = null }, place) => {
          const parsed = libpqUrl === null ? null : parseConnString(libpqUrl)
          if (parsed !== null && Result.isFailure(parsed)) {
            report([...at, place, "libpq_url"], `expected where shard ${number}'s pageserver is: ${parsed.failure}`)
          }
          return { libpqUrl, grpcUrl }
        }
      )
      shards.push({ number, pageservers })
    }
  }
  const stripeSize = info.shard_count === 0 ? null : (info.stripe_size ?? null)
  return { shardCount: info.shard_count, stripeSize, shards, preferProtocol }
}

export interface SafekeeperAddress extends HostPort {
  readonly user: string | null
  readonly password: Redacted.Redacted<string> | null
}

const safekeeperPort = 5454

/** `host:port`, or a URL as some control planes write them. It is handed to Postgres in the words in which it came. */
export const parseSafekeeper = (text: string): Result.Result<SafekeeperAddress, string> =>
  isConnUrl(text)
    ? parseConnString(text, safekeeperPort)
    : Result.map(parseHostPort(text), (at) => ({ ...at, user: null, password: null }))

/** For messages, and to tell two of them apart: `host:port` in whatever spelling it came. */
export const safekeeperName = (text: string): string =>
  Result.match(parseSafekeeper(text), { onFailure: () => redactUrls(text), onSuccess: printHostPort })

/** What is taken as it is, and said aloud: what only the older generation takes. */
export const storageWarnings = (neon: NeonStorage | null): ReadonlyArray<string> => {
  if (neon === null) return []
  const { shardCount, stripeSize } = neon.pageservers
  const seen = new Set<string>()
  const repeated = new Set<string>()
  for (const name of neon.safekeepers.map(safekeeperName)) (seen.has(name) ? repeated : seen).add(name)
  return [
    ...(shardCount > 1 && stripeSize === null
      ? [`pageservers: ${shardCount} shards but no stripe_size: Postgres takes neon.stripe_size as it is by default`]
      : []),
    ...[...repeated].map(
      (name) => `safekeeper_connstrings: ${name} is there twice and has one voice; the later API refuses such lists`
    )
  ]
}

interface SafekeeperReading {
  readonly value: ReadonlyArray<string>
  readonly generation: number | null
  readonly fromSetting: boolean
}

/** The older generation takes a list that names one twice; the start warns, and counts it once. */
const readSafekeepers = (
  wire: StorageWire,
  primary: boolean,
  apiVersion: ApiVersion,
  report: Report
): SafekeeperReading => {
  const given = wire.safekeeper_connstrings ?? []
  const found = given.length > 0 || !primary ? null : setting(wire, "neon.safekeepers")
  if (given.length === 0 && found === null && primary) {
    report(["safekeeper_connstrings"], "safekeeper connstrings should be provided")
  }
  const generation = /^\s*g#([0-9]{1,9}):/.exec(found?.value ?? "")
  const rest = (found?.value ?? "").slice(generation?.[0].length ?? 0)
  const value = (found === null ? given : rest.split(",").filter((one) => one.trim() !== "")).map((one) => one.trim())
  const pathOf = (index: number): JsonPath => (found === null ? ["safekeeper_connstrings", index] : found.path)
  if (found !== null && value.length === 0) report(found.path, "safekeeper_connstrings is empty")
  const times = new Map<string, number>()
  for (const [index, one] of value.entries()) {
    if (Result.isFailure(parseSafekeeper(one))) report(pathOf(index), "expected host:port of a safekeeper, or a URL")
    times.set(one, (times.get(one) ?? 0) + 1)
    // Told once, however often it is there.
    if (primary && apiVersion === "head" && times.get(one) === 2) {
      report(pathOf(index), `duplicate entry in safekeeper_connstrings: ${one}!`)
    }
  }
  return {
    value,
    generation: wire.safekeepers_generation ?? (generation === null ? null : Number(generation[1])),
    fromSetting: found !== null
  }
}
