/**
 * Command lines of both generations and of our own, and one sentence for each that is wrong.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { inspect } from "node:util"
import { type Command, parseArguments } from "../../src/cli/arguments.ts"
import { flags } from "../../src/cli/flags.ts"
import type { Environment } from "../../src/cli/given.ts"
import type { RunSettings } from "../../src/cli/RunSettings.ts"
import type { FilterLevel } from "../../src/logging/filter.ts"

const parse = (argv: ReadonlyArray<string>, env: Environment = {}): Command =>
  Result.getOrThrow(parseArguments(argv, env))
const run = (argv: ReadonlyArray<string>, env: Environment = {}): RunSettings => {
  const command = parse(argv, env)
  return command._tag === "Run" ? command.settings : assert.fail(`it is ${command._tag}`)
}
const sqlError = (argv: ReadonlyArray<string>, env: Environment = {}): string =>
  Result.getOrThrow(Result.flip(parseArguments(argv, env))).message

const url = "postgresql://cloud_admin@localhost/postgres"
const where = ["-D", "/data", "-C", url]
const older = [...where, "-S", "spec.json"]
const newer = [...where, "-c", "config.json", "-i", "compute-1"]
const local = ["--storage", "local", "-S", "spec.json"]
const volume = ["--storage", "volume", "-D", "/volume/pgdata", "-S", "spec.json"]

const everyCommand =
  "run, validate, plan, apply, doctor, health, status, top, check, branch, timelines, routes, fake, schema, " +
  "explain, completions, man, help"

const nothingElse = {
  postgres: null,
  allowLastGoodSpec: false,
  computeId: null,
  httpHost: "::",
  httpAllowedHosts: new Set<string>(),
  httpTls: null,
  storage: { _tag: "Neon" },
  requireExisting: false,
  allowUnfenced: false,
  generatePassword: null,
  runAs: null,
  privilegedRole: "neon_superuser",
  logFormat: "text",
  logFilter: { level: "info", modules: new Map() },
  banner: true,
  verbose: false,
  httpPortsGiven: false,
  liveConfigAllowed: true,
  dev: false,
  remoteExtBaseUrl: null,
  vmMonitor: {
    cgroup: "neon-postgres",
    filecacheConnstr:
      "host=localhost port=5432 dbname=postgres user=cloud_admin sslmode=disable application_name=vm-monitor",
    address: "0.0.0.0:10301",
    cgroupPolicy: "refuse"
  },
  resizeSwapOnBind: false,
  diskQuotaMount: null,
  installedExtensionsIntervalSeconds: 3600,
  pgInitTimeoutSeconds: null,
  stopBudgetSeconds: 8,
  controlPlaneToken: null,
  exitWhenIdle: false,
  replicaMaxLagSeconds: 60,
  autoscaling: false,
  warnings: []
} as const

describe("launch lines", () => {
  it("of 2024: everything else has its default", () => {
    const settings = run([
      "-D",
      "/var/db/postgres/compute",
      "-C",
      url,
      "-S",
      "/specs/spec.json",
      "-b",
      "/usr/local/bin/postgres"
    ])
    assert.deepStrictEqual(settings, {
      ...nothingElse,
      apiVersion: "2024",
      pgdata: "/var/db/postgres/compute",
      connstr: {
        host: "localhost",
        port: 5432,
        user: "cloud_admin",
        password: null,
        database: "postgres",
        options: null,
        applicationName: null
      },
      postgres: "/usr/local/bin/postgres",
      spec: { _tag: "File", path: "/specs/spec.json" },
      externalHttpPort: 3080,
      internalHttpPort: null
    })
  })

  it("can be spelled attached, long, with =, or apart", () => {
    const expected = run([...older, "-b", "/pg"])
    for (const argv of [
      ["-D/data", `-C${url}`, "-Sspec.json", "-b/pg"],
      ["--pgdata=/data", `--connstr=${url}`, "--spec-path=spec.json", "--pgbin=/pg"],
      ["run", "--pgdata", "/data", "--connstr", url, "--spec-path", "spec.json", "--pgbin", "/pg"]
    ])
      assert.deepStrictEqual(run(argv), expected)
  })

  it("of the documentation, for both generations", () => {
    const both = ["-b", "/usr/local/bin/postgres", "-r", "http://pg-ext-s3-gateway"]
    assert.strictEqual(run([...older, ...both]).remoteExtBaseUrl, "http://pg-ext-s3-gateway/")
    const settings = run([...where, "-c", "config.json", ...both])
    assert.deepInclude(settings, { apiVersion: "head", remoteExtBaseUrl: "http://pg-ext-s3-gateway/", computeId: null })
    assert.deepStrictEqual(settings.warnings, [])
  })

  it("of neon_local", () => {
    const settings = run([
      "--external-http-port",
      "55440",
      "--internal-http-port",
      "55441",
      "--pgdata",
      "/ep/pgdata",
      "--connstr",
      "postgresql://cloud_admin@127.0.0.1:55432/postgres",
      "--config",
      "/ep/config.json",
      "--pgbin",
      "/pg/bin/postgres",
      "--compute-id",
      "ep-main",
      "--remote-ext-base-url",
      "http://ext.invalid/some/path//",
      "--dev",
      "--privileged-role-name",
      "admin_of_all"
    ])
    assert.deepInclude(settings, {
      apiVersion: "head",
      externalHttpPort: 55440,
      internalHttpPort: 55441,
      spec: { _tag: "ConfigFile", path: "/ep/config.json" },
      computeId: "ep-main",
      remoteExtBaseUrl: "http://ext.invalid/some/path/",
      dev: true,
      privilegedRole: "admin_of_all",
      liveConfigAllowed: true,
      warnings: []
    })
  })

  it("of docker-compose", () => {
    const settings = run([
      "--pgdata",
      "/var/db/postgres/compute",
      "-C",
      "postgresql://cloud_admin@localhost:55433/postgres",
      "-b",
      "/usr/local/bin/postgres",
      "--compute-id",
      "compute-12345",
      "--config",
      "/tmp/config.json"
    ])
    assert.deepInclude(settings, {
      apiVersion: "head",
      externalHttpPort: 3080,
      internalHttpPort: 3081,
      computeId: "compute-12345"
    })
    assert.strictEqual(settings.connstr?.port, 55433)
  })

  it("of a 2024 cloud that pulls its spec", () => {
    const env = {
      NEON_CONTROL_PLANE_TOKEN: "hunter2",
      AUTOSCALING: "",
      RUST_LOG: "compute_tools=trace,warn,hyper=info"
    }
    const settings = run([...where, "-p", "http://cp.invalid:9096", "-i", "compute-1", "--http-port", "3999"], env)
    assert.deepInclude(settings, {
      apiVersion: "2024",
      externalHttpPort: 3999,
      internalHttpPort: null,
      spec: { _tag: "ControlPlane", uri: "http://cp.invalid:9096" },
      autoscaling: true,
      logFilter: {
        level: "warn",
        modules: new Map<string, FilterLevel>([
          ["compute_tools", "trace"],
          ["hyper", "info"]
        ])
      }
    })
    assert.strictEqual(
      settings.controlPlaneToken === null ? null : Redacted.value(settings.controlPlaneToken),
      "hunter2"
    )
    assert.notInclude(inspect(settings, { depth: 9 }) + JSON.stringify(settings), "hunter2")
  })

  it("with a volume needs a spec and the folder of the data", () => {
    assert.deepInclude(run(volume), {
      pgdata: "/volume/pgdata",
      connstr: null,
      postgres: null,
      httpHost: "localhost",
      requireExisting: false,
      storage: { _tag: "Volume" }
    })
  })

  it("with local storage needs a spec and nothing else", () => {
    assert.deepInclude(run(local), {
      pgdata: null,
      connstr: null,
      postgres: null,
      httpHost: "localhost",
      storage: { _tag: "Local", directory: null, durability: "os" }
    })
    const argv = [
      "--storage",
      "local:/var/lib/x:y",
      "--durability=process",
      "-S",
      "f",
      "--http-host",
      "::1",
      "--no-banner",
      "--run-as",
      "pg"
    ]
    assert.deepInclude(run(argv), {
      httpHost: "::1",
      banner: false,
      runAs: "pg",
      storage: { _tag: "Local", directory: "/var/lib/x:y", durability: "process" }
    })
  })
})

describe("rules", () => {
  const table: ReadonlyArray<
    readonly [what: string, argv: ReadonlyArray<string>, env: Environment, Partial<RunSettings>]
  > = [
    [
      "an inline spec forbids live configuration",
      [...where, "-s", "{}"],
      {},
      {
        apiVersion: "2024",
        spec: { _tag: "Inline", text: "{}" },
        liveConfigAllowed: false
      }
    ],
    [
      "-s wins over -S and -p",
      [...older, "-s{}", "-p", "http://x", "-i", "y"],
      {},
      {
        spec: { _tag: "Inline", text: "{}" },
        warnings: ["-S has no effect, because -s gives the spec", "-p has no effect, because -s gives the spec"]
      }
    ],
    [
      "-S wins over -p, which needs no -i then",
      [...older, "-p", "http://x"],
      {},
      {
        spec: { _tag: "File", path: "spec.json" },
        warnings: ["-p has no effect, because -S gives the spec"]
      }
    ],
    ["-i together with -S is fine", [...older, "-i", "me"], {}, { computeId: "me", warnings: [] }],
    [
      "--http-allowed-host is a list of names, in any case",
      [...older, "--http-allowed-host", "compute-1.svc, Proxy.Example"],
      {},
      { httpAllowedHosts: new Set(["compute-1.svc", "proxy.example"]) }
    ],
    [
      "--http-port is the port in 2024",
      [...older, "--http-port", "0"],
      {},
      { externalHttpPort: 0, internalHttpPort: null }
    ],
    [
      "--http-port has no effect among newer flags",
      [...newer, "--http-port", "4000"],
      {},
      {
        apiVersion: "head",
        externalHttpPort: 3080,
        internalHttpPort: 3081,
        warnings: ["--http-port has no effect; use --external-http-port and --internal-http-port"]
      }
    ],
    [
      "--http-port counts in lakebase mode",
      [...newer, "--http-port", "4000", "--lakebase-mode", "true"],
      {},
      {
        externalHttpPort: 4000,
        internalHttpPort: 4001,
        warnings: ["--lakebase-mode: only its meaning of --http-port is known here"]
      }
    ],
    ["--lakebase-mode false is nothing", [...newer, "--lakebase-mode=false"], {}, { warnings: [] }],
    [
      "one dialect can be asked for",
      [...older, "--api-dialect", "head", "--http-port", "4000"],
      {},
      {
        apiVersion: "head",
        externalHttpPort: 4000,
        internalHttpPort: 4001
      }
    ],
    [
      "the other one, too",
      [...newer, "--api-dialect=2024", "--internal-http-port", "5"],
      {},
      {
        apiVersion: "2024",
        externalHttpPort: 3080,
        internalHttpPort: null,
        warnings: ["--internal-http-port has no effect: the 2024 API has one port"]
      }
    ],
    [
      "-p without older flags speaks the newer dialect",
      [...where, "-p", "http://x", "-i", "me"],
      {},
      { apiVersion: "head" }
    ],
    [
      "-r does not tell the generation",
      [...where, "-p", "http://x", "-i", "me", "--http-port", "1", "-r", "http://e"],
      {},
      {
        apiVersion: "2024"
      }
    ],
    [
      "an old -r that is no URL names the gateway",
      [...older, "-r", '{"bucket":"b"}'],
      {},
      {
        remoteExtBaseUrl: "http://pg-ext-s3-gateway/"
      }
    ],
    [
      "--remote-ext-config by its long name",
      [...newer, "--remote-ext-config", "x"],
      {},
      {
        remoteExtBaseUrl: "http://pg-ext-s3-gateway/"
      }
    ],
    [
      "POSTGRES_PATH is the default of -b",
      older,
      { POSTGRES_PATH: "/pg17/bin/postgres" },
      { postgres: "/pg17/bin/postgres" }
    ],
    ["-b wins over POSTGRES_PATH", [...older, "-b", "/b"], { POSTGRES_PATH: "/pg17/bin/postgres" }, { postgres: "/b" }],
    [
      "--log-level wins over RUST_LOG",
      [...older, "--log-level", "debug"],
      { RUST_LOG: "error" },
      {
        logFilter: { level: "debug", modules: new Map() }
      }
    ],
    [
      "--log-level by module",
      [...older, "--log-level", "warn,monitor=debug"],
      {},
      {
        logFilter: { level: "warn", modules: new Map([["monitor", "debug"]]) }
      }
    ],
    [
      "RUST_LOG of modules only is no level",
      older,
      { RUST_LOG: "hyper=trace" },
      {
        logFilter: { level: "info", modules: new Map([["hyper", "trace"]]) },
        warnings: []
      }
    ],
    [
      "RUST_LOG without sense warns",
      older,
      { RUST_LOG: "loud" },
      {
        logFilter: { level: "info", modules: new Map() },
        warnings: ["RUST_LOG has no level that we know; it has no effect"]
      }
    ],
    [
      "--pg-init-timeout limits the start of Postgres",
      [...newer, "--pg-init-timeout", "30"],
      {},
      { pgInitTimeoutSeconds: 30, warnings: [] }
    ],
    [
      "a replica's bound on its lag",
      [...newer, "--replica-max-lag", "5"],
      {},
      { replicaMaxLagSeconds: 5, warnings: [] }
    ],
    [
      "--generate-password is stock Postgres's",
      [...newer, "--generate-password", "web"],
      {},
      { generatePassword: "web", warnings: ["--generate-password has no effect with --storage neon"] }
    ],
    [
      "--stop-budget is local storage's",
      [...newer, "--stop-budget", "20"],
      {},
      { stopBudgetSeconds: 20, warnings: ["--stop-budget has no effect without --storage local"] }
    ],
    [
      "--stop-budget is not a volume's",
      [...volume, "--stop-budget", "20", "--require-existing"],
      {},
      { requireExisting: true, warnings: ["--stop-budget has no effect without --storage local"] }
    ],
    [
      "the vm-monitor's flags are kept",
      [...older, "--cgroup", "g", "--filecache-connstr", "f", "--vm-monitor-addr", "a"],
      {},
      {
        vmMonitor: { cgroup: "g", filecacheConnstr: "f", address: "a", cgroupPolicy: "refuse" }
      }
    ],
    [
      "the machine's flags are kept",
      [...older, "--resize-swap-on-bind", "--set-disk-quota-for-fs", "/"],
      {},
      {
        resizeSwapOnBind: true,
        diskQuotaMount: "/"
      }
    ],
    ["the log can be JSON", [...older, "--log-format=json"], {}, { logFormat: "json" }],
    [
      "an interval",
      [...newer, "--installed-extensions-collection-interval", "7"],
      {},
      { installedExtensionsIntervalSeconds: 7 }
    ]
  ]
  for (const [what, argv, env, expected] of table) {
    it(what, () => assert.deepInclude(run(argv, env), expected))
  }
})

describe("usage errors", () => {
  const table: ReadonlyArray<readonly [argv: ReadonlyArray<string>, message: string]> = [
    [[], "no spec: one of -s, -S, -c, or -p with -i is required"],
    [where, "no spec: one of -s, -S, -c, or -p with -i is required"],
    [["-S", "x", "-C", url], "-D (--pgdata) is required"],
    [["-S", "x", "-D", "/d"], "-C (--connstr) is required"],
    [[...where, "-p", "http://x"], "-p needs -i (--compute-id)"],
    [[...where, "-i", "x"], "no spec: one of -s, -S, -c, or -p with -i is required"],
    [[...where, "-p", "ftp://x", "-i", "x"], "-p expects an http or https URL; NEON_CONTROL_PLANE_TOKEN has the token"],
    ...["http://u:p@x", "https://token@x/", "http://:p@x", "http:\\\\u:p@x"].flatMap(
      (address): ReadonlyArray<readonly [argv: ReadonlyArray<string>, message: string]> => [
        [
          [...where, "-p", address, "-i", "x"],
          "-p expects a URL without a user and a password in it; NEON_CONTROL_PLANE_TOKEN has the token"
        ],
        [[...newer, "-r", address], "-r expects a URL without a user and a password in it"],
        [[...older, "-r", address], "-r expects a URL without a user and a password in it"]
      ]
    ),
    ...["", "a:1", "a b", "http://a", "*.example", "a,,b", "[::1]"].map(
      (names): readonly [argv: ReadonlyArray<string>, message: string] => [
        [...older, "--http-allowed-host", names],
        "--http-allowed-host expects names of hosts without ports, with commas between them"
      ]
    ),
    [[...newer, "-p", "http://x"], "-c cannot be used together with -p"],
    [[...newer, "--spec-path", "x"], "-c cannot be used together with --spec-path"],
    [
      [...newer, "--http-port", "1", "--external-http-port", "2"],
      "--http-port cannot be used together with --external-http-port"
    ],
    [
      [...newer, "--http-port", "1", "--internal-http-port", "2"],
      "--http-port cannot be used together with --internal-http-port"
    ],
    [[...newer, "--external-http-port", "3081"], "--external-http-port and --internal-http-port must differ"],
    [[...older, "--http-port", "65536"], "--http-port expects a port from 0 to 65535"],
    [[...older, "--http-port", "http"], "--http-port expects a port from 0 to 65535"],
    [[...newer, "--lakebase-mode", "yes"], "--lakebase-mode expects true or false"],
    [[...newer, "--lakebase-mode"], "--lakebase-mode needs a value (BOOL)"],
    [
      [...newer, "--privileged-role-name", "Robert'); --"],
      "--privileged-role-name expects lower-case letters and underscores, at most 63"
    ],
    [[...newer, "-r", "http://e/?x=1"], "-r: parameters detected in remote extensions base URL"],
    [[...newer, "-r", "nowhere"], "-r expects an http or https URL"],
    [[...newer, "-r", "http://a", "--remote-ext-config", "b"], "-r cannot be used together with --remote-ext-config"],
    [
      ["-D", "/d", "-C", "host=/tmp password=hunter2", "-S", "x"],
      "-C expects a URL such as postgresql://cloud_admin@localhost:5432/postgres"
    ],
    [
      ["-D", "/d", "-C", "postgresql://u:hunter2@h:0/d", "-S", "x"],
      "-C expects a URL such as postgresql://cloud_admin@localhost:5432/postgres, " +
        "but its port is not between 1 and 65535"
    ],
    [[...older, "-D", "/e"], "-D is given more than once"],
    [[...older, "--pgdata", "/e"], "--pgdata is given more than once"],
    [[...older, "--dev=hunter2"], "--dev takes no value"],
    [[...where, "-S"], "-S needs a value (FILE)"],
    [["-D", "-C", url, "-S", "x"], "-D needs a value (DIR)"],
    [[...older, "--run-as="], "--run-as needs a value that is not empty"],
    [[...older, "--specpath", "x"], "there is no flag --specpath; did you mean --spec-path?"],
    [[...older, "--external-port", "1"], "there is no flag --external-port"],
    [[...older, "--http_port", "1"], "there is no flag --http_port; did you mean --http-port?"],
    [[...older, "--verison"], "there is no flag --verison; did you mean --version?"],
    [[...older, "--no-ban"], "there is no flag --no-ban; did you mean --no-banner?"],
    [[...older, "-z"], "there is no flag -z"],
    [[...older, "hunter2=x"], "there is an argument that belongs to no flag; the commands are " + everyCommand],
    [["start"], "there is no command start; the commands are " + everyCommand],
    [["run", ...older, "hunter2"], "run takes flags only, but there is an argument that belongs to none"],
    [["--storage", "s3", "-S", "x"], "--storage expects neon, local, local:DIR or volume"],
    [["--storage", "local:", "-S", "x"], "--storage expects neon, local, local:DIR or volume"],
    [["--storage", "volume", "-S", "x"], "--storage volume needs -D (--pgdata): the folder on the volume"],
    [
      [...volume, "--durability", "process"],
      "--durability goes with --storage local only: a volume's data is the only copy, and always flushed"
    ],
    [[...older, "--require-existing"], "--require-existing goes with --storage local or volume only"],
    [
      [...older, "--durability", "os"],
      "--durability goes with --storage local only: Neon's safekeepers keep commits otherwise"
    ],
    [[...local, "--durability", "none"], "--durability expects os or process"],
    [[...older, "--api-dialect", "2025"], "--api-dialect expects 2024 or head"],
    [[...older, "--log-level", "loud"], "--log-level expects trace or debug or info or warn or error"],
    [
      [...older, "--installed-extensions-collection-interval", "1h"],
      "--installed-extensions-collection-interval expects a whole number of seconds"
    ],
    [["check"], "check needs --storage local:DIR, or --storage volume and -D DIR"],
    [["check", "--storage", "local"], "check needs --storage local:DIR, or --storage volume and -D DIR"],
    [["check", "--storage", "volume"], "check needs --storage local:DIR, or --storage volume and -D DIR"],
    [["check", "--storage", "local:/s", "-D", "/d"], "-D does not belong to a check of local storage"],
    [["validate"], "validate needs at least one SPEC file, or - for stdin"],
    [["validate", "x", "-D", "/d"], "-D does not belong to validate"],
    [["fake"], "fake needs what to be: compute, control-plane, pageserver, safekeeper"],
    [["fake", "proxy", "--script", "x"], "fake needs what to be: compute, control-plane, pageserver, safekeeper"],
    [["fake", "compute"], "fake needs --script FILE"],
    [["fake", "compute", "--script", "x", "--port", "65536"], "--port expects a port from 0 to 65535"],
    [["fake", "compute", "--schema"], "--schema prints the schema of every script, and takes nothing else"],
    [["health", "--wait", "asleep"], "--wait expects ready or running"],
    [["health", "--timeout", "5s"], "--timeout goes with --wait only"],
    [["health", "--wait", "ready", "--timeout", "soon"], "--timeout expects a time such as 30s, 500ms or 2m"],
    [["health", "--detailed"], "--detailed does not belong to health"],
    [["explain", "a", "b"], "explain takes one word, but there are 2"],
    [["explain", "spec_invalit"], "there is no error of this code; did you mean spec_invalid?"],
    [["explain", "zz"], "there is no error of this code; compute_ctl explain prints all of them"],
    [["completions", "tcsh"], "completions needs the name of a shell: bash, zsh, fish"],
    [["help", "start"], "there is no such command; the commands are " + everyCommand],
    [["routes", "--wait", "ready"], "--wait does not belong to routes"],
    [[...older, "--wait", "ready"], "--wait does not belong to run"],
    [[...older, "--http-tls-cert", "x"], "--http-tls-cert and --http-tls-key go together"],
    [["schema", "x"], "schema takes flags only, but there is an argument that belongs to none"]
  ]
  for (const [argv, message] of table) {
    it(`compute_ctl ${argv.join(" ")}`, () => {
      assert.strictEqual(sqlError(argv), message)
      assert.notInclude(sqlError(argv), "hunter2")
    })
  }

  it.prop("or a command is the answer to any words", [Schema.Array(Schema.String), Schema.String], ([words, value]) => {
    parseArguments(words, {})
    for (const { name, short } of flags) {
      parseArguments([`--${name}`, value, ...older], { RUST_LOG: value })
      parseArguments([`--${name}=${value}`, ...words], {})
      if (short !== null) parseArguments([`-${short}${value}`, ...words], {})
    }
  })
})

describe("other commands", () => {
  it("are named by the first word", () => {
    assert.deepStrictEqual(parse(["schema"]), { _tag: "Schema" })
    assert.deepStrictEqual(parse(["validate", "a.json", "-"]), {
      _tag: "Validate",
      paths: ["a.json", "-"],
      storage: "neon"
    })
    assert.deepStrictEqual(parse(["--storage", "local", "validate", "a"]), {
      _tag: "Validate",
      paths: ["a"],
      storage: "local"
    })
    assert.deepStrictEqual(parse(["--storage", "volume", "validate", "a"]), {
      _tag: "Validate",
      paths: ["a"],
      storage: "local"
    })
    assert.deepStrictEqual(parse(["fake", "compute", "--script", "x.json"]), {
      _tag: "Fake",
      settings: { kind: "compute", script: "x.json", host: "127.0.0.1", port: 0, untilStdinCloses: false }
    })
    assert.deepStrictEqual(
      parse(["fake", "pageserver", "--script", "x", "--host", "::", "--port", "1", "--until-stdin-closes"]),
      { _tag: "Fake", settings: { kind: "pageserver", script: "x", host: "::", port: 1, untilStdinCloses: true } }
    )
    assert.deepStrictEqual(parse(["fake", "--schema"]), { _tag: "Fake", settings: null })
    assert.deepStrictEqual(parse(["check", "--storage", "local:/s"]), {
      _tag: "Check",
      storage: "local",
      directory: "/s"
    })
    assert.deepStrictEqual(parse(["check", "--storage", "volume", "-D", "/d"]), {
      _tag: "Check",
      storage: "volume",
      directory: "/d"
    })
    assert.deepStrictEqual(parse(["-V"]), { _tag: "Version" })
    assert.deepStrictEqual(parse([...older, "--version"]), { _tag: "Version" })
  })

  it("help names every flag once, with its default, in lines that fit a screen", () => {
    const help = parse(["-h"])
    const text = help._tag === "Text" ? help.text : ""
    for (const { fallback, name, short } of flags) {
      const spelled = text.split("\n").filter((line) => new RegExp(`^  (-., |    )--${name}\\b(?!-)`).test(line))
      assert.strictEqual(spelled.length, 1, name)
      if (short !== null) assert.include(spelled[0], `-${short}, `)
      if (fallback !== null) assert.include(text.replaceAll(/\n +/g, " "), `[default: ${fallback}]`)
    }
    for (const line of text.split("\n")) assert.isAtMost(line.length, 110)
  })
})
