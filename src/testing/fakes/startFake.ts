/**
 * Starts what a script describes: a fake compute, control plane, pageserver or safekeeper, with HTTP for whoever drives
 * it. Real sockets; gone with the scope.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type { FileFailed, ListenFailed } from "../../errors/Failure.ts"
import { parseLsn } from "../../spec/identifiers.ts"
import { answerQuestion } from "../peers/FakeControlPlane.ts"
import { makeFakePageserver, type PageserverAttempt, type PageserverSeen } from "../peers/FakePageserver.ts"
import { makeFakePageService, type PageServiceFault, type PageServiceSeen } from "../peers/FakePageService.ts"
import { makeFakeSafekeeper, type SafekeeperAttempt, type SafekeeperSeen } from "../peers/FakeSafekeeper.ts"
import { FaultQueue, maxArmed, SeenList } from "../peers/faults.ts"
import { inUrl } from "../peers/serverWire.ts"
import { archiveOf } from "./archive.ts"
import { makeFakeCompute } from "./FakeCompute.ts"
import { type Handle, httpFront, millisOf, nameOf, proxyTo, type RecordedRequest, timesOf } from "./httpFront.ts"
import type {
  ComputeScript,
  ControlPlaneScript,
  FakeAddress,
  FakeFaults,
  FakeOptions,
  FakeScript,
  FakeSeen,
  PageserverScript,
  PageserverStep,
  RequestFault,
  SafekeeperScript,
  SafekeeperStep,
  SpecAnswer
} from "./script.ts"
import { parseFaults, parseScript, ScriptInvalid } from "./scriptSchema.ts"

/** What differs between the kinds. */
interface Parts {
  readonly address: Omit<FakeAddress, "kind" | "url" | "control">
  /** `null`: HTTP is all it speaks, at the address of the control. */
  readonly url: string | null
  readonly handle: Handle
  readonly tokens: ReadonlyMap<string, string>
  readonly seen: () => Omit<FakeSeen, "kind">
  /** False: so much is armed already that not all of it was taken. */
  readonly arm: (faults: FakeFaults) => boolean
  /** Back to the beginning; what was armed is forgotten already. */
  readonly reset: Effect.Effect<void>
}

const nothingHere: Handle = (_, response) =>
  void response
    .writeHead(404, { "content-type": "application/json" })
    .end('{"error":"there are /_seen, /_fault and /_reset here"}\n')

const delayOf = ({ delay }: { readonly delay?: string }) =>
  delay === undefined ? {} : { delay: Duration.millis(millisOf(delay)) }

// -- the kinds ------------------------------------------------------------------------------------------------------

const compute = Effect.fnUntraced(function* (
  script: ComputeScript,
  record: SeenList<RecordedRequest>,
  options: FakeOptions
) {
  const fake = yield* makeFakeCompute(script, options)
  const { computeId, tokens } = fake
  return {
    address: { computeId, ...tokens },
    url: null,
    handle: proxyTo(fake.port),
    tokens: new Map(tokens === null ? [] : [[tokens.token, "token"] as const, [tokens.adminToken, "adminToken"]]),
    seen: () => ({ status: fake.status(), seen: record.all, dropped: record.dropped }),
    arm: ({ steps = [] }) => steps.map(fake.arm).every((taken) => taken),
    reset: fake.reset
  } satisfies Parts
})

/** As the program reads it (docs/reference/compute_ctl.md#spec-answer). */
const answerOf = ({ apiVersion = "head", jwks = { keys: [] } }: ControlPlaneScript, answer: SpecAnswer): unknown =>
  answer.answer ?? {
    spec: answer.spec ?? null,
    status: answer.empty === true ? "empty" : "attached",
    ...(apiVersion === "2024" ? {} : { compute_ctl_config: { jwks } })
  }

const controlPlane = (script: ControlPlaneScript, record: SeenList<RecordedRequest>): Parts => {
  const answers = new Map<string, FaultQueue<SpecAnswer>>()
  const begin = (): void => {
    for (const [id, all] of Object.entries(script.computes)) {
      const queue = new FaultQueue<SpecAnswer>()
      all.forEach((one, index) => queue.arm(one, index === all.length - 1 ? Infinity : timesOf(one.times)))
      answers.set(id, queue)
    }
  }
  begin()
  const { token } = script
  return {
    address: token === undefined ? {} : { token },
    url: null,
    handle: (request, response) => {
      const [, asked] = /^\/compute\/api\/v2\/computes\/([^/]+)\/spec$/.exec(request.url ?? "") ?? []
      const computeId = [...answers.keys()].find((id) => encodeURIComponent(id) === asked) ?? ""
      const queue = answers.get(computeId)
      const answer = () => (queue === undefined ? undefined : answerOf(script, queue.next() ?? {}))
      answerQuestion({ computeId, ...(token === undefined ? {} : { token }), answer }, undefined)(request, response)
    },
    tokens: new Map(token === undefined ? [] : [[token, "token"]]),
    seen: () => ({ seen: record.all, dropped: record.dropped }),
    arm: () => true,
    reset: Effect.sync(begin)
  }
}

const pageserver = Effect.fnUntraced(function* (script: PageserverScript, options: FakeOptions) {
  const { lease, protocol = "libpq", shard, tenant, timeline, token } = script
  const tokens = new Map(token === undefined ? [] : [[token, "token"]])
  const attempts = new FaultQueue<PageserverAttempt>()
  const libpq = new SeenList<PageserverSeen>()
  const grpc = new SeenList<PageServiceSeen>()
  const common = {
    tenant,
    timeline,
    archive: yield* archiveOf(script, options.folder ?? "."),
    listen: { ...options },
    ...(token === undefined ? {} : { token }),
    ...(lease === undefined ? {} : { lease: lease === "refused" ? ("refused" as const) : millisOf(lease) }),
    ...(shard === undefined ? {} : { shard })
  }
  const { url } =
    protocol === "libpq"
      ? yield* makeFakePageserver({ ...common, attempts, record: libpq })
      : yield* makeFakePageService({
          ...common,
          // Which faults a gRPC service can have was looked at when they were read.
          attempts: attempts as FaultQueue<PageserverAttempt<PageServiceFault>>,
          record: grpc
        })
  const seen = () =>
    protocol === "libpq"
      ? libpq.all.map((one) => ({ ...one, password: nameOf(tokens, one.password) }))
      : grpc.all.map(({ metadata: { authorization, ...metadata }, ...one }) => {
          const name = nameOf(tokens, authorization?.replace(/^Bearer /, "") ?? null)
          return { ...one, metadata: name === null ? metadata : { ...metadata, authorization: name } }
        })
  return {
    address: { tenant, timeline, ...(token === undefined ? {} : { token }) },
    url,
    handle: nothingHere,
    tokens,
    seen: () => ({ seen: seen(), dropped: libpq.dropped + grpc.dropped }),
    arm: (faults) =>
      ((faults.attempts ?? []) as ReadonlyArray<PageserverStep>)
        .map(({ times, ...one }) => attempts.arm({ ...one, ...delayOf(one) } as PageserverAttempt, timesOf(times)))
        .every((taken) => taken),
    reset: Effect.sync(() => {
      attempts.clear()
      libpq.clear()
      grpc.clear()
    })
  } satisfies Parts
})

const safekeeper = Effect.fnUntraced(function* (script: SafekeeperScript, options: FakeOptions) {
  const { commit, flush, tenant, timeline, token } = script
  const tokens = new Map(token === undefined ? [] : [[token, "token"]])
  const attempts = new FaultQueue<SafekeeperAttempt>()
  const record = new SeenList<SafekeeperSeen>()
  const lsn = (text: string) => Option.getOrElse(parseLsn(text), () => 0n)
  const { address } = yield* makeFakeSafekeeper({
    tenant,
    timeline,
    flush: lsn(flush),
    ...(commit === undefined ? {} : { commit: lsn(commit) }),
    ...(token === undefined ? {} : { token }),
    listen: { ...options },
    attempts,
    record
  })
  return {
    address: { tenant, timeline, ...(token === undefined ? {} : { token }) },
    url: address,
    handle: nothingHere,
    tokens,
    seen: () => ({
      seen: record.all.map((one) => ({ ...one, password: nameOf(tokens, one.password) })),
      dropped: record.dropped
    }),
    arm: (faults) =>
      ((faults.attempts ?? []) as ReadonlyArray<SafekeeperStep>)
        .map(({ fault, times, ...one }) =>
          attempts.arm({ ...delayOf(one), ...(fault === undefined ? {} : { mode: fault }) }, timesOf(times))
        )
        .every((taken) => taken),
    reset: Effect.sync(() => {
      attempts.clear()
      record.clear()
    })
  } satisfies Parts
})

const partsOf = (
  script: FakeScript,
  record: SeenList<RecordedRequest>,
  options: FakeOptions
): Effect.Effect<Parts, ScriptInvalid | ListenFailed | FileFailed, Scope.Scope> => {
  switch (script.kind) {
    case "compute":
      return compute(script, record, options)
    case "control-plane":
      return Effect.succeed(controlPlane(script, record))
    case "pageserver":
      return pageserver(script, options)
    case "safekeeper":
      return safekeeper(script, options)
  }
}

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
