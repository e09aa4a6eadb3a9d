/**
 * The pageserver over gRPC, on real sockets: what is asked, what arrives, and every way in which it goes wrong. The
 * peer reads and writes its messages by protobuf's own reflection.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Redacted from "effect/Redacted"
import { causesOf, explain, policyOf } from "../../../src/errors/policy.ts"
import { unpack } from "../../../src/postgres/basebackup.ts"
import type { TenantId, TimelineId } from "../../../src/spec/identifiers.ts"
import type { ComputeMode, ParsedSpec } from "../../../src/spec/ParsedSpec.ts"
import type { NeonDeadlines } from "../../../src/storage/neon/deadlines.ts"
import { acquireLease, openBasebackup } from "../../../src/storage/neon/shards.ts"
import {
  decodeChunk,
  decodeLease,
  encodeBaseBackupRequest,
  encodeLeaseRequest
} from "../../../src/storage/neon/pageService.ts"
import { makeFakePageserver } from "../../../src/testing/peers/FakePageserver.ts"
import {
  makeFakePageService,
  type PageServiceFault,
  type PageServiceOptions
} from "../../../src/testing/peers/FakePageService.ts"
import { freePort, temporaryFolder } from "../../support/postgres.ts"
import { emptySpec } from "../../support/specs.ts"
import { contentOf, gzipped, tarOf } from "../../support/tars.ts"
import { eventually } from "../../support/waiting.ts"
import { refusedBasebackups } from "./refusedBasebackups.ts"

const tenant = "a".repeat(32) as TenantId
const timeline = "b".repeat(32) as TimelineId
const page = Buffer.from(Array.from({ length: 300_000 }, (_, at) => (at * at * 31 + (at >> 3)) % 251))
const archive = gzipped(
  tarOf([
    { path: "PG_VERSION", body: "17\n" },
    { path: "base/1/1", body: page }
  ])
)

const deadlines: NeonDeadlines = {
  ping: Duration.seconds(5),
  sync: Duration.seconds(10),
  finalSync: Duration.millis(500),
  connect: Duration.seconds(2),
  firstByte: Duration.millis(500),
  progress: Duration.millis(500),
  lease: Duration.millis(500)
}

interface Address {
  readonly libpqUrl: string | null
  readonly grpcUrl: string | null
}

const specOf = (
  addresses: ReadonlyArray<Address>,
  mode: ComputeMode = { _tag: "Primary" },
  prefer: "libpq" | "grpc" = "grpc"
): ParsedSpec => ({
  ...emptySpec,
  tenant,
  timeline,
  mode,
  neon: {
    pageservers: {
      shardCount: addresses.length === 1 ? 0 : addresses.length,
      stripeSize: addresses.length === 1 ? null : 32768,
      shards: addresses.map((address, number) => ({ number, pageservers: [address] })),
      preferProtocol: prefer
    },
    safekeepers: [],
    safekeepersGeneration: null,
    token: Redacted.make("s3cret"),
    fromSettings: new Set()
  }
})

const neonOf = (spec: ParsedSpec) => spec.neon ?? assert.fail("it has Neon's storage")
const serve = (options: Partial<PageServiceOptions> = {}) =>
  makeFakePageService({ tenant, timeline, archive, token: "s3cret", ...options })

const fetchOnce = (spec: ParsedSpec, lsn = 0n) =>
  Effect.scoped(
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const { bytes, connectMicros } = yield* openBasebackup(spec, neonOf(spec), lsn, deadlines)
      assert.isAbove(connectMicros, 0)
      const arrived = yield* unpack(bytes, folder, null)
      return { arrived, content: contentOf(folder) }
    })
  )

describe("page_api's messages", () => {
  it("are protobuf's bytes", () => {
    assert.strictEqual(encodeBaseBackupRequest({ lsn: 0n, replica: false }).toString("hex"), "2002")
    assert.strictEqual(encodeBaseBackupRequest({ lsn: 300n, replica: true }).toString("hex"), "08ac0210012002")
    assert.strictEqual(encodeLeaseRequest(0xffff_ffff_ffff_ffffn).toString("hex"), "08ffffffffffffffffff01")
    assert.strictEqual(encodeLeaseRequest(0x1_0000_0000n).toString("hex"), "088080808010")
    assert.strictEqual(Buffer.from(decodeChunk(Buffer.from("0a03616263", "hex"))).toString(), "abc")
    assert.strictEqual(decodeChunk(Buffer.alloc(0)).length, 0)
    assert.strictEqual(
      Buffer.from(decodeChunk(Buffer.from("10010a0178", "hex"))).toString(),
      "x",
      "an unknown field is passed over"
    )
    assert.strictEqual(decodeLease(Buffer.from("0a0708ac0210c0843d", "hex")), 300_001)
    assert.strictEqual(decodeLease(Buffer.alloc(0)), 0)
  })
})

describe("a pageserver over gRPC", () => {
  for (const [mode, lsn, replica] of [
    [{ _tag: "Primary" }, 0x1_0000_00afn, false],
    [{ _tag: "Primary" }, 0n, false],
    [{ _tag: "Static", lsn: 16n }, 16n, true],
    [{ _tag: "Replica" }, 0n, true]
  ] as const) {
    it.live(`the basebackup of a ${mode._tag} at ${lsn} arrives whole`, () =>
      Effect.gen(function* () {
        const service = yield* serve({ pieceBytes: 10_000 })
        const { arrived, content } = yield* fetchOnce(specOf([{ libpqUrl: null, grpcUrl: service.url }], mode), lsn)
        assert.strictEqual(arrived, archive.length)
        assert.strictEqual(content["base/1/1"], page.toString("latin1"))
        assert.deepStrictEqual(yield* service.seen, [
          {
            method: "GetBaseBackup",
            metadata: {
              "neon-tenant-id": tenant,
              "neon-timeline-id": timeline,
              "neon-shard-id": "0000",
              authorization: "Bearer s3cret"
            },
            request: {
              ...(lsn === 0n ? {} : { lsn: String(lsn) }),
              ...(replica ? { replica: true } : {}),
              compression: "GZIP"
            }
          }
        ])
      })
    )
  }

  it.live("the preferred protocol is used, and the other where only it has an address", () =>
    Effect.gen(function* () {
      const grpc = yield* serve()
      const libpq = yield* makeFakePageserver({ tenant, timeline, archive, token: "s3cret" })
      const both = { libpqUrl: libpq.url, grpcUrl: grpc.url }
      yield* fetchOnce(specOf([both], undefined, "libpq"))
      assert.deepStrictEqual([(yield* libpq.seen).length, (yield* grpc.seen).length], [1, 0])
      yield* fetchOnce(specOf([both]))
      assert.deepStrictEqual([(yield* libpq.seen).length, (yield* grpc.seen).length], [1, 1])
      yield* fetchOnce(specOf([{ ...both, libpqUrl: null }], undefined, "libpq"))
      yield* fetchOnce(specOf([{ ...both, grpcUrl: null }]))
      assert.deepStrictEqual([(yield* libpq.seen).length, (yield* grpc.seen).length], [2, 2])
    })
  )

  const faults: ReadonlyArray<readonly [PageServiceFault, Partial<PageServiceOptions>, string, RegExp]> = [
    ["hang", {}, "TimedOut", /^timed out after 500 ms: the first byte of the basebackup from 127\.0\.0\.1:\d+$/],
    ...refusedBasebackups,
    ["cut", {}, "ArchiveInvalid", /archive is truncated: the gzip stream stops early/],
    ["stall", {}, "TimedOut", /^timed out after 500 ms: the next byte of the basebackup/],
    ["reset", {}, "WireFailed", /^basebackup 127\.0\.0\.1:\d+: .*\((UNAVAILABLE|CANCELLED|INTERNAL|UNKNOWN)\)$/],
    ["error mid-way", {}, "WireFailed", /^basebackup 127\.0\.0\.1:\d+: a layer file could not be read \(INTERNAL\)$/],
    [
      "error after the end",
      {},
      "WireFailed",
      /^basebackup 127\.0\.0\.1:\d+: the timeline was shut down while it was read \(INTERNAL\)$/
    ],
    ["corrupt gzip", {}, "ArchiveInvalid", /archive is corrupt: /],
    ["truncated tar", {}, "ArchiveInvalid", /archive is truncated: it ends before its end marker/]
  ]
  for (const [fault, options, tag, message] of faults) {
    it.live(`${fault}: ${tag}`, () =>
      Effect.gen(function* () {
        const service = yield* serve({ fault, pieceBytes: 10_000, ...options })
        const failure = yield* Effect.flip(fetchOnce(specOf([{ libpqUrl: null, grpcUrl: service.url }])))
        assert.strictEqual(failure._tag, tag, failure.message)
        assert.match(failure.message, message)
        assert.notInclude(JSON.stringify(causesOf(failure)), "s3cret")
      })
    )
  }

  it.live("refusals are asked for once, and end in the same words as over libpq", () =>
    Effect.gen(function* () {
      for (const [options, reason, words] of [
        [{ token: "another" }, "token", /invalid JWT token.* \(INVALID_ARGUMENT\)$/],
        [{ fault: "another tenant's token" }, "token", /Permission denied \(PERMISSION_DENIED\)$/],
        [{ fault: "unknown timeline" }, "unknown", /Timeline a+\/b+ was not found \(NOT_FOUND\)$/],
        [{ fault: "collected" }, "collected", /invalid basebackup LSN: LSN 16 is earlier .* \(INVALID_ARGUMENT\)$/]
      ] as const) {
        const service = yield* serve(options)
        const failure = yield* Effect.flip(fetchOnce(specOf([{ libpqUrl: null, grpcUrl: service.url }]), 16n))
        if (failure._tag !== "PageserverRefused") return assert.fail(failure.message)
        assert.strictEqual(failure.reason, reason)
        assert.match(explain(failure), words)
        assert.isFalse(policyOf(failure).retry)
      }
    })
  )

  it.live("a port that nobody listens on fails at once, with the system's error", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      const failure = yield* Effect.flip(fetchOnce(specOf([{ libpqUrl: null, grpcUrl: `grpc://127.0.0.1:${port}` }])))
      assert.match(failure.message, /^basebackup 127\.0\.0\.1:\d+: .*ECONNREFUSED.* \(UNAVAILABLE\)$/)
    })
  )

  it.live("an address that cannot be used is a failure of the spec", () =>
    Effect.gen(function* () {
      const failure = yield* Effect.flip(fetchOnce(specOf([{ libpqUrl: null, grpcUrl: "postgresql://x" }])))
      assert.match(failure.message, /expected a grpc_url such as grpc:\/\/pageserver:51051/)
    })
  )

  it.live(
    "interrupted in the middle, the call is cancelled",
    () =>
      Effect.gen(function* () {
        const service = yield* serve({ fault: "stall" })
        const fiber = yield* Effect.forkChild(fetchOnce(specOf([{ libpqUrl: null, grpcUrl: service.url }])))
        yield* eventually("the call arrives", () => Effect.map(service.calls, (calls) => calls > 0))
        yield* Fiber.interrupt(fiber)
        yield* eventually("the call is gone", () => Effect.map(service.calls, (calls) => calls === 0))
      }),
    10_000
  )
})

describe("leases", () => {
  const acquire = (spec: ParsedSpec) => acquireLease(deadlines)(spec, neonOf(spec), 0x10n)
  const fixed: ComputeMode = { _tag: "Static", lsn: 0x10n }

  it.live("every shard is asked in its own words, over either protocol, and the earliest end counts", () =>
    Effect.gen(function* () {
      const first = yield* makeFakePageserver({ tenant, timeline, archive, token: "s3cret", lease: 3_000_000 })
      const second = yield* serve({ shard: "0102", lease: 600_000 })
      const spec = specOf(
        [
          { libpqUrl: first.url, grpcUrl: null },
          { libpqUrl: null, grpcUrl: second.url }
        ],
        fixed
      )
      const before = Date.now()
      const lease = yield* acquire(spec)
      if (lease._tag !== "Granted") return assert.fail("it is granted")
      assert.isAtLeast(lease.until, before + 600_000 - 1)
      assert.isBelow(lease.until, before + 700_000)
      assert.strictEqual((yield* first.seen)[0]?.command, `lease lsn ${tenant}-0002 ${timeline} 0/10 `)
      assert.deepStrictEqual((yield* second.seen)[0]?.request, { lsn: "16" })
      assert.strictEqual((yield* second.seen)[0]?.metadata["neon-shard-id"], "0102")
    })
  )

  it.live("unsharded, the tenant is named bare", () =>
    Effect.gen(function* () {
      const only = yield* makeFakePageserver({ tenant, timeline, archive, token: "s3cret" })
      yield* acquire(specOf([{ libpqUrl: only.url, grpcUrl: null }], fixed))
      assert.strictEqual((yield* only.seen)[0]?.command, `lease lsn ${tenant} ${timeline} 0/10 `)
    })
  )

  it.live("one shard's refusal refuses all, over either protocol", () =>
    Effect.gen(function* () {
      const yes = yield* makeFakePageserver({ tenant, timeline, archive, token: "s3cret" })
      const no = yield* makeFakePageserver({ tenant, timeline, archive, token: "s3cret", lease: "refused" })
      const noService = yield* serve({ shard: "0102", lease: "refused" })
      const first = { libpqUrl: yes.url, grpcUrl: null }
      for (const second of [
        { libpqUrl: no.url, grpcUrl: null },
        { libpqUrl: null, grpcUrl: noService.url }
      ]) {
        assert.strictEqual((yield* acquire(specOf([first, second], fixed)))._tag, "Refused")
      }
    })
  )

  it.live("each pageserver of a shard is asked in turn, until one grants", () =>
    Effect.gen(function* () {
      const options = { tenant, timeline, archive, token: "s3cret" }
      const gone = yield* makeFakePageserver({ ...options, fault: "refuse" })
      const secondary = yield* makeFakePageserver({ ...options, timeline: "f".repeat(32) })
      const grants = yield* serve({ lease: 600_000 })
      const last = yield* makeFakePageserver(options)
      const spec = specOf([{ libpqUrl: gone.url, grpcUrl: null }], fixed)
      const neon = neonOf(spec)
      const among = (urls: ReadonlyArray<Address>) => ({
        ...neon,
        pageservers: { ...neon.pageservers, shards: [{ number: 0, pageservers: urls }] }
      })
      const first = { libpqUrl: gone.url, grpcUrl: null }
      const second = { libpqUrl: secondary.url, grpcUrl: null }
      const acquireFrom = (...urls: ReadonlyArray<Address>) => acquireLease(deadlines)(spec, among(urls), 0x10n)
      const granted = yield* acquireFrom(
        first,
        second,
        { libpqUrl: null, grpcUrl: grants.url },
        {
          libpqUrl: last.url,
          grpcUrl: null
        }
      )
      assert.strictEqual(granted._tag, "Granted")
      assert.lengthOf(yield* secondary.seen, 1)
      assert.lengthOf(yield* last.seen, 0)
      assert.match((yield* Effect.flip(acquireFrom(second, first))).message, /does not have this timeline$/)
    })
  )

  it.live("one shard that fails or hangs fails the request at the deadline", () =>
    Effect.gen(function* () {
      const yes = yield* makeFakePageserver({ tenant, timeline, archive, token: "s3cret" })
      const hangs = yield* serve({ shard: "0102", fault: "hang" })
      const spec = specOf(
        [
          { libpqUrl: yes.url, grpcUrl: null },
          { libpqUrl: null, grpcUrl: hangs.url }
        ],
        fixed
      )
      assert.match(
        (yield* Effect.flip(acquire(spec))).message,
        /^timed out after 500 ms: a lease from 127\.0\.0\.1:\d+$/
      )
    })
  )
})
