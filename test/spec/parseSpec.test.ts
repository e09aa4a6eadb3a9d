/**
 * What a spec means, field by field, and every message about what it lacks.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { inspect } from "node:util"
import { expectedVerifier } from "../../src/spec/names.ts"
import { parseSpec, parseSpecText } from "../../src/spec/parseSpec.ts"
import { specOf, problemLines, fixtures, type Json, least, leastNeon, show } from "../support/fixtures.ts"

const cluster = (more: Json): Json => ({ ...least, cluster: { roles: [], databases: [], ...more } })
const role = (more: Json): Json => cluster({ roles: [{ name: "r", ...more }] })
const scram = ({
  rounds = "4096",
  salt = "c2FsdHNhbHRzYWx0c2E=",
  server = Buffer.alloc(32, 7).toString("base64"),
  stored = Buffer.alloc(32, 9).toString("base64")
} = {}): string => `SCRAM-SHA-256$${rounds}:${salt}$${stored}:${server}`
const delta = (...operations: ReadonlyArray<Json>): Json => ({ ...least, delta_operations: operations })

describe("a 2024 cloud spec", () => {
  const spec = specOf(fixtures.cloud2024, "neon")

  it("says where the data lives", () => {
    assert.strictEqual(spec.tenant, "c5a8c3b3f2e14d0b9a7766554433221f" as typeof spec.tenant)
    assert.strictEqual(spec.neon?.pageservers.shardCount, 2)
    assert.strictEqual(spec.neon?.pageservers.stripeSize, 32768)
    assert.deepStrictEqual(
      spec.neon?.pageservers.shards.map((shard) => shard.pageservers[0]?.libpqUrl),
      ["postgresql://no_user@pageserver-0.local:6400", "postgresql://no_user@pageserver-1.local:6400"]
    )
    assert.deepStrictEqual(spec.neon?.safekeepers, [
      "safekeeper-0.local:6500",
      "safekeeper-1.local:6501",
      "[fd00::3]:6502"
    ])
    assert.deepStrictEqual([...(spec.neon?.fromSettings ?? [])], [])
  })

  it("keeps apart a verifier, no password, and a password that is not ours", () => {
    assert.deepStrictEqual(
      spec.roles.map((one) => [one.name, one.password._tag]),
      [
        ["web_access", "Verifier"],
        ["db_owner", "Verifier"],
        ["no_password", "None"],
        ['left alone "ü"', "Unmanaged"]
      ]
    )
  })

  it("keeps deltas in order and ignores unknown actions", () => {
    assert.deepStrictEqual(spec.deltas, [
      { _tag: "DropDatabase", name: "trash" },
      { _tag: "RenameRole", name: "old_name", to: "new_name" },
      { _tag: "RenameDatabase", name: "old db", to: "new db" },
      { _tag: "DropRole", name: "gone" }
    ])
  })

  it("lets fields that it can not know have their defaults", () => {
    assert.deepInclude(spec, {
      suspendTimeoutSeconds: 0,
      disableLfcResizing: false,
      reconfigureConcurrency: 1,
      dropSubscriptions: false,
      auditLevel: "Disabled",
      projectId: null
    })
    assert.deepStrictEqual([...spec.jwksRoles], ["web_access"])
    assert.isTrue(spec.features.has("a_feature_of_tomorrow"))
  })

  it("does not print its secrets", () => {
    const printed = inspect(spec, { depth: 9 }) + JSON.stringify(spec)
    assert.notInclude(printed, "fixture.storage.token")
    assert.notInclude(printed, "SCRAM-SHA-256")
    assert.notInclude(printed, "6b1d16b78004bbd51fa06af9eda75972")
  })
})

describe("a newer spec of neon_local", () => {
  const spec = specOf(fixtures.neonLocal, "neon")

  it("prefers the structured pageserver addresses", () => {
    assert.deepStrictEqual(spec.neon?.pageservers, {
      shardCount: 2,
      stripeSize: 2048,
      preferProtocol: "libpq",
      shards: [
        {
          number: 0,
          pageservers: [{ libpqUrl: "postgresql://no_user@127.0.0.1:64000", grpcUrl: "grpc://no_user@127.0.0.1:51051" }]
        },
        { number: 1, pageservers: [{ libpqUrl: "postgresql://no_user@127.0.0.1:64001", grpcUrl: null }] }
      ]
    })
  })

  it("is static at an LSN, has no settings block, and a concurrency that can not hang", () => {
    assert.deepStrictEqual(spec.mode, { _tag: "Static", lsn: 0x28f10d8n })
    assert.isNull(spec.settings)
    assert.include(spec.postgresqlConf, "restart_after_crash = off")
    assert.strictEqual(spec.reconfigureConcurrency, 1)
    assert.strictEqual(spec.suspendTimeoutSeconds, -1)
    assert.strictEqual(spec.endpointId, "ep-main")
  })
})

describe("a spec with addresses in its settings only", () => {
  it("finds them there and says so", () => {
    const spec = specOf(fixtures.compose, "neon")
    assert.deepStrictEqual([...(spec.neon?.fromSettings ?? [])].sort(), [
      "pageservers",
      "safekeepers",
      "tenant",
      "timeline"
    ])
    assert.deepStrictEqual(spec.neon?.safekeepers, ["safekeeper1:5454", "safekeeper2:5454", "safekeeper3:5454"])
    assert.deepStrictEqual(spec.neon?.pageservers.shards, [
      { number: 0, pageservers: [{ libpqUrl: "host=pageserver port=6400", grpcUrl: null }] }
    ])
    assert.strictEqual(String(spec.timeline), "0a1b2c3d4e5f60718293a4b5c6d7e8f9")
  })
})

describe("with local storage", () => {
  it("the example is a spec, and it needs no addresses", () => {
    const spec = specOf(fixtures.example, "local")
    assert.isNull(spec.neon)
    assert.isAtLeast(spec.roles.length, 2)
  })

  it("absent ids are zero", () => {
    assert.strictEqual(String(specOf(least, "local").tenant), "0".repeat(32))
    assert.strictEqual(String(specOf(least, "local").timeline), "0".repeat(32))
  })

  it("ids of settings count, and bad ones are problems", () => {
    const setting = (value: string) => cluster({ settings: [{ name: "neon.tenant_id", value, vartype: "string" }] })
    assert.strictEqual(String(specOf(setting("F".repeat(32)), "local").tenant), "f".repeat(32))
    assert.deepStrictEqual(problemLines(setting("x"), "local"), ["cluster.settings[0].value: invalid tenant id"])
  })

  it("given addresses are not used, and not judged", () => {
    assert.isNull(specOf({ ...leastNeon, safekeeper_connstrings: ["?"] }, "local").neon)
  })
})

describe("passwords", () => {
  const hex = "b093c0d3b281ba6da1eacc608620abd8"
  const normal: ReadonlyArray<readonly [wire: string, verifier: string]> = [
    [hex, `md5${hex}`],
    [`md5${hex}`, `md5${hex}`],
    [scram(), scram()],
    [scram({ salt: "c2FsdA==" }), scram({ salt: "c2FsdA==" })]
  ]
  for (const [wire, verifier] of normal) {
    it(`${wire} is ${verifier} to Postgres`, () => {
      const password = specOf(role({ encrypted_password: wire }), "local").roles[0]?.password
      assert.strictEqual(password?._tag === "Verifier" ? Redacted.value(password.verifier) : null, verifier)
    })
  }

  const key = Buffer.alloc(32, 7).toString("base64")
  const none: ReadonlyArray<readonly [what: string, wire: string]> = [
    ["nothing, as Go writes a field that is not set", ""],
    ["a password in the clear", "hunter2"],
    ["the prefix alone", "SCRAM-SHA-256"],
    ["keys without padding", scram({ stored: key.slice(0, -1) })],
    ["a key of 31 bytes", scram({ server: Buffer.alloc(31).toString("base64") })],
    ["a key of 33 bytes", scram({ stored: Buffer.alloc(33).toString("base64") })],
    ["no salt", scram({ salt: "" })],
    ["a salt without padding", scram({ salt: "c2FsdA" })],
    ["no rounds", scram({ rounds: "0" })],
    ["rounds that are no number", scram({ rounds: "4k" })],
    ["more than 512 bytes", scram({ salt: "c2Fs".repeat(120) })],
    ["a line more", `${scram()}\n`],
    ["another hash", scram().replace("256", "512")],
    ["md5 in capitals", hex.toUpperCase()],
    ["md5 with a digit less", hex.slice(1)],
    ["md5 with a letter that is no digit", `md5${hex.slice(1)}g`],
    ["md5 twice", `md5md5${hex}`]
  ]
  for (const [what, wire] of none) {
    it(`${what} is no verifier, and the value is not repeated`, () => {
      const lines = problemLines(role({ encrypted_password: wire }), "local")
      assert.isNotEmpty(lines)
      for (const line of lines)
        assert.match(line, /^cluster\.roles\[0\]\.encrypted_password: expected a SCRAM-SHA-256 verifier or /)
      if (wire.length > 13) assert.notInclude(lines.join(), wire)
    })
  }
})

const table: ReadonlyArray<readonly [what: string, input: unknown, problemLines: ReadonlyArray<string>]> = [
  ["null", null, [": expected an object"]],
  ["an array", [], [": expected an object"]],
  [
    "nothing required",
    {},
    ["format_version: expected a value, but the key is missing", "cluster: expected a value, but the key is missing"]
  ],
  ["format_version as text", { ...least, format_version: "1" }, ["format_version: expected a number"]],
  ["null for a default", { ...least, features: null }, ["features: expected an array"]],
  ["null mode", { ...least, mode: null }, ['mode: expected "Primary", "Replica" or {"Static": LSN}']],
  ["lower-case mode", { ...least, mode: "primary" }, ['mode: expected "Primary", "Replica" or {"Static": LSN}']],
  ["bare Static", { ...least, mode: "Static" }, ['mode: expected "Primary", "Replica" or {"Static": LSN}']],
  [
    "bad LSN",
    { ...least, mode: { Static: "0/xyz" } },
    ["mode.Static: expected an LSN such as 0/16B3748 (LsnParseError)"]
  ],
  ["LSN as number", { ...least, mode: { Static: 5 } }, ["mode.Static: expected a string"]],
  ["short tenant", { ...least, tenant_id: "ab" }, ["tenant_id: expected 32 hexadecimal digits"]],
  ["feature that is no text", { ...least, features: ["a", 1] }, ["features[1]: expected a string"]],
  ["negative swap", { ...least, swap_size_bytes: -1 }, ["swap_size_bytes: expected an integer that is not negative"]],
  [
    "half a byte of swap",
    { ...least, swap_size_bytes: 0.5 },
    ["swap_size_bytes: expected an integer that is not negative"]
  ],
  [
    "zero interval",
    { ...least, offload_lfc_interval_seconds: 0 },
    ["offload_lfc_interval_seconds: expected an integer above 0"]
  ],
  [
    "a number for pgbouncer",
    { ...least, pgbouncer_settings: { "a b": 1 } },
    ['pgbouncer_settings["a b"]: expected a string']
  ],
  [
    "unknown audit level",
    { ...least, audit_log_level: "All" },
    ['audit_log_level: expected "Disabled" or "Log" or "Base" or "Hipaa" or "Extended" or "Full"']
  ],
  ["role without name", cluster({ roles: [{}] }), ["cluster.roles[0].name: expected a value, but the key is missing"]],
  ["empty role name", role({ name: "" }), ["cluster.roles[0].name: expected a name that is not empty"]],
  ["NUL in a role name", role({ name: "a\0b" }), ["cluster.roles[0].name: expected text without NUL bytes"]],
  ["half a character", role({ name: "a\ud800" }), ["cluster.roles[0].name: expected text without lone surrogates"]],
  [
    "64 letters",
    role({ name: "x".repeat(64) }),
    [
      "cluster.roles[0].name: expected a name of at most 63 bytes (UTF-8); " +
        "this one has 64, and Postgres would cut it short"
    ]
  ],
  [
    "33 wide letters",
    cluster({ databases: [{ name: "ü".repeat(32), owner: "x" }] }),
    [
      "cluster.databases[0].name: expected a name of at most 63 bytes (UTF-8); " +
        "this one has 64, and Postgres would cut it short"
    ]
  ],
  [
    "database without owner",
    cluster({ databases: [{ name: "d" }] }),
    ["cluster.databases[0].owner: expected a value, but the key is missing"]
  ],
  [
    "secret of the wrong type",
    role({ encrypted_password: ["hunter2"] }),
    ["cluster.roles[0].encrypted_password: expected a string or null"]
  ],
  [
    "NUL in a secret",
    role({ encrypted_password: "hunter2\0" }),
    [`cluster.roles[0].encrypted_password: expected ${expectedVerifier}`]
  ],
  [
    "role public",
    role({ name: "public" }),
    ["cluster.roles[0].name: expected the name of a role; public is a word of Postgres's own"]
  ],
  [
    "role none",
    role({ name: "none" }),
    ["cluster.roles[0].name: expected the name of a role; none is a word of Postgres's own"]
  ],
  [
    "role of Postgres",
    role({ name: "pg_x" }),
    ["cluster.roles[0].name: expected a name that does not begin with pg_: such roles are Postgres's own"]
  ],
  [
    "role of this program",
    role({ name: "compute_ctl_leaving_1" }),
    [
      "cluster.roles[0].name: expected a name that does not begin with compute_ctl_leaving_: " +
        "such roles are of this program"
    ]
  ],
  [
    "database of this program, and an owner that is no role",
    cluster({
      databases: [{ name: "template_compute_ctl", owner: "public" }]
    }),
    [
      "cluster.databases[0].name: expected another name: this one is reserved for a database of this program",
      "cluster.databases[0].owner: expected the name of a role; public is a word of Postgres's own"
    ]
  ],
  [
    "reserved names in deltas",
    delta(
      { action: "rename_db", name: "a", new_name: "template_compute_ctl" },
      { action: "rename_role", name: "a", new_name: "pg_a" },
      { action: "delete_role", name: "pg_a" }
    ),
    [
      "delta_operations[0].new_name: expected another name: this one is reserved for a database of this program",
      "delta_operations[1].new_name: expected a name that does not begin with pg_: such roles are Postgres's own"
    ]
  ],
  ["privileged as text", role({ privileged: "no" }), ["cluster.roles[0].privileged: expected a boolean or null"]],
  [
    "option without vartype",
    cluster({ settings: [{ name: "fsync", value: "off" }] }),
    ["cluster.settings[0].vartype: expected a value, but the key is missing"]
  ],
  [
    "setting of two lines",
    cluster({ settings: [{ name: "a = 1\nb", value: "2", vartype: "bool" }] }),
    ["cluster.settings[0].name: expected the name of a Postgres setting"]
  ],
  [
    "bare value of two lines",
    cluster({ settings: [{ name: "a.b", value: "1\nfsync = off", vartype: "integer" }] }),
    ['cluster.settings[0].value: expected one line, because the vartype is not "string"']
  ],
  [
    "rename without new_name",
    delta({ action: "rename_db", name: "a" }, { action: "rename_role", name: "b", new_name: null }),
    [
      "delta_operations[0].new_name: expected the new name, which rename_db needs",
      "delta_operations[1].new_name: expected the new name, which rename_role needs"
    ]
  ],
  [
    "rename to a long name",
    delta({ action: "rename_role", name: "a", new_name: "x".repeat(70) }),
    [
      "delta_operations[0].new_name: expected a name of at most 63 bytes (UTF-8); " +
        "this one has 70, and Postgres would cut it short"
    ]
  ],
  [
    "proxy key without url",
    { ...least, local_proxy_config: { jwks: [{ id: "", role_names: [], provider_name: "" }] } },
    ["local_proxy_config.jwks[0].jwks_url: expected a value, but the key is missing"]
  ],
  [
    "much at once",
    { cluster: { roles: [{ name: 1 }, { name: "" }], databases: 3 }, mode: 1, tenant_id: "x" },
    [
      "format_version: expected a value, but the key is missing",
      "cluster.roles[0].name: expected a string",
      "cluster.roles[1].name: expected a name that is not empty",
      "cluster.databases: expected an array",
      "tenant_id: expected 32 hexadecimal digits",
      'mode: expected "Primary", "Replica" or {"Static": LSN}'
    ]
  ]
]

describe("what is wrong", () => {
  for (const [what, input, expected] of table) {
    it(`${what} is a problem`, () => {
      assert.deepStrictEqual(problemLines(input, "local"), expected)
      assert.notInclude(expected.join(), "hunter2")
    })
  }

  it("63 bytes are a name, and unknown actions are nobody's business", () => {
    assert.strictEqual(specOf(role({ name: "x".repeat(63) }), "local").roles[0]?.name.length, 63)
    assert.deepStrictEqual(specOf(delta({ action: "future", name: "x".repeat(99) }), "local").deltas, [])
  })

  it("is placed where the spec sits in its document", () => {
    const parsed = parseSpec(
      { ...leastNeon, tenant_id: null, format_version: 0 },
      {
        source: "config.json",
        storage: "neon",
        under: ["spec"]
      }
    )
    const failure = Result.getOrThrow(Result.flip(parsed))
    assert.deepStrictEqual(failure.problems, [{ path: "spec.tenant_id", message: "tenant id should be provided" }])
    assert.strictEqual(
      failure.message,
      "the spec (config.json) is not valid: spec.tenant_id: tenant id should be provided"
    )
  })
})

describe("parseSpecText", () => {
  const parse = (text: string) => parseSpecText(text, { source: "spec.json", storage: "local" })

  it("reads JSON", () => {
    assert.strictEqual(show(Result.getOrThrow(parse(JSON.stringify(least)))), show(specOf(least, "local")))
  })

  it("says line and column of what is not JSON", () => {
    const failure = Result.getOrThrow(Result.flip(parse('{\n  "a": hunter2\n}')))
    assert.strictEqual(failure.message, "the spec (spec.json) is not valid: line 2, column 8: expected a JSON value")
  })

  it("names keys that occur twice, and everything else that is wrong", () => {
    const failure = Result.getOrThrow(Result.flip(parse('{"cluster":{"roles":[],"roles":[],"databases":[]}}')))
    assert.deepStrictEqual(
      failure.problems.map(({ path }) => path),
      ["cluster.roles", "format_version"]
    )
  })
})
