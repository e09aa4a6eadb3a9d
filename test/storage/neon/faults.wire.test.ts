/**
 * A basebackup over real sockets, from request to PGDATA: every fault of the pageserver, and what the operator reads.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { spawn } from "node:child_process"
import { once as eventOf } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { ComputeState } from "../../../src/compute/ComputeState.ts"
import { causesOf, explain, hintOf } from "../../../src/errors/policy.ts"
import { Spawn } from "../../../src/platform/Spawn.ts"
import { unpack } from "../../../src/postgres/basebackup.ts"
import { Pgdata } from "../../../src/postgres/Pgdata.ts"
import { PostgresInstall } from "../../../src/postgres/PostgresInstall.ts"
import type { TenantId, TimelineId } from "../../../src/spec/identifiers.ts"
import type { ComputeMode, NeonStorage as NeonSpec, ParsedSpec } from "../../../src/spec/ParsedSpec.ts"
import { NeonDeadlines } from "../../../src/storage/neon/deadlines.ts"
import { type NeonOptions, NeonStorage } from "../../../src/storage/neon/NeonStorage.ts"
import { openBasebackup } from "../../../src/storage/neon/shards.ts"
import { Storage, type Timeline } from "../../../src/storage/Storage.ts"
import {
  makeFakePageserver,
  type PageserverFault,
  type PageserverOptions
} from "../../../src/testing/peers/FakePageserver.ts"
import { makeFakeSafekeeper } from "../../../src/testing/peers/FakeSafekeeper.ts"
import { claimAndBegin, runAs, temporaryFolder } from "../../support/postgres.ts"
import { emptySpec } from "../../support/specs.ts"
import { contentOf, gzipped, tarOf } from "../../support/tars.ts"
import { eventually } from "../../support/waiting.ts"
import { refusedBasebackups } from "./refusedBasebackups.ts"

const tenant = "a".repeat(32) as TenantId
const timeline = "b".repeat(32) as TimelineId
// Does not compress, so that a fraction of the archive is a fraction of its content.
const page = Buffer.from(Array.from({ length: 300_000 }, (_, at) => (at * at * 31 + (at >> 3)) % 251))
const archive = gzipped(
  tarOf([
    { path: "PG_VERSION", body: "17\n" },
    { path: "base/1/1", body: page },
    { path: "pg_hba.conf", body: "trust\n" }
  ])
)
const plan = {
  starting: [],
  opening: [],
  appended: [],
  signalFiles: [],
  linkDynshmem: false,
  applyCatalog: true,
  override: null
}

const deadlines: NeonDeadlines = {
  ping: Duration.seconds(5),
  sync: Duration.seconds(10),
  finalSync: Duration.seconds(3),
  connect: Duration.millis(500),
  firstByte: Duration.millis(500),
  progress: Duration.millis(500),
  lease: Duration.millis(500)
}

const specOf = (
  url: string | null,
  over: Partial<NeonSpec> = {},
  mode: ComputeMode = { _tag: "Primary" }
): ParsedSpec => ({
  ...emptySpec,
  tenant,
  timeline,
  mode,
  neon: {
    pageservers: {
      shardCount: 0,
      stripeSize: null,
      shards: [{ number: 0, pageservers: [{ libpqUrl: url, grpcUrl: null }] }],
      preferProtocol: "libpq"
    },
    safekeepers: [],
    safekeepersGeneration: null,
    token: null,
    fromSettings: new Set(),
    ...over
  }
})

/** A program that says `script` in the role of `postgres --sync-safekeepers`, which a stock Postgres does not know. */
const installOf = Effect.fnUntraced(function* (script: string) {
  const folder = yield* temporaryFolder
  const postgres = path.join(folder, "postgres")
  fs.writeFileSync(postgres, `#!/bin/sh\nHERE=${folder}\n${script}\n`, { mode: 0o755 })
  const install = { postgres, initdb: null, pgDump: null, major: 17, version: "17.0", runAs }
  return { folder, layer: Layer.succeed(PostgresInstall, install) }
})

const claim = Effect.fnUntraced(function* (spec: ParsedSpec, script = "exit 1", options: NeonOptions = {}) {
  const { folder, layer } = yield* installOf(script)
  const live = yield* Layer.build(
    Layer.provideMerge(
      NeonStorage.layer(options),
      Layer.mergeAll(ComputeState.layer, Spawn.layer, layer, Layer.succeed(NeonDeadlines, deadlines))
    )
  )
  const made = yield* Effect.provide(
    Effect.gen(function* () {
      const storage = yield* Storage
      return { timeline: yield* storage.claim(spec, "/the/pgdata"), state: yield* ComputeState }
    }),
    live
  )
  return { ...made, folder }
})

const serve = (options: Partial<PageserverOptions> = {}) =>
  makeFakePageserver({ tenant, timeline, archive, ...options })

/** One attempt, unpacked. */
const once = (made: Timeline, lsn: bigint | null = null) =>
  Effect.scoped(
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const source = made.source(lsn)
      if (source._tag !== "Archive") return assert.fail("it is an archive")
      const { bytes, connectMicros } = yield* source.open
      assert.isAbove(connectMicros, 0)
      const arrived = yield* unpack(bytes, folder, null)
      return { arrived, content: contentOf(folder) }
    })
  )

/**
 * A port on which the kernel drops every new dial, as for a host that is gone: its listener is stopped, and its queue
 * of connections that wait to be accepted is full.
 */
const deafPort: Effect.Effect<number, never, Scope.Scope> = Effect.gen(function* () {
  const listen =
    "require('net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, " +
    "function () { console.log(this.address().port) })"
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => spawn(process.execPath, ["-e", listen], { stdio: ["ignore", "pipe", "inherit"] })),
    (child) =>
      Effect.promise(async () => {
        const gone = eventOf(child, "exit")
        child.kill("SIGKILL")
        await gone
      })
  )
  const [line] = yield* Effect.promise(() => eventOf(child.stdout, "data"))
  child.kill("SIGSTOP")
  const port = Number(line)
  yield* Effect.acquireRelease(
    Effect.sync(() => Array.from({ length: 8 }, () => net.connect({ port, host: "127.0.0.1" }).on("error", () => {}))),
    (waiting) => Effect.sync(() => waiting.forEach((socket) => socket.destroy()))
  )
  return port
})

const inPgdata = <A, E>(body: (pgdata: Pgdata["Service"]) => Effect.Effect<A, E, Scope.Scope>) =>
  Effect.gen(function* () {
    const folder = yield* temporaryFolder
    const layer = Pgdata.layer({ directory: path.join(folder, "pgdata"), runAs })
    return yield* Effect.provide(Effect.flatMap(Pgdata, body), layer)
  })

describe("the basebackup", () => {
  it.live("arrives whole, also in small and slow pieces", () =>
    Effect.gen(function* () {
      for (const options of [{}, { pieceBytes: 1000 }, { fault: "slow drip" as const }]) {
        const pageserver = yield* serve(options)
        const { timeline: made } = yield* claim(specOf(pageserver.url))
        const { arrived, content } = yield* once(made)
        assert.strictEqual(arrived, archive.length)
        assert.strictEqual(content["base/1/1"], page.toString("latin1"))
      }
    })
  )

  const asked: ReadonlyArray<readonly [ComputeMode, bigint | null, string, string]> = [
    [{ _tag: "Primary" }, 0x1_0000_00afn, "1/AF --gzip", "primary"],
    [{ _tag: "Primary" }, 0n, "--gzip", "primary"],
    [{ _tag: "Primary" }, null, "--gzip", "primary"],
    [{ _tag: "Static", lsn: 16n }, 16n, "0/10 --gzip --replica", "static"],
    [{ _tag: "Replica" }, null, "--gzip --replica", "replica"]
  ]
  for (const [mode, lsn, rest, name] of asked) {
    it.live(`${mode._tag} at ${lsn} asks for: ${rest}`, () =>
      Effect.gen(function* () {
        const pageserver = yield* serve({ token: "t0ken" })
        const url = pageserver.url.replace("no_user@", "no_user:old-password@")
        const { timeline: made } = yield* claim(specOf(url, { token: Redacted.make("t0ken") }, mode))
        yield* once(made, lsn)
        assert.deepStrictEqual(yield* pageserver.seen, [
          {
            user: "no_user",
            applicationName: "compute_ctl",
            options: `-c neon.compute_mode=${name}`,
            password: "t0ken",
            command: `basebackup ${tenant} ${timeline} ${rest}`
          }
        ])
      })
    )
  }

  const faults: ReadonlyArray<readonly [PageserverFault, Partial<PageserverOptions>, string, RegExp]> = [
    ["refuse", {}, "WireFailed", /^connect to 127\.0\.0\.1:\d+: .*ECONNREFUSED/],
    ["starting up", {}, "WireFailed", /^log in to 127\.0\.0\.1:\d+: the pageserver is starting up \(SQLSTATE 57P03\)$/],
    ["hang", {}, "WireFailed", /^connect to 127\.0\.0\.1:\d+: no answer within 500 ms$/],
    ...refusedBasebackups,
    ["cut", {}, "ArchiveInvalid", /archive is truncated: the gzip stream stops early/],
    ["cut", { at: 0 }, "ArchiveInvalid", /archive is truncated/],
    ["cut", { at: 0.999 }, "ArchiveInvalid", /archive is truncated/],
    ["stall", {}, "TimedOut", /^timed out after 500 ms: the next byte of the basebackup from 127\.0\.0\.1:\d+$/],
    [
      "stall",
      { at: 0 },
      "TimedOut",
      /^timed out after 500 ms: the first byte of the basebackup from 127\.0\.0\.1:\d+$/
    ],
    ["reset", {}, "WireFailed", /^connection to 127\.0\.0\.1:\d+: .*(ECONNRESET|closed the connection)/],
    [
      "error mid-way",
      {},
      "WireFailed",
      /^copy out 127\.0\.0\.1:\d+: a layer file could not be read \(SQLSTATE XX000\)$/
    ],
    [
      "error after the end",
      {},
      "WireFailed",
      /^copy out 127\.0\.0\.1:\d+: the timeline was shut down while it was read/
    ],
    ["corrupt gzip", {}, "ArchiveInvalid", /archive is corrupt: /],
    ["corrupt gzip", { at: 0 }, "ArchiveInvalid", /archive is corrupt: it is not a gzip stream/],
    ["truncated tar", {}, "ArchiveInvalid", /archive is truncated: it ends before its end marker/]
  ]
  for (const [fault, options, tag, message] of faults) {
    it.live(`${fault}${options.at === undefined ? "" : ` at ${options.at}`}: ${tag}`, () =>
      Effect.gen(function* () {
        const pageserver = yield* serve({ fault, ...options })
        const { timeline: made } = yield* claim(specOf(pageserver.url, { token: Redacted.make("s3cret") }))
        const failure = yield* Effect.flip(once(made))
        assert.strictEqual(failure._tag, tag, failure.message)
        assert.match(failure.message, message)
        assert.notInclude(JSON.stringify(causesOf(failure)), "s3cret")
      })
    )
  }

  it.live("is tried again from an empty folder, and what the operator gets is the second one whole", () =>
    inPgdata((pgdata) =>
      Effect.gen(function* () {
        const pageserver = yield* serve({ fault: "error after the end", failFirst: 1 })
        const { timeline: made } = yield* claim(specOf(pageserver.url))
        yield* claimAndBegin(pgdata, plan, "Archive")
        const built = yield* pgdata.build(plan, made.source(16n))
        assert.strictEqual(built.archiveBytes, archive.length)
        assert.isAbove(built.connectMicros, 0)
        assert.strictEqual((yield* pageserver.seen).length, 2)
        assert.strictEqual(contentOf(pgdata.directory)["base/1/1"], page.toString("latin1"))
      })
    )
  )

  const refusals: ReadonlyArray<readonly [PageserverFault, words: RegExp, hint: RegExp]> = [
    ["wrong token", /: log in to 127\.0\.0\.1:\d+: JWT authentication error \(SQLSTATE XX000\)$/, /storage_auth_token/],
    ["another tenant's token", /: copy out 127\.0\.0\.1:\d+: JWT authentication error \(SQLSTATE XX000\)$/, /tenant/],
    ["unknown timeline", /: copy out 127\.0\.0\.1:\d+: not found \(SQLSTATE XX000\)$/, /timeline_id/],
    [
      "collected",
      /: invalid basebackup lsn: LSN 0\/10 is earlier than latest GC cutoff .* \(SQLSTATE XX000\)$/,
      /later LSN/
    ]
  ]
  for (const [fault, words, hint] of refusals) {
    it.live(`${fault}: it is asked for once, and the pageserver's own words are the cause`, () =>
      inPgdata((pgdata) =>
        Effect.gen(function* () {
          const pageserver = yield* serve({ fault, token: "s3cret" })
          const { timeline: made } = yield* claim(specOf(pageserver.url, { token: Redacted.make("s3cret") }))
          yield* claimAndBegin(pgdata, plan, "Archive")
          const failure = yield* Effect.flip(pgdata.build(plan, made.source(16n)))
          assert.match(explain(failure), /^failed to get basebackup@0\/10 \(1 attempts\): the pageserver at /)
          assert.match(explain(failure), words)
          assert.match(hintOf(failure), hint)
          assert.lengthOf(yield* pageserver.seen, 1)
        })
      )
    )
  }

  it.live("an LSN below the GC cutoff may be leased, and the basebackup is refused all the same", () =>
    Effect.gen(function* () {
      const pageserver = yield* serve({ fault: "collected" })
      const { state, timeline: made } = yield* claim(specOf(pageserver.url, {}, { _tag: "Static", lsn: 16n }))
      assert.strictEqual(yield* made.commitLsn("start"), 16n)
      assert.deepStrictEqual((yield* state.now).degraded, [])
      assert.strictEqual((yield* Effect.flip(once(made, 16n)))._tag, "PageserverRefused")
      assert.deepStrictEqual(
        (yield* pageserver.seen).map(({ command }) => command?.split(" ")[0]),
        ["lease", "basebackup"]
      )
    })
  )

  it.live("WAL that the pageserver does not have yet is waited for, and the log says so", () =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const log = Logger.layer([Logger.make(({ message }) => void lines.push(String(message)))])
      const came = yield* Deferred.make<void>()
      const pageserver = yield* serve({ fault: "ahead of the tip", arrival: Deferred.await(came) })
      const spec = specOf(pageserver.url)
      const patient = { ...deadlines, firstByte: Duration.seconds(60) }
      const waiting = yield* openBasebackup(spec, spec.neon ?? assert.fail(), 0x99n, patient).pipe(
        Effect.flatMap(({ bytes }) => Stream.runCount(bytes)),
        Effect.scoped,
        Effect.provide(log),
        Effect.forkChild
      )
      yield* eventually("the line", () => Effect.sync(() => lines.some((line) => line.startsWith("still waiting for"))))
      yield* Deferred.succeed(came, undefined)
      assert.isAbove(yield* Fiber.join(waiting), 0)
      assert.deepStrictEqual(lines, [
        `getting basebackup@0/99 from pageserver 127.0.0.1:${pageserver.port}`,
        `still waiting for the first byte of the basebackup from 127.0.0.1:${pageserver.port} at 0/99: ` +
          "it sends when it has the WAL up to that LSN. Given up after 60 s"
      ])
    })
  )

  it.live(
    "interrupted in the middle, it lets go of the connection",
    () =>
      Effect.gen(function* () {
        const pageserver = yield* serve({ fault: "stall" })
        const { timeline: made } = yield* claim(specOf(pageserver.url))
        const fiber = yield* Effect.forkChild(once(made))
        yield* eventually("the request arrives", () => Effect.map(pageserver.seen, (seen) => seen.length > 0))
        assert.strictEqual(yield* pageserver.connections, 1)
        yield* Fiber.interrupt(fiber)
        yield* eventually("the connection is gone", () => Effect.map(pageserver.connections, (open) => open === 0))
      }),
    10_000
  )

  it.live("a dial that nobody answers ends at the deadline", () =>
    Effect.gen(function* () {
      const port = yield* deafPort
      const { timeline: made } = yield* claim(specOf(`postgresql://no_user@127.0.0.1:${port}`))
      const failure = yield* Effect.flip(once(made))
      assert.match(failure.message, /^connect to 127\.0\.0\.1:\d+: no answer within 500 ms$/)
    })
  )

  it.live("without addresses there is nothing to claim", () =>
    Effect.gen(function* () {
      const failure = yield* Effect.flip(claim({ ...emptySpec, neon: null }))
      assert.strictEqual(failure._tag, "SpecInvalid")
    })
  )
})

describe("the commit LSN", () => {
  const safekeeper = (flush: bigint) => makeFakeSafekeeper({ tenant, timeline, flush })
  const metrics = (state: ComputeState["Service"]) => Effect.map(state.now, (snapshot) => snapshot.metrics)

  it.live("safekeepers that agree name it: Postgres is not even run", () =>
    Effect.gen(function* () {
      const { address } = yield* safekeeper(0x42n)
      const { folder, timeline: made } = yield* claim(
        specOf(null, { safekeepers: [address] }),
        "touch $HERE/ran; echo 0/1"
      )
      assert.strictEqual(yield* made.commitLsn("start"), 0x42n)
      assert.isFalse(fs.existsSync(path.join(folder, "ran")))
    })
  )

  it.live("safekeepers that do not agree are made to, and both times are kept", () =>
    Effect.gen(function* () {
      const all = [yield* safekeeper(0x42n), yield* safekeeper(0x41n)].map(({ address }) => address)
      const { state, timeline: made } = yield* claim(specOf(null, { safekeepers: all }), "sleep 0.05; echo 0/43")
      assert.strictEqual(yield* made.commitLsn("start"), 0x43n)
      const { sync_safekeepers_ms } = yield* metrics(state)
      assert.isAtLeast(sync_safekeepers_ms, 50)
    })
  )

  it.live("Postgres syncs them where the postmaster is started too, at the start and at the end", () =>
    Effect.gen(function* () {
      const script = 'echo "$CGROUP" >> $HERE/ran; echo 0/43'
      const { folder, timeline: made } = yield* claim(specOf(null), script, {
        enter: (request) => Effect.succeed({ ...request, env: { ...request.env, CGROUP: "neon-postgres" } })
      })
      assert.strictEqual(yield* made.commitLsn("start"), 0x43n)
      assert.strictEqual(yield* made.commitLsn("end"), 0x43n)
      assert.strictEqual(fs.readFileSync(path.join(folder, "ran"), "utf8"), "neon-postgres\nneon-postgres\n")
    })
  )

  it.live("at the end a primary is synced once, without asking first, and the start's metric stays", () =>
    Effect.gen(function* () {
      const fake = yield* safekeeper(0x42n)
      const {
        folder,
        state,
        timeline: made
      } = yield* claim(
        specOf(null, { safekeepers: [fake.address], token: Redacted.make("t0ken") }),
        `echo "$PGDATA:$NEON_AUTH_TOKEN" >> $HERE/ran; echo 0/50`
      )
      assert.strictEqual(yield* made.commitLsn("end"), 0x50n)
      assert.strictEqual(fs.readFileSync(path.join(folder, "ran"), "utf8"), "/the/pgdata:t0ken\n")
      assert.deepStrictEqual(yield* fake.seen, [])
      assert.strictEqual((yield* metrics(state)).sync_safekeepers_ms, 0)
    })
  )

  it.live("at the end a lost quorum is given up at the deadline, and the cause is named", () =>
    Effect.gen(function* () {
      const { timeline: made } = yield* claim(specOf(null), "while :; do sleep 0.05; done")
      const failure = yield* Effect.flip(made.commitLsn("end"))
      assert.match(explain(failure), /^cannot sync the safekeepers \(1 attempts\): timed out after 3000 ms: /)
    })
  )

  for (const moment of ["start", "end"] as const) {
    it.live(`at the ${moment}, a sync that fails says what each safekeeper answers`, () =>
      Effect.gen(function* () {
        const fakes = yield* Effect.forEach(
          ["ok", "unknown timeline", "another tenant's token", "refuse"] as const,
          (mode) => makeFakeSafekeeper({ tenant, timeline, flush: 0x42n, token: "s3cret", mode })
        )
        const safekeepers = fakes.map(({ address }) => address)
        const { timeline: made } = yield* claim(
          specOf(null, { safekeepers, token: Redacted.make("s3cret") }),
          `echo "FATAL:  --sync-safekeepers requires a value" >&2; exit 1`
        )
        const failure = yield* Effect.flip(made.commitLsn(moment))
        const said = explain(failure)
        const [synced, without, foreign, gone] = safekeepers
        assert.include(said, `${synced} flushed 0/42 and committed 0/42`)
        assert.include(said, `${without} does not know the timeline`)
        assert.include(said, `${foreign}: query ${foreign}: JWT authentication error (SQLSTATE XX000)`)
        assert.match(said, new RegExp(`${gone}: connect to ${gone}: .*ECONNREFUSED`))
        assert.notInclude(said, "s3cret")
      })
    )
  }

  it.live("where a quorum takes no token, Postgres is not even run", () =>
    Effect.gen(function* () {
      const fakes = yield* Effect.forEach(["wrong token", "another tenant's token", "hang"] as const, (mode) =>
        makeFakeSafekeeper({ tenant, timeline, flush: 0x42n, token: "s3cret", mode })
      )
      const safekeepers = fakes.map(({ address }) => address)
      const { folder, timeline: made } = yield* claim(
        specOf(null, { safekeepers, token: Redacted.make("s3cret") }),
        "touch $HERE/ran; echo 0/1"
      )
      const failure = yield* Effect.flip(made.commitLsn("start"))
      assert.match(explain(failure), /^cannot sync the safekeepers \(0 attempts\); .*0 of 3 safekeepers answered/)
      assert.strictEqual(explain(failure).split("JWT authentication error").length, 3)
      assert.match(hintOf(failure), /storage_auth_token/)
      assert.isFalse(fs.existsSync(path.join(folder, "ran")))
    })
  )

  it.live("a safekeeper that is named twice is warned of, and has one voice", () =>
    Effect.gen(function* () {
      const [first, second] = [yield* safekeeper(0x42n), yield* safekeeper(0x41n)].map(({ address }) => address)
      const safekeepers = [String(first), `postgresql://postgres:@${first}`, String(second)]
      const lines: Array<string> = []
      const log = Logger.layer([Logger.make(({ message }) => void lines.push(String(message)))])
      const { timeline: made } = yield* claim(specOf(null, { safekeepers }), "echo 0/43").pipe(Effect.provide(log))
      assert.deepStrictEqual(lines, [
        `safekeeper_connstrings: ${first} is there twice and has one voice; the later API refuses such lists`
      ])
      assert.strictEqual(yield* made.commitLsn("start"), 0x43n, "two of three agreed, but they are one of two")
    })
  )

  it.live(
    "a static compute is at its LSN, a replica at the latest; neither talks to safekeepers or ends anything",
    () =>
      Effect.gen(function* () {
        const modes = [
          [{ _tag: "Static", lsn: 7n }, 7n],
          [{ _tag: "Replica" }, null]
        ] as const
        for (const [mode, lsn] of modes) {
          const { timeline: made } = yield* claim(specOf(null, { safekeepers: ["nobody:1"] }, mode))
          assert.strictEqual(yield* made.commitLsn("start"), lsn)
          assert.isNull(yield* made.commitLsn("end"))
        }
      })
  )
})
