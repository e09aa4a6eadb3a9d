/**
 * The routes that give commands: apply a spec, terminate, fetch the spec again; and what became of each spec.
 *
 * They only hand commands to `Commands`. Every wait has a deadline, and a caller that goes away cancels nothing.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Metric from "effect/Metric"
import * as Result from "effect/Result"
import { createHash } from "node:crypto"
import type { Commands } from "../compute/Commands.ts"
import type { ComputeState } from "../compute/ComputeState.ts"
import { counters } from "../compute/counters.ts"
import type { ConfigureRequest, IdempotencyKey, KeyReused } from "../compute/Requests.ts"
import type { IllegalTransition } from "../compute/transitions.ts"
import type { SpecConflict } from "../errors/Failure.ts"
import { printLsn } from "../spec/identifiers.ts"
import { maxSpecBytes } from "../spec/json.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { answered, answeredWithin, answerOf, json, readBody, readTimeout } from "./answer.ts"
import { Caller } from "./Auth.ts"
import { ConfigureBody } from "./bodies.ts"
import type { ServerOptions } from "./options.ts"
import {
  configureRefusal,
  keyReused,
  liveConfigRefused,
  refreshRefused,
  type Refusal,
  refusal,
  refusalOf,
  wrongStatus
} from "./refusals.ts"
import type { Verifier } from "./Verifier.ts"
import { configureRequestBody, statusBody } from "./views.ts"

const noMode = refusal(
  400,
  "mode_missing",
  "failed to deserialize query string: missing field `mode`",
  "use mode=fast or mode=immediate"
)
const badKey = refusal(
  400,
  "idempotency_key_malformed",
  "the idempotency key is not 1 to 255 printable characters",
  "a UUID is a good key"
)
const unknownRequest = refusal(
  404,
  "operation_unknown",
  "there is no such operation",
  "it is unknown, or so old that it was forgotten"
)
const noSource = refusal(
  412,
  "no_spec_source",
  "the spec did not come from a file or a control plane",
  "send a spec to POST /configure"
)

const wantsAsync = (prefer: string | undefined): boolean =>
  (prefer ?? "").split(",").some((preference) => preference.trim().toLowerCase() === "respond-async")

const isDone = (request: ConfigureRequest | null): boolean =>
  request !== null && request.outcome !== null && Result.isSuccess(request.outcome)

const readKey = (key: string | undefined, body: unknown): Result.Result<IdempotencyKey | null, Refusal> =>
  key === undefined
    ? Result.succeed(null)
    : /^[\x20-\x7e]{1,255}$/.test(key)
      ? Result.succeed({ key, fingerprint: createHash("sha256").update(JSON.stringify(body)).digest("base64") })
      : Result.fail(badKey)

const refuse = (apiVersion: ApiVersion, error: IllegalTransition | KeyReused | SpecConflict): Refusal => {
  switch (error._tag) {
    case "KeyReused":
      return keyReused
    case "SpecConflict":
      return refusalOf(error)
    case "IllegalTransition":
      return wrongStatus(apiVersion, "configuration", error.from)
  }
}

const adminsRotate = refusal(
  403,
  "admin_only",
  "only an administrator may replace the keys of the API",
  "use a token of scope compute_ctl:admin, or send the spec without keys"
)

/**
 * What is to be done with the keys of a body once its spec is applied; a refusal before anything is done with the spec.
 * An empty set is what the reference's own client sends, and means none.
 */
const rotationOf = Effect.fnUntraced(function* (verifier: Verifier | null, { compute_ctl_config }: ConfigureBody) {
  const keys = compute_ctl_config?.jwks?.keys ?? []
  if (verifier === null || keys.length === 0 || verifier.isCurrent(keys)) return Effect.void
  if (!(yield* Caller).admin) return yield* Effect.fail(adminsRotate)
  const wrong = verifier.check(keys)
  if (wrong !== null) return yield* Effect.fail(refusalOf(wrong))
  return Effect.ignore(verifier.rotate(keys))
})

const configure = Effect.fnUntraced(function* (
  state: ComputeState["Service"],
  commands: Commands["Service"],
  { apiVersion, liveConfigAllowed, parseSpec, timeouts, verifier }: ServerOptions
) {
  if (!liveConfigAllowed) return yield* Effect.fail(liveConfigRefused)
  const { headers } = yield* HttpServerRequest.HttpServerRequest
  const body = yield* readBody(ConfigureBody, apiVersion, "invalid spec", maxSpecBytes)
  const key = yield* Effect.fromResult(readKey(headers["idempotency-key"], body))
  const rotate = yield* rotationOf(verifier, body)
  const spec = yield* Effect.fromResult(parseSpec(body.spec))
  const mayQueue = wantsAsync(headers["prefer"])
  const request = yield* Effect.mapError(commands.submit({ spec, mayQueue, key }), (error) => refuse(apiVersion, error))
  // Goes on when nobody waits for it any more.
  const settling = yield* commands.requests.settled(request.id).pipe(
    Effect.tap((settled) => (isDone(settled) ? rotate : Effect.void)),
    Effect.forkDetach({ startImmediately: true })
  )
  if (mayQueue) {
    const headers = { location: `/operations/${request.id}`, "preference-applied": "respond-async" }
    return HttpServerResponse.setHeaders(json(configureRequestBody(request), 202), headers)
  }
  const settled = yield* Fiber.join(settling).pipe(answeredWithin("the configuration", timeouts.configure))
  const outcome = settled?.outcome ?? null
  return outcome === null || Result.isSuccess(outcome)
    ? json(statusBody(apiVersion, yield* state.now))
    : answerOf(configureRefusal(outcome.failure))
})

export const commandRoutes = (
  state: ComputeState["Service"],
  commands: Commands["Service"],
  options: ServerOptions
) => {
  const { apiVersion, timeouts } = options

  const operation = Effect.fnUntraced(function* (id: string, timeout: string | undefined) {
    const found = yield* commands.requests.find(id)
    if (found === null) return yield* Effect.fail(unknownRequest)
    if (timeout === undefined) return configureRequestBody(found)
    yield* Effect.timeoutOption(commands.requests.settled(id), Duration.millis(readTimeout(timeout)))
    return configureRequestBody((yield* commands.requests.find(id)) ?? found)
  })

  const terminate = Effect.fnUntraced(function* (mode: "fast" | "immediate" | undefined) {
    const request = yield* HttpServerRequest.HttpServerRequest
    if (apiVersion === "head" && mode === undefined && request.url.includes("?")) return yield* Effect.fail(noMode)
    const { status } = yield* state.now
    yield* commands.terminate(mode ?? "fast")
    const ended = yield* state.until("terminated").pipe(answeredWithin("the end", timeouts.terminate))
    if (apiVersion === "2024") return HttpServerResponse.empty({ status: 200 })
    const lsn = ended.flushLsn === null ? null : printLsn(ended.flushLsn)
    return json({ lsn }, status === "terminated" ? 201 : 200)
  })

  const refresh = Effect.gen(function* () {
    yield* Metric.update(counters.staleSpecReports, 1)
    if (options.refetch === null) return yield* Effect.fail(noSource)
    yield* Effect.mapError(commands.refresh(options.refetch), ({ from }) => refreshRefused(from))
    return HttpServerResponse.empty({ status: 200 })
  })

  return {
    configure: () => answered(configure(state, commands, options)),
    operations: () => Effect.map(commands.requests.all, (all) => ({ operations: all.map(configureRequestBody) })),
    operation: ({
      params,
      query
    }: {
      readonly params: { readonly id: string }
      readonly query: { readonly timeout?: string }
    }) => answered(operation(params.id, query.timeout)),
    terminate: ({ query }: { readonly query: { readonly mode?: "fast" | "immediate" } }) =>
      answered(terminate(query.mode)),
    refresh: () => answered(refresh)
  }
}
