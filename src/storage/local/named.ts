/**
 * Branches and timelines for the library: ids and LSNs as text, checked here, and nothing to be provided.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { BranchRefused, type Failure } from "../../errors/Failure.ts"
import { Spawn } from "../../platform/Spawn.ts"
import { type Lsn, parseLsn, parseTenantId, parseTimelineId, printLsn } from "../../spec/identifiers.ts"
import { branchTimeline } from "./branch.ts"
import { removeTimeline } from "./timelines.ts"

export interface TimelineName {
  /** The folder of local storage. */
  readonly storage: string
  /** 32 hexadecimal digits, as the timelines; all zeros where the specs name none. */
  readonly tenantId?: string
}

export interface BranchOptions extends TimelineName {
  readonly from: string
  /** Must not be there yet. */
  readonly to: string
  /** Such as `0/1A2B3C4`: with what ended at or before it. Without it with everything that was acknowledged. */
  readonly at?: string
}

export interface RemoveOptions extends TimelineName {
  readonly timelineId: string
}

const zeroId = "0".repeat(32)

const read = <A>(what: string, text: string, parsed: Option.Option<A>, expected: string) =>
  Option.match(parsed, {
    onNone: () =>
      Effect.fail(new BranchRefused({ detail: `${what} is ${JSON.stringify(text)}`, hint: `give ${expected}` })),
    onSome: Effect.succeed
  })

const digits = "32 hexadecimal digits"
const tenantOf = ({ tenantId = zeroId }: TimelineName) => read("tenantId", tenantId, parseTenantId(tenantId), digits)
const timelineOf = (what: string, text: string) => read(what, text, parseTimelineId(text), digits)

/** The LSN at which the two go apart. */
export const branchNamed = Effect.fnUntraced(function* (
  options: BranchOptions
): Effect.fn.Return<{ readonly lsn: string }, Failure> {
  const { at, storage } = options
  const tenantId = yield* tenantOf(options)
  const from = yield* timelineOf("from", options.from)
  const to = yield* timelineOf("to", options.to)
  const lsn: Lsn | null = at === undefined ? null : yield* read("at", at, parseLsn(at), "an LSN, such as 0/1A2B3C4")
  const request = { storage, tenantId, from, to, ...(lsn === null ? {} : { at: lsn }) }
  const made = yield* Effect.provide(branchTimeline(request), Spawn.layer)
  return { lsn: printLsn(made.lsn) }
})

export const removeNamed = Effect.fnUntraced(function* (options: RemoveOptions): Effect.fn.Return<void, Failure> {
  const tenantId = yield* tenantOf(options)
  const timelineId = yield* timelineOf("timelineId", options.timelineId)
  return yield* removeTimeline({ storage: options.storage, tenantId, timelineId })
})
