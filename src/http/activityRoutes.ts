/**
 * The routes that explain activity, and the holds that keep a compute awake. What moves `last_active` while a hold
 * lasts is the activity monitor's, not theirs.
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import { randomUUID } from "node:crypto"
import { maxHolds } from "../activity/activity.ts"
import { monotonicMillis } from "../activity/ActivityMonitor.ts"
import type { HourRecorder } from "../activity/HourRecorder.ts"
import type { ComputeState } from "../compute/ComputeState.ts"
import type { Hold } from "../compute/snapshot.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { answered, json, readBody } from "./answer.ts"
import { HoldBody } from "./bodies.ts"
import { refusal } from "./refusals.ts"
import { activityBody, holdBody } from "./views.ts"

const tooMany = refusal(
  429,
  "too_many_holds",
  `there are ${maxHolds} holds already`,
  "release one, or wait until one expires"
)
const noHold = refusal(404, "hold_unknown", "there is no such hold", "it was released, or it has expired")

export const activityRoutes = (state: ComputeState["Service"], apiVersion: ApiVersion, hour: HourRecorder) => {
  const hold = Effect.gen(function* () {
    const { reason, ttl_seconds } = yield* readBody(HoldBody, apiVersion, "invalid hold")
    const now = yield* Clock.currentTimeMillis
    const ttl = ttl_seconds * 1000
    const endsAt = (yield* monotonicMillis) + ttl
    const made: Hold = { id: randomUUID(), reason, createdAt: now, expiresAt: now + ttl, endsAt }
    yield* state.note(({ holds }) => (holds.length < maxHolds ? { holds: [...holds, made] } : {}))
    const taken = (yield* state.now).holds.includes(made)
    return taken ? json(holdBody(made), 201) : yield* Effect.fail(tooMany)
  })

  const release = Effect.fnUntraced(function* (id: string) {
    const now = yield* DateTime.now
    const found = (yield* state.now).holds.find((one) => one.id === id)
    if (found === undefined) return yield* Effect.fail(noHold)
    yield* state.active(now)
    yield* state.note(({ holds }) => ({ holds: holds.filter((one) => one.id !== id) }))
    return holdBody({ ...found, expiresAt: now.epochMilliseconds })
  })

  return {
    activity: () =>
      Effect.map(Effect.all([state.now, Clock.currentTimeMillis, monotonicMillis]), ([snapshot, now, monotonicNow]) =>
        activityBody(apiVersion, snapshot, hour.minutes(snapshot, now), monotonicNow)
      ),
    holds: () => Effect.map(state.now, ({ holds }) => ({ holds: holds.map(holdBody) })),
    hold: () => answered(hold),
    release: ({ params }: { readonly params: { readonly id: string } }) => answered(release(params.id))
  }
}
