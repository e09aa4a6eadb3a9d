/**
 * Where the data lives: which source wins, and the reference's words for what is missing.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { parseSpec } from "../../src/spec/parseSpec.ts"
import { storageWarnings, safekeeperName } from "../../src/spec/parseStorage.ts"
import { specOf, problemLines, type Json, least, leastNeon } from "../support/fixtures.ts"

const settings = (entries: Readonly<Record<string, string>>, more: Json = {}): Json => ({
  ...least,
  ...more,
  cluster: {
    roles: [],
    databases: [],
    settings: Object.entries(entries).map(([name, value]) => ({ name, value, vartype: "string" }))
  }
})
const all = {
  "neon.pageserver_connstring": "host=a,host=b",
  "neon.stripe_size": "2048",
  "neon.safekeepers": "g#7:sk1:1,sk2:2",
  "neon.tenant_id": "3".repeat(32),
  "neon.timeline_id": "4".repeat(32)
}
const info = (more: Json): Json => ({
  ...leastNeon,
  pageserver_connection_info: { shard_count: 0, shards: {}, ...more }
})
const server = (more: Json): Json => ({ pageservers: [more] })

describe("sources", () => {
  it("settings serve when there is nothing else", () => {
    const { neon, tenant, timeline } = specOf(settings(all), "neon")
    assert.strictEqual(String(tenant), "3".repeat(32))
    assert.strictEqual(String(timeline), "4".repeat(32))
    assert.strictEqual(neon?.pageservers.shardCount, 2)
    assert.strictEqual(neon?.pageservers.stripeSize, 2048)
    assert.deepStrictEqual(neon?.safekeepers, ["sk1:1", "sk2:2"])
    assert.strictEqual(neon?.safekeepersGeneration, 7)
    assert.strictEqual(neon?.fromSettings.size, 4)
  })

  it("fields win over settings", () => {
    const fields = { ...leastNeon, safekeepers_generation: 3 }
    const { neon, tenant } = specOf(settings(all, fields), "neon")
    assert.strictEqual(String(tenant), "1".repeat(32))
    assert.strictEqual(neon?.pageservers.shardCount, 0)
    assert.deepStrictEqual(neon?.safekeepers, ["sk1:5454", "sk2:5454"])
    assert.strictEqual(neon?.safekeepersGeneration, 3)
    assert.strictEqual(neon?.fromSettings.size, 0)
  })

  it("structured addresses win over the connstring", () => {
    const { neon } = specOf(
      info({
        shard_count: 1,
        stripe_size: 8,
        prefer_protocol: "grpc",
        shards: { "0001": server({ grpc_url: "grpc://p" }) }
      }),
      "neon"
    )
    assert.deepStrictEqual(neon?.pageservers, {
      shardCount: 1,
      stripeSize: 8,
      preferProtocol: "grpc",
      shards: [{ number: 0, pageservers: [{ libpqUrl: null, grpcUrl: "grpc://p" }] }]
    })
  })

  it("the first setting of a name counts, and without a value it says nothing", () => {
    const twice = settings(all) as { cluster: { settings: Array<Json> } }
    twice.cluster.settings.push({ name: "neon.tenant_id", value: "9".repeat(32), vartype: "string" })
    assert.strictEqual(String(specOf(twice, "neon").tenant), "3".repeat(32))
    twice.cluster.settings.unshift({ name: "neon.tenant_id", vartype: "string" })
    assert.deepStrictEqual(problemLines(twice, "neon"), ["tenant_id: tenant id should be provided"])
  })

  it("one pageserver is unsharded, and its stripe size means nothing", () => {
    const { neon } = specOf({ ...leastNeon, shard_stripe_size: 99 }, "neon")
    assert.deepInclude(neon?.pageservers, { shardCount: 0, stripeSize: null })
  })

  it("a replica needs no safekeepers", () => {
    for (const mode of ["Replica", { Static: "0/1" }]) {
      assert.deepStrictEqual(specOf({ ...leastNeon, mode, safekeeper_connstrings: [] }, "neon").neon?.safekeepers, [])
    }
  })

  it("safekeepers of the settings are read for a primary only", () => {
    const { neon } = specOf(settings(all, { mode: "Replica" }), "neon")
    assert.deepStrictEqual(neon?.safekeepers, [])
    assert.isFalse(neon?.fromSettings.has("safekeepers"))
  })

  it("the twelfth shard is 0b", () => {
    const shards = Object.fromEntries(
      Array.from({ length: 12 }, (_, number) => [
        `${number.toString(16).padStart(2, "0")}0c`,
        server({ libpq_url: `host=p${number}` })
      ])
    )
    const { neon } = specOf(info({ shard_count: 12, stripe_size: 8, shards }), "neon")
    assert.strictEqual(neon?.pageservers.shards[11]?.pageservers[0]?.libpqUrl, "host=p11")
  })
})

describe("safekeepers", () => {
  const safekeepers = ["postgresql://postgres:@sk-0.neon:5454", "postgres://sk-1.neon", "sk-2.neon:5454"]

  it("may be URLs, and stay in the words in which they came", () => {
    const { neon } = specOf({ ...leastNeon, safekeeper_connstrings: safekeepers }, "neon")
    assert.deepStrictEqual(neon?.safekeepers, safekeepers)
    const given = specOf(settings({ ...all, "neon.safekeepers": safekeepers.join(",") }), "neon")
    assert.deepStrictEqual(given.neon?.safekeepers, safekeepers)
    assert.deepStrictEqual(safekeepers.map(safekeeperName), ["sk-0.neon:5454", "sk-1.neon:5454", "sk-2.neon:5454"])
  })

  it("that are named twice are taken by the older API, and known as the same in any spelling", () => {
    const twice = ["a:1", "b:1", "a:1", "postgresql://x:y@b:1"]
    const spec = { ...leastNeon, safekeeper_connstrings: twice }
    const older = Result.getOrThrow(parseSpec(spec, { source: "test", storage: "neon", apiVersion: "2024" }))
    assert.deepStrictEqual(older.neon?.safekeepers, twice)
    assert.deepStrictEqual(
      storageWarnings(older.neon).map((warning) => /: (\S+) is there twice/.exec(warning)?.[1]),
      ["a:1", "b:1"]
    )
  })
})

describe("pageservers", () => {
  it("of several shards need no stripe size by the older API, which warns", () => {
    const spec = { ...leastNeon, pageserver_connstring: "host=a,host=b,host=c" }
    const { neon } = Result.getOrThrow(parseSpec(spec, { source: "test", storage: "neon", apiVersion: "2024" }))
    assert.deepStrictEqual([neon?.pageservers.shardCount, neon?.pageservers.stripeSize], [3, null])
    assert.match(storageWarnings(neon).join(), /^pageservers: 3 shards but no stripe_size/)
  })

  it("of a shard are all kept, the first of them first", () => {
    const pageservers = [{ libpq_url: "host=a" }, { id: 7, grpc_url: "grpc://b" }]
    const { neon } = specOf(info({ shards: { "0000": { pageservers } } }), "neon")
    assert.deepStrictEqual(neon?.pageservers.shards[0]?.pageservers, [
      { libpqUrl: "host=a", grpcUrl: null },
      { libpqUrl: null, grpcUrl: "grpc://b" }
    ])
  })
})

const table: ReadonlyArray<readonly [what: string, input: Json, problemLines: ReadonlyArray<string>]> = [
  [
    "nothing",
    least,
    [
      "pageserver_connection_info: pageserver connection information should be provided",
      "safekeeper_connstrings: safekeeper connstrings should be provided",
      "tenant_id: tenant id should be provided",
      "timeline_id: timeline id should be provided"
    ]
  ],
  [
    "bad ids in settings",
    settings({ ...all, "neon.tenant_id": "x", "neon.timeline_id": "" }),
    ["cluster.settings[3].value: invalid tenant id", "cluster.settings[4].value: invalid timeline id"]
  ],
  [
    "shards without a stripe size",
    { ...leastNeon, pageserver_connstring: "host=a,host=b,host=c" },
    ["pageserver_connstring: 3 shards but no stripe_size"]
  ],
  [
    "a bad stripe setting",
    settings({ ...all, "neon.stripe_size": "-1" }),
    ["cluster.settings[1].value: expected a number of pages", "cluster.settings[0].value: 2 shards but no stripe_size"]
  ],
  [
    "an address that is none",
    { ...leastNeon, pageserver_connstring: "hunter2" },
    [
      "pageserver_connstring: expected where shard 0's pageserver is: " +
        "it is neither a postgresql:// URL nor key=value text"
    ]
  ],
  [
    "an empty safekeeper setting",
    settings({ ...all, "neon.safekeepers": " , " }),
    ["cluster.settings[2].value: safekeeper_connstrings is empty"]
  ],
  [
    "a safekeeper twice",
    { ...leastNeon, safekeeper_connstrings: ["a:1", "b:1", "a:1"] },
    ["safekeeper_connstrings[2]: duplicate entry in safekeeper_connstrings: a:1!"]
  ],
  [
    "safekeepers that are no addresses",
    { ...leastNeon, safekeeper_connstrings: ["a", "b:0", "c:65536", ":1", "d:1:2", "", "e:1"] },
    [0, 1, 2, 3, 4, 5].map((index) => `safekeeper_connstrings[${index}]: expected host:port of a safekeeper, or a URL`)
  ],
  [
    "a shard that is missing",
    info({ shard_count: 2, stripe_size: 8, shards: { "0002": server({ libpq_url: "host=a" }) } }),
    ["pageserver_connection_info.shards: shard connection info missing for shard 0102"]
  ],
  [
    "a shard without pageservers",
    info({ shards: { "0000": { pageservers: [] } } }),
    ['pageserver_connection_info.shards["0000"].pageservers: must have at least one pageserver']
  ],
  [
    "a second pageserver that is no address",
    info({ shards: { "0000": { pageservers: [{ libpq_url: "host=a" }, { libpq_url: "hunter2" }] } } }),
    [
      'pageserver_connection_info.shards["0000"].pageservers[1].libpq_url: expected where shard 0\'s pageserver is: ' +
        "it is neither a postgresql:// URL nor key=value text"
    ]
  ],
  [
    "no libpq address",
    info({ shards: { "0000": server({ grpc_url: "grpc://p" }) } }),
    ['pageserver_connection_info.shards["0000"].pageservers[0]: no libpq_url for shard 0000']
  ],
  [
    "no grpc address",
    info({ prefer_protocol: "grpc", shards: { "0000": server({ libpq_url: "host=a" }) } }),
    ['pageserver_connection_info.shards["0000"].pageservers[0]: no grpc_url for shard 0000']
  ],
  [
    "a bad role and a missing address",
    { ...least, cluster: { roles: [{ name: "" }], databases: [] }, tenant_id: "1".repeat(32) },
    [
      "cluster.roles[0].name: expected a name that is not empty",
      "pageserver_connection_info: pageserver connection information should be provided",
      "safekeeper_connstrings: safekeeper connstrings should be provided",
      "timeline_id: timeline id should be provided"
    ]
  ]
]

describe("what is wrong", () => {
  for (const [what, input, expected] of table) {
    it(`${what} is a problem`, () => assert.deepStrictEqual(problemLines(input, "neon"), expected))
  }
})

describe("an ancestor", () => {
  const ancestor = { ancestor_timeline_id: "AB".repeat(16), ancestor_lsn: "0/1A2B3C4" }

  it("is a timeline, and an LSN where one is given", () => {
    const whole = specOf({ ...least, ...ancestor }, "local").ancestor
    assert.strictEqual(String(whole?.timeline), "ab".repeat(16))
    assert.strictEqual(whole?.lsn, 0x1a2b3c4n)
    const { ancestor: latest } = specOf({ ...least, ancestor_timeline_id: "1".repeat(32) }, "local")
    assert.isNull(latest?.lsn)
    assert.isNull(specOf(least, "local").ancestor)
  })

  it.each([
    [{ ancestor_lsn: "0/1A2B3C4" }, "ancestor_lsn"],
    [{ timeline_id: "ab".repeat(16), ancestor_timeline_id: "AB".repeat(16) }, "ancestor_timeline_id"],
    [{ ancestor_timeline_id: "0".repeat(32) }, "ancestor_timeline_id"],
    [{ ancestor_timeline_id: "ab" }, "ancestor_timeline_id"],
    [{ ...ancestor, ancestor_lsn: "later" }, "ancestor_lsn"]
  ])("%j is refused at %s", (fields, where) => {
    const parsed = parseSpec({ ...least, ...fields }, { source: "a test", storage: "local" })
    assert.isTrue(Result.isFailure(parsed))
    if (Result.isFailure(parsed))
      assert.deepStrictEqual(
        parsed.failure.problems.map(({ path }) => path),
        [where]
      )
  })

  it("cannot be had of Neon's storage, which says where it is asked for", () => {
    const parsed = parseSpec({ ...leastNeon, ...ancestor }, { source: "a test", storage: "neon" })
    assert.isTrue(Result.isFailure(parsed))
    if (Result.isFailure(parsed)) {
      const paths = parsed.failure.problems.map(({ path }) => path)
      assert.deepStrictEqual(paths, ["ancestor_timeline_id", "ancestor_lsn"])
    }
  })
})
