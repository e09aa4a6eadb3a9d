/**
 * What differs between the kinds of fakes: each with the peers of the tests, of which this is the only reader. Loaded
 * when a fake is started: gRPC and the HTTP API come with it.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import type { FileFailed, ListenFailed } from "../../errors/Failure.ts"
import { parseLsn } from "../../spec/identifiers.ts"
import { answerQuestion } from "../peers/FakeControlPlane.ts"
import { makeFakePageserver, type PageserverAttempt, type PageserverSeen } from "../peers/FakePageserver.ts"
import { makeFakePageService, type PageServiceFault, type PageServiceSeen } from "../peers/FakePageService.ts"
import { makeFakeSafekeeper, type SafekeeperAttempt, type SafekeeperSeen } from "../peers/FakeSafekeeper.ts"
import { FaultQueue, SeenList } from "../peers/faults.ts"
import { archiveOf } from "./archive.ts"
import { makeFakeCompute } from "./FakeCompute.ts"
import { type Handle, millisOf, nameOf, proxyTo, type RecordedRequest, timesOf } from "./httpFront.ts"
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
  SafekeeperScript,
  SafekeeperStep,
  SpecAnswer
} from "./script.ts"
import type { ScriptInvalid } from "./scriptSchema.ts"

/** What differs between the kinds. */
export interface Parts {
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

export const partsOf = (
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
