/**
 * Starts what a script describes: a fake compute, control plane, pageserver or safekeeper, with HTTP for whoever drives
 * it. Real sockets; gone with the scope.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import type { FileFailed, ListenFailed } from "../../errors/Failure.ts"
import { FaultQueue, maxArmed, SeenList } from "../peers/faults.ts"
import { inUrl } from "../peers/serverWire.ts"
import { httpFront, type RecordedRequest, timesOf } from "./httpFront.ts"
import type { FakeAddress, FakeFaults, FakeOptions, FakeScript, FakeSeen, RequestFault } from "./script.ts"
import { parseFaults, parseScript, ScriptInvalid } from "./scriptSchema.ts"

const tooMany = new ScriptInvalid({
  source: "a list of faults",
  problems: [{ path: "", message: `more than ${maxArmed} are armed; POST /_reset forgets them` }]
})

// -- the fake -------------------------------------------------------------------------------------------------------

/**
 * A fake peer of a compute, or a fake compute, as a script says.
 *
 * @example
 * ```ts
 * const layer = Fake.layer({ kind: "compute", steps: [{ at: "start", delay: "2s" }] })
 * const status = Effect.gen(function* () {
 *   const { address } = yield* Fake
 *   return yield* Effect.promise(() => fetch(`${address.url}/status`).then((answer) => answer.json()))
 * })
 * ```
 */
export class Fake extends Context.Service<
  Fake,
  {
    readonly address: FakeAddress
    readonly seen: Effect.Effect<FakeSeen>
    /** Arms more of what goes wrong, behind what is armed already. */
    readonly fault: (faults: FakeFaults) => Effect.Effect<void, ScriptInvalid>
    /** As it was at the start: nothing seen, the script from its beginning, of a compute a new life. */
    readonly reset: Effect.Effect<void>
  }
>()("compute/testing/Fake") {
  static readonly layer = (
    script: FakeScript,
    options: FakeOptions = {}
  ): Layer.Layer<Fake, ScriptInvalid | ListenFailed | FileFailed> => Layer.effect(Fake, makeFake(script, options))
}

/**
 * The same until the scope ends. The port of `options` is where the fake's own protocol is spoken.
 *
 * @example
 * ```ts
 * const { address } = yield* makeFake({ kind: "compute", steps: [{ at: "start", delay: "2s" }] })
 * ```
 */
export const makeFake = Effect.fnUntraced(function* (given: FakeScript, options: FakeOptions = {}) {
  const script = yield* Effect.fromResult(parseScript(given, given.kind, "the script"))
  const { kind } = script
  const record = new SeenList<RecordedRequest>()
  const requests = new FaultQueue<RequestFault>()
  const { partsOf } = yield* Effect.promise(() => import("./kinds.ts"))
  const parts = yield* partsOf(script, record, options)
  /** How many there were. */
  const arm = (faults: FakeFaults): Result.Result<number, ScriptInvalid> => {
    const taken = (faults.requests ?? []).map((one) => requests.arm(one, timesOf(one.times)))
    return parts.arm(faults) && taken.every((one) => one)
      ? Result.succeed(Object.values(faults).reduce((sum, list) => sum + list.length, 0))
      : Result.fail(tooMany)
  }
  const scripted: FakeFaults = {
    ...("requests" in script ? { requests: script.requests } : {}),
    ...("attempts" in script ? { attempts: script.attempts } : {})
  }
  yield* Effect.fromResult(arm(scripted))
  const control = {
    seen: (): FakeSeen => ({ kind, ...parts.seen() }),
    fault: (text: string) => Result.flatMap(parseFaults(text, script), arm),
    reset: Effect.andThen(
      Effect.sync(() => {
        record.clear()
        requests.clear()
      }),
      Effect.andThen(
        parts.reset,
        Effect.sync(() => void arm(scripted))
      )
    )
  }
  const { host, port } = yield* httpFront({
    // Beside a protocol of its own it is on a free port.
    listen: parts.url === null ? options : { ...options, port: 0 },
    control,
    handle: parts.handle,
    requests,
    record,
    tokens: parts.tokens
  })
  const http = `http://${inUrl(host)}:${port}`
  return Fake.of({
    address: { kind, url: parts.url ?? http, control: http, ...parts.address },
    seen: Effect.sync(control.seen),
    fault: (faults) => Effect.asVoid(Effect.fromResult(control.fault(JSON.stringify(faults)))),
    reset: control.reset
  })
})
