/**
 * Fakes as scripts say, over real sockets: a compute through its life, a control plane, a pageserver and a safekeeper
 * asked by our own clients, and whoever drives them.
 */
import { assert, describe, expect, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as path from "node:path"
import { startFake } from "../../src/testing/promise.ts"
import { pullSpec } from "../../src/controlplane/ControlPlane.ts"
import { parseResponse } from "../../src/spec/ComputeConfig.ts"
import { unpack } from "../../src/postgres/basebackup.ts"
import type { TenantId, TimelineId } from "../../src/spec/identifiers.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { NeonDeadlines } from "../../src/storage/neon/deadlines.ts"
import { surveySafekeepers } from "../../src/storage/neon/safekeepers.ts"
import { acquireLease, openBasebackup } from "../../src/storage/neon/shards.ts"
import { archiveOf } from "../../src/testing/fakes/archive.ts"
import { fakeCommand } from "../../src/testing/fakes/command.ts"
import { parseScriptText, scriptsJsonSchema } from "../../src/testing/fakes/scriptSchema.ts"
import { makeFake } from "../../src/testing/fakes/startFake.ts"
import type {
  ComputeScript,
  FakeKind,
  FakeScript,
  PageserverScript,
  PageserverStep,
  SeenRequest
} from "../../src/testing/fakes/script.ts"
import { SeenList } from "../../src/testing/peers/faults.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { startShipped } from "../support/shipped.ts"
import { emptySpec } from "../support/specs.ts"
import { contentOf } from "../support/tars.ts"
import { eventually } from "../support/waiting.ts"

const examples = path.resolve(import.meta.dirname, "../../examples/fakes")
const kinds = ["compute", "control-plane", "pageserver", "safekeeper"] as const satisfies ReadonlyArray<FakeKind>

const exampleOf = (kind: FakeKind): FakeScript =>
  Result.getOrThrow(parseScriptText(fs.readFileSync(path.join(examples, `${kind}.json`), "utf8"), kind, kind))

const tenant = "a".repeat(32) as TenantId
const timeline = "b".repeat(32) as TimelineId

interface Asked {
  readonly token?: string
  readonly json?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/** `status` 0: the connection broke. */
const askAt = (url: string, method: string, route: string, { headers = {}, json, token }: Asked = {}) =>
  Effect.promise(async () => {
    try {
      const answer = await fetch(url + route, {
        method,
        headers: {
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(json === undefined ? {} : { "content-type": "application/json" }),
          ...headers
        },
        ...(json === undefined ? {} : { body: JSON.stringify(json) })
      })
      return { status: answer.status, text: await answer.text() }
    } catch {
      return { status: 0, text: "" }
    }
  })

const field = (text: string, name: string): unknown => (JSON.parse(text) as Readonly<Record<string, unknown>>)[name]

const spec = (more: object = {}) => ({
  format_version: 1,
  cluster: { roles: [{ name: "web" }], databases: [] },
  ...more
})

const started = Effect.fnUntraced(function* (script: Omit<ComputeScript, "kind">) {
  const fake = yield* makeFake({ kind: "compute", ...script })
  const { url } = fake.address
  const ask = (method: string, route: string, asked: Asked = {}) => askAt(url, method, route, asked)
  const reaches = (status: string) =>
    eventually(`the status ${status}`, () =>
      Effect.map(ask("GET", "/status"), (answer) =>
        answer.status === 200 && field(answer.text, "status") === status ? answer.text : null
      )
    )
  const configure = (json: unknown = { spec: spec() }) => ask("POST", "/configure", { json })
  return { fake, ask, reaches, configure }
})

describe("a fake compute", () => {
  it.live("is empty until a spec comes, then starts for as long as its script says, and tells it step by step", () =>
    Effect.gen(function* () {
      const { ask, configure, reaches } = yield* started({ steps: [{ at: "start", hang: true }] })
      yield* reaches("empty")
      const accepted = yield* ask("POST", "/configure", {
        json: { spec: spec() },
        headers: { prefer: "respond-async" }
      })
      assert.strictEqual(accepted.status, 202)
      yield* reaches("init")
      assert.strictEqual((yield* ask("GET", "/readyz")).status, 503)
      assert.strictEqual((yield* ask("GET", "/livez")).status, 200)
      const busy = yield* configure()
      assert.deepStrictEqual([busy.status, field(busy.text, "code")], [412, "wrong_status"])
    })
  )

  it.live("runs with the spec of its script, fails a later one in the words of its script, and is healed", () =>
    Effect.gen(function* () {
      const { ask, configure, reaches } = yield* started({
        spec: spec(),
        steps: [{ at: "configure" }, { at: "configure", error: "CREATE ROLE web: permission denied", delay: "20ms" }]
      })
      yield* reaches("running")
      assert.strictEqual((yield* ask("GET", "/readyz")).status, 200)
      assert.strictEqual((yield* configure()).status, 200)
      const refused = yield* configure()
      assert.deepStrictEqual([refused.status, field(refused.text, "code")], [500, "apply_failed"])
      assert.match(yield* reaches("failed"), /CREATE ROLE web: permission denied/)
      assert.strictEqual((yield* configure()).status, 200)
      yield* reaches("running")
    })
  )

  it.live("that fails to start shows why for as long as a real one, and then answers nobody until it is reset", () =>
    Effect.gen(function* () {
      const steps = [{ at: "start", error: "the disk is on fire" }] as const
      const shown = yield* started({ spec: spec(), steps })
      assert.match(yield* shown.reaches("failed"), /the disk is on fire/)
      const { ask, fake } = yield* started({ spec: spec(), steps, exitDelay: "0s" })
      yield* eventually("its end", () => Effect.map(ask("GET", "/status"), ({ status }) => status === 0))
      assert.strictEqual((yield* fake.seen).status, "failed")
      assert.strictEqual((yield* ask("POST", "/_reset")).status, 200)
      yield* eventually("the end of another life", () =>
        Effect.map(fake.seen, ({ seen, status }) => seen.length === 0 && status === "failed")
      )
    })
  )

  it.live("ends with its LSN after as long as the script says, and shows a Postgres that died by itself", () =>
    Effect.gen(function* () {
      const { ask, fake, reaches } = yield* started({
        spec: spec(),
        flushLsn: "1/ABCDEF0",
        exitDelay: "5m",
        steps: [{ at: "terminate", delay: "20ms" }]
      })
      yield* reaches("running")
      const ended = yield* ask("POST", "/terminate?mode=fast")
      assert.deepStrictEqual([ended.status, JSON.parse(ended.text)], [200, { lsn: "1/ABCDEF0" }])
      yield* reaches("terminated")
      yield* fake.reset
      yield* reaches("running")
      yield* fake.fault({ steps: [{ at: "postgres", delay: "10ms", exitCode: 3 }] })
      assert.match(yield* reaches("failed"), /Postgres died unasked with exit code 3/)
    })
  )

  it.live("that cannot sync at its end says so, and a stop that hangs does not keep it from being reset or left", () =>
    Effect.gen(function* () {
      const { ask, fake, reaches } = yield* started({
        spec: spec(),
        exitDelay: "5m",
        steps: [{ at: "terminate", error: "no quorum of safekeepers" }]
      })
      yield* reaches("running")
      yield* ask("POST", "/terminate")
      assert.match((yield* ask("GET", "/status")).text, /no quorum of safekeepers/)
      yield* fake.reset
      yield* reaches("running")
      const hung = yield* started({ spec: spec(), steps: [{ at: "terminate", hang: true }] })
      yield* hung.reaches("running")
      yield* Effect.forkScoped(hung.ask("POST", "/terminate"))
      yield* hung.reaches("termination_pending_fast")
      yield* hung.fake.reset
      yield* hung.reaches("running")
    })
  )

  it.live("streams its status, and takes no pages of other sites, as a real one", () =>
    Effect.gen(function* () {
      const { fake, reaches } = yield* started({ spec: spec() })
      yield* reaches("running")
      const events = yield* Effect.promise(() => fetch(`${fake.address.url}/status/stream`))
      assert.include(events.headers.get("content-type") ?? "", "text/event-stream")
      const decoder = new TextDecoder()
      let text = ""
      yield* Effect.promise(async () => {
        for await (const piece of events.body ?? []) {
          text += decoder.decode(piece, { stream: true })
          if (text.includes('"terminated"')) return
          if (text.includes('"running"')) void fetch(`${fake.address.url}/terminate`, { method: "POST" })
        }
      })
      assert.include(text, '"terminated"')
      yield* fake.reset
      const foreign = { headers: { "sec-fetch-site": "cross-site" } }
      assert.strictEqual((yield* askAt(fake.address.url, "GET", "/log", foreign)).status, 403)
    })
  )

  it.live("asks for its tokens, and takes a spec for another compute, or any spec, as little as a real one", () =>
    Effect.gen(function* () {
      const { ask, fake } = yield* started({ tokens: true, computeId: "quiet-meadow", spec: spec() })
      const { adminToken = "", jwks, token = "" } = fake.address
      assert.strictEqual(jwks?.keys.length, 1)
      assert.strictEqual((yield* ask("GET", "/status")).status, 400)
      assert.strictEqual((yield* ask("GET", "/status", { token: `${token}x` })).status, 401)
      for (const good of [token, adminToken])
        assert.strictEqual((yield* ask("GET", "/status", { token: good })).status, 200)
      yield* eventually("the start", () =>
        Effect.map(ask("GET", "/status", { token }), ({ text }) => field(text, "status") === "running")
      )
      const other = yield* ask("POST", "/configure", { token, json: { spec: spec({ tenant_id: "e".repeat(32) }) } })
      assert.deepStrictEqual([other.status, field(other.text, "code")], [409, "spec_conflict"])
      const seen = (yield* fake.seen).seen as ReadonlyArray<SeenRequest>
      assert.deepStrictEqual([...new Set(seen.map((one) => one.token))], [null, "unknown", "token", "adminToken"])

      const given = yield* started({ spec: spec(), liveConfig: false, apiVersion: "2024" })
      yield* given.reaches("running")
      assert.strictEqual((yield* given.configure()).status, 412)
      const byKeys = yield* started({ jwks: { keys: jwks?.keys ?? [] }, computeId: "quiet-meadow" })
      assert.isUndefined(byKeys.fake.address.token)
      assert.strictEqual((yield* byKeys.ask("GET", "/status", { token })).status, 200)
    })
  )

  it.live("answers as badly as it is told to, as often, and records what it was asked without secrets", () =>
    Effect.gen(function* () {
      const { ask, fake } = yield* started({
        requests: [
          { at: "GET /status", status: 503, body: { error: "not yet" }, times: 2 },
          { at: "/configure", fault: "reset" },
          { at: "GET /status", delay: "10ms" }
        ]
      })
      assert.deepStrictEqual(yield* ask("GET", "/status"), { status: 503, text: '{"error":"not yet"}\n' })
      assert.strictEqual((yield* ask("GET", "/status?x=1")).status, 503)
      assert.strictEqual((yield* ask("GET", "/livez")).status, 200)
      const role = { name: "web", encrypted_password: "md5" + "0".repeat(32) }
      const secret = {
        spec: { format_version: 1, cluster: { roles: [role], databases: [] }, storage_auth_token: "t0p" }
      }
      assert.strictEqual((yield* ask("POST", "/configure", { json: secret, token: "s3cret" })).status, 0)
      assert.strictEqual((yield* ask("GET", "/status")).status, 200)
      const armed = yield* ask("POST", "/_fault", { json: { requests: [{ fault: "garbage" }, { fault: "hang" }] } })
      assert.deepStrictEqual(JSON.parse(armed.text), { armed: 2 })
      assert.match((yield* ask("GET", "/status")).text, /^<html>/)
      const hung = yield* Effect.forkScoped(ask("GET", "/status"), { startImmediately: true })
      yield* eventually("the request that hangs", () =>
        Effect.map(fake.seen, ({ seen }) => (seen.at(-1) as SeenRequest).fault === "hang")
      )
      assert.isUndefined(hung.pollUnsafe())
      const text = (yield* ask("GET", "/_seen")).text
      assert.notMatch(text, /md5|t0p|s3cret/)
      const { dropped, seen } = JSON.parse(text) as { readonly dropped: number; readonly seen: Array<SeenRequest> }
      assert.strictEqual(dropped, 0)
      const row = ({ fault, method, path: asked, status }: SeenRequest) => `${method} ${asked} ${status} ${fault}`
      assert.deepStrictEqual(seen.map(row), [
        "GET /status 503 503",
        "GET /status?x=1 503 503",
        "GET /livez 200 null",
        "POST /configure null reset",
        "GET /status 200 10ms late",
        "GET /status 200 garbage",
        "GET /status null hang"
      ])
      yield* ask("POST", "/_reset")
      assert.deepStrictEqual((yield* fake.seen).seen, [])
      assert.strictEqual((yield* ask("GET", "/status")).status, 503)
    })
  )
})

describe("what a fake keeps", () => {
  it("has a bound: the last thousand that it saw, and a thousand faults", async () => {
    const record = new SeenList<number>()
    for (let one = 0; one < 1_002; one += 1) record.add(one)
    assert.deepStrictEqual([record.all.length, record.all[0], record.dropped], [1_000, 2, 2])
    await using fake = await startFake({ kind: "safekeeper", tenant, timeline, flush: "0/10" })
    await fake.fault({ attempts: Array.from({ length: 1_000 }, () => ({ fault: "lag" as const })) })
    const more = await fake.fault({ attempts: [{ fault: "lag" }] }).then(
      () => "taken",
      (cause: unknown) => String(cause)
    )
    assert.match(more, /more than 1000 are armed; POST \/_reset forgets them/)
  })
})

describe("a fake control plane", () => {
  it.live("is down, answers garbage, has no spec, and then has one, as our own client meets it", () =>
    Effect.gen(function* () {
      const fake = yield* makeFake(exampleOf("control-plane"))
      const pull = pullSpec({
        base: fake.address.url,
        computeId: "compute-1",
        token: Redacted.make("compute-1-token"),
        attemptWithin: Duration.seconds(10),
        within: Duration.seconds(30)
      }).pipe(Effect.provide(Logger.layer([])))
      const read = (answer: unknown) => Result.getOrThrow(parseResponse(answer, { source: "it", storage: "local" }))
      assert.isNull(read(yield* pull).spec)
      const rows = ((yield* fake.seen).seen as ReadonlyArray<SeenRequest>).map((one) => `${one.status} ${one.token}`)
      assert.deepStrictEqual(rows, ["503 token", "503 token", "200 token", "200 token"])
      for (const _ of [1, 2])
        assert.deepStrictEqual(
          read(yield* pull).spec?.roles.map(({ name }) => name),
          ["web"]
        )
      const asked = `/compute/api/v2/computes/compute-1/spec`
      assert.strictEqual((yield* askAt(fake.address.url, "GET", asked)).status, 401)
      assert.strictEqual((yield* askAt(fake.address.url, "GET", asked.replace("1", "2"), { token: "x" })).status, 401)
      const older = yield* makeFake({
        kind: "control-plane",
        apiVersion: "2024",
        computes: { a: [{ spec: spec() }], b: [{ answer: { any: 1 } }] }
      })
      const plain = yield* askAt(older.address.url, "GET", "/compute/api/v2/computes/a/spec")
      assert.deepStrictEqual(JSON.parse(plain.text), { spec: spec(), status: "attached" })
      const whole = yield* askAt(older.address.url, "GET", "/compute/api/v2/computes/b/spec")
      assert.deepStrictEqual(JSON.parse(whole.text), { any: 1 })
      for (const id of ["c", "%zz", "%00", "", "a/b"]) {
        const unknown = yield* askAt(older.address.url, "GET", `/compute/api/v2/computes/${id}/spec`)
        assert.strictEqual(unknown.status, 404)
      }
    })
  )
})

const specAt = (url: string, protocol: "libpq" | "grpc"): ParsedSpec => ({
  ...emptySpec,
  tenant,
  timeline,
  neon: {
    pageservers: {
      shardCount: 0,
      stripeSize: null,
      shards: [
        {
          number: 0,
          pageservers: [{ libpqUrl: protocol === "libpq" ? url : null, grpcUrl: protocol === "grpc" ? url : null }]
        }
      ],
      preferProtocol: protocol
    },
    safekeepers: [],
    safekeepersGeneration: null,
    token: Redacted.make("storage-token"),
    fromSettings: new Set()
  }
})

describe("a fake pageserver", () => {
  for (const [protocol, fault, failure] of [
    ["libpq", "starting up", /the pageserver is starting up/],
    ["grpc", "unknown timeline", /does not have this timeline/]
  ] as const satisfies ReadonlyArray<readonly [string, PageserverStep["fault"], RegExp]>) {
    it.live(`over ${protocol} fails as its script says, then serves its files, and knows its token by name`, () =>
      Effect.gen(function* () {
        const files = { PG_VERSION: "17\n", "global/pg_control": "x" }
        const script: PageserverScript = {
          kind: "pageserver",
          protocol,
          tenant,
          timeline,
          token: "storage-token",
          files,
          attempts: [{ fault }, { fault: "cut", at: 0.2 }, { delay: "5ms" }]
        }
        const fake = yield* makeFake(script)
        const parsed = specAt(fake.address.url, protocol)
        const { neon } = parsed
        if (neon === null) return assert.fail("it has Neon's storage")
        const deadlines = yield* NeonDeadlines
        const fetched = Effect.gen(function* () {
          const folder = yield* temporaryFolder
          const { bytes } = yield* openBasebackup(parsed, neon, 0n, deadlines)
          yield* unpack(bytes, folder, null)
          return contentOf(folder)
        }).pipe(Effect.scoped, Effect.result)
        const [first, cut, whole] = [yield* fetched, yield* fetched, yield* fetched]
        assert.match(Result.isFailure(first) ? first.failure.message : "", failure)
        assert.isTrue(Result.isFailure(cut))
        assert.deepStrictEqual(Result.getOrThrow(whole), { ...files, global: null })
        const lease = yield* acquireLease(deadlines)(parsed, neon, 16n)
        assert.strictEqual(lease._tag, "Granted")
        const text = (yield* askAt(fake.address.control, "GET", "/_seen")).text
        assert.include(text, protocol === "libpq" ? '"password":"token"' : '"authorization":"token"')
        assert.notInclude(text, "storage-token")
        assert.strictEqual((yield* askAt(fake.address.control, "GET", "/status")).status, 404)
      })
    )
  }
})

describe("what a fake pageserver serves", () => {
  it.live("may be a data directory, without its configuration, or a file, by a path from the script", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      fs.mkdirSync(path.join(folder, "pgdata/global"), { recursive: true })
      fs.writeFileSync(path.join(folder, "pgdata/global/pg_control"), "c")
      fs.writeFileSync(path.join(folder, "pgdata/postgresql.conf"), "port = 1")
      const script = { kind: "pageserver", tenant, timeline } as const
      const archive = yield* archiveOf({ ...script, pgdata: "pgdata" }, folder)
      fs.writeFileSync(path.join(folder, "base.tar.gz"), archive)
      for (const made of [archive, yield* archiveOf({ ...script, archive: "base.tar.gz" }, folder)]) {
        const unpacked = yield* temporaryFolder
        yield* unpack(Stream.make(made), unpacked, null)
        assert.deepStrictEqual(contentOf(unpacked), { global: null, "global/pg_control": "c" })
      }
      const missing = yield* Effect.result(archiveOf({ ...script, archive: "base.tar" }, folder))
      assert.match(Result.isFailure(missing) ? missing.failure.message : "", /cannot read the archive .*base\.tar$/)
    })
  )
})

describe("a fake safekeeper", () => {
  it.live("lags, breaks the connection, and then agrees; a reset takes it back to the beginning", () =>
    Effect.gen(function* () {
      const fake = yield* makeFake(exampleOf("safekeeper"))
      const survey = surveySafekeepers({
        tenant,
        timeline,
        safekeepers: [fake.address.url],
        token: Redacted.make("storage-token")
      })
      for (const _ of [1, 2]) {
        assert.match((yield* survey).join(), /0\/16B9088/)
        assert.notMatch((yield* survey).join(), /0\/16B/)
        assert.match((yield* survey).join(), /0\/16B9188/)
        assert.include(JSON.stringify(yield* fake.seen), '"password":"token"')
        yield* fake.reset
      }
    })
  )
})

describe("a script", () => {
  it("of each kind in the examples is as its schema says, and their schema is the one that is printed", async () => {
    for (const kind of kinds) assert.strictEqual(exampleOf(kind).kind, kind)
    await expect(`${JSON.stringify(scriptsJsonSchema(), null, 2)}\n`).toMatchFileSnapshot(
      path.join(examples, "schema.json")
    )
  })

  for (const [kind, text, problem] of [
    ["compute", "{", /line 1, column 2/],
    ["compute", '{"kind":"compute","kind":"compute"}', /kind: expected the key once/],
    ["compute", '{"kind":"pageserver"}', /kind: expected "compute"/],
    ["compute", '{"kind":"compute","steps":[{"at":"start"},{"at":"stat"}]}', /steps\[1\]\.at: expected "start" \|/],
    ["compute", '{"kind":"compute","steps":[{"at":"start","delay":"2 weeks"}]}', /steps\[0\]\.delay: .*200ms/],
    ["compute", '{"kind":"compute","requests":[{"at":"status"}]}', /requests\[0\]\.at: .*a path such as/],
    ["compute", '{"kind":"compute","speck":{}}', /speck: there is no such key/],
    ["control-plane", '{"kind":"control-plane","computes":{"a":[]}}', /computes\.a/],
    ["control-plane", '{"kind":"control-plane"}', /computes: expected a value, but the key is missing/],
    ["pageserver", `{"kind":"pageserver","tenant":"${tenant}","timeline":"${timeline}"}`, /archive: expected one of/],
    [
      "pageserver",
      JSON.stringify({ ...exampleOf("pageserver"), protocol: "grpc" }),
      /attempts\[0\]\.fault: with protocol grpc/
    ],
    ["safekeeper", '{"kind":"safekeeper","tenant":"A","timeline":"b","flush":"0"}', /tenant: .*; timeline: .*; flush: /]
  ] as const) {
    it(`that is wrong names the place: ${String(problem)}`, () => {
      const parsed = parseScriptText(text, kind, "the script")
      assert.match(Result.isFailure(parsed) ? parsed.failure.message : "it is well", problem)
    })
  }

  it("may not hold a spec that a compute would refuse, and says where; so is it with /_fault", async () => {
    const bad = { format_version: 1, cluster: { roles: [{ nam: "a" }], databases: [] } }
    const message = await startFake({ kind: "compute", spec: bad }).then(
      () => "it started",
      (cause: unknown) => String(cause)
    )
    assert.match(message, /spec\.cluster\.roles\[0\]\.name: /)
    await using fake = await startFake({ kind: "safekeeper", tenant, timeline, flush: "0/10" })
    const refused = await fetch(`${fake.control}/_fault`, { method: "POST", body: '{"attempts":[{"fault":"odd"}]}' })
    assert.strictEqual(refused.status, 400)
    assert.match(await refused.text(), /attempts\[0\]\.fault: expected/)
    assert.strictEqual(fake.seen().seen.length, 0)
  })
})

/** The program itself; `asked` is done to it once it has printed how to reach it. */
const shipped = async (words: ReadonlyArray<string>, asked: (child: ChildProcess, line: string) => unknown) => {
  const [command, ...args] = startShipped
  const child = spawn(command, [...args, "fake", ...words], { stdio: ["pipe", "pipe", "pipe"] })
  let printed = ""
  let complained = ""
  child.stderr.setEncoding("utf8").on("data", (text: string) => void (complained += text))
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    const before = printed.includes("\n")
    printed += text
    if (!before && printed.includes("\n")) void asked(child, printed)
  })
  const [code] = (await once(child, "close")) as [number | null]
  return { code, printed, complained }
}

describe("compute_ctl fake", () => {
  it("prints one line of JSON, and ends with 0 when its standard input closes, or on TERM", async () => {
    const script = path.join(examples, "safekeeper.json")
    const closed = await shipped(["safekeeper", "--script", script, "--until-stdin-closes"], ({ stdin }) =>
      stdin?.end()
    )
    assert.deepStrictEqual([closed.code, closed.printed.split("\n").length], [0, 2])
    assert.strictEqual(field(closed.printed, "kind"), "safekeeper")
    const compute = path.join(examples, "compute.json")
    const told = await shipped(["compute", "--script", compute, "--host", "127.0.0.2"], async (child, line) => {
      const { status } = await fetch(`${String(field(line, "url"))}/status`)
      child.kill(status === 503 && line.includes("http://127.0.0.2:") ? "SIGTERM" : "SIGKILL")
    })
    assert.strictEqual(told.code, 0, told.complained)
  })

  it("names the place of what is wrong with a script, and the file that is not there, with exit code 1", async () => {
    const wrong = async (script: string) => {
      const said = { out: "", err: "" }
      const terminal = {
        out: (text: string) => void (said.out += text),
        err: (text: string) => void (said.err += text),
        told: new Promise(() => {})
      }
      const code = await fakeCommand({ kind: "compute", script, host: "127.0.0.1", port: 0 }, terminal)
      assert.deepStrictEqual([code, said.out], [1, ""])
      return said.err
    }
    assert.match(await wrong(path.join(examples, "safekeeper.json")), /safekeeper\.json: kind: expected "compute"/)
    assert.match(
      await wrong("/nonexistent/script.json"),
      /cannot read the script \/nonexistent\/script\.json: .*ENOENT/
    )
  })

  it("is driven through its states by the client of the examples in Python; without Python this says so", () => {
    if (spawnSync("python3", ["--version"]).error !== undefined)
      return console.warn("examples/fakes/client.py was not run: there is no python3 on the PATH")
    const said = execFileSync("python3", [path.join(examples, "client.py")], {
      encoding: "utf8",
      env: { ...process.env, COMPUTE_CTL: path.resolve(examples, "../../bin/compute_ctl") }
    })
    assert.match(said, /and so: terminated\n[^]*its exit code: 0\n$/)
  })
})
