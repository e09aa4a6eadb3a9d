/**
 * Every flag, command and environment variable as a row of data: what it is called, what it takes, whose it is, what it
 * does. The parser, the help, the shell completions and the manual page all read these tables. Decides nothing.
 */

/** `2024` and `head` are the two generations of the reference; `ours` it does not have. */
export type Generation = "both" | "2024" | "head" | "ours"

export interface Flag {
  readonly name: string
  readonly short: string | null
  /** The placeholder of its value; `null` for a switch. */
  readonly value: string | null
  readonly generation: Generation
  readonly fallback: string | null
  readonly env: string | null
  readonly meaning: string
  readonly category: string
}

const flag = <const Name extends string>(
  category: string,
  generation: Generation,
  spelling: readonly [short: string | null, name: Name, value: string | null],
  meaning: string,
  more: { readonly fallback?: string; readonly env?: string } = {}
) => ({
  category,
  generation,
  short: spelling[0],
  name: spelling[1],
  value: spelling[2],
  meaning,
  fallback: more.fallback ?? null,
  env: more.env ?? null
})

const spec = "Where the spec comes from (one of -s, -S, -c, -p)"
const postgres = "Postgres"
const storage = "Where the data lives"
const api = "HTTP API"
const extensions = "Extensions"
const machine = "The machine around Postgres"
const log = "Log"
/** No run takes these. */
export const commandFlags = "For other commands"
const other = "Other"

export const defaults = {
  externalHttpPort: 3080,
  internalHttpPort: 3081,
  privilegedRole: "neon_superuser",
  cgroup: "neon-postgres",
  filecacheConnstr:
    "host=localhost port=5432 dbname=postgres user=cloud_admin sslmode=disable application_name=vm-monitor",
  vmMonitorAddress: "0.0.0.0:10301",
  installedExtensionsIntervalSeconds: 3600,
  stopBudgetSeconds: 8,
  replicaMaxLagSeconds: 60
} as const

export const flags = [
  flag(spec, "2024", ["s", "spec", "JSON"], "the spec itself; /configure is refused then"),
  flag(spec, "2024", ["S", "spec-path", "FILE"], "a file with the spec"),
  flag(spec, "head", ["c", "config", "FILE"], "a file with the spec and the keys of the API"),
  flag(spec, "both", ["p", "control-plane-uri", "URI"], "ask this control plane; needs -i"),
  flag(spec, "both", ["i", "compute-id", "ID"], "who we are, to the control plane and in tokens"),
  flag(
    spec,
    "ours",
    [null, "allow-last-good-spec", null],
    "with -p: keep the last spec that worked beside PGDATA, and start with it when the control plane is down"
  ),

  flag(
    postgres,
    "both",
    ["D", "pgdata", "DIR"],
    "data directory, rebuilt on every start unless it is the storage; optional with local storage"
  ),
  flag(
    postgres,
    "both",
    ["C", "connstr", "URL"],
    "superuser URL of our Postgres, as in postgresql://cloud_admin@localhost/postgres; optional with local and volume"
  ),
  flag(postgres, "both", ["b", "pgbin", "PATH"], "the postgres program", {
    fallback: "postgres",
    env: "POSTGRES_PATH"
  }),
  flag(postgres, "head", [null, "privileged-role-name", "NAME"], "the almost-superuser given to users", {
    fallback: defaults.privilegedRole
  }),
  flag(postgres, "ours", [null, "run-as", "USER"], "the user that Postgres runs as when we are root"),
  flag(
    postgres,
    "ours",
    [null, "generate-password", "ROLE"],
    "stock Postgres: give this role of the spec a password, made once and kept in pgpass in the folder of local storage"
  ),

  flag(
    storage,
    "ours",
    [null, "storage", "KIND"],
    "neon; local or local:DIR, which copies the data; volume, where -D lies on a volume and the data stays in it",
    { fallback: "neon" }
  ),
  flag(storage, "ours", [null, "durability", "LEVEL"], "with local storage: commits survive a crash of os or process", {
    fallback: "os"
  }),
  flag(storage, "ours", [null, "stop-budget", "SECS"], "local storage: a stop that took so long makes no new base", {
    fallback: String(defaults.stopBudgetSeconds)
  }),
  flag(
    storage,
    "ours",
    [null, "require-existing", null],
    "with local or volume: fail when the timeline is not there, instead of beginning a new one"
  ),
  flag(
    storage,
    "ours",
    [null, "allow-unfenced", null],
    "start where no lock can keep a second compute out of storage and PGDATA; two at once lose committed data"
  ),

  flag(api, "both", [null, "http-port", "PORT"], "the one port of the older API; with newer flags it has no effect", {
    fallback: String(defaults.externalHttpPort)
  }),
  flag(api, "head", [null, "external-http-port", "PORT"], "port of the API that checks tokens", {
    fallback: String(defaults.externalHttpPort)
  }),
  flag(api, "head", [null, "internal-http-port", "PORT"], "port of the API for our own Postgres", {
    fallback: String(defaults.internalHttpPort)
  }),
  flag(api, "ours", [null, "http-host", "ADDR"], "address to listen on", {
    fallback: "::, with local or volume localhost: every loopback address"
  }),
  flag(
    api,
    "ours",
    [null, "http-allowed-host", "NAMES"],
    "names, with commas between them, by which a port without tokens may be asked beside addresses and localhost"
  ),
  flag(
    api,
    "ours",
    [null, "http-tls-cert", "FILE"],
    "serve the external port with TLS and this certificate; read again on change"
  ),
  flag(api, "ours", [null, "http-tls-key", "FILE"], "the key of that certificate"),
  flag(api, "ours", [null, "api-dialect", "NAME"], "2024 or head", {
    fallback: "2024 with -s, -S or a lone --http-port, else head"
  }),

  flag(extensions, "head", ["r", "remote-ext-base-url", "URL"], "where extensions are fetched from"),
  flag(
    extensions,
    "2024",
    ["r", "remote-ext-config", "URL"],
    "the same in older words; not a URL means http://pg-ext-s3-gateway"
  ),
  flag(extensions, "head", [null, "installed-extensions-collection-interval", "SECS"], "how often to count them", {
    fallback: String(defaults.installedExtensionsIntervalSeconds)
  }),

  flag(
    machine,
    "ours",
    [null, "exit-when-idle", null],
    "end in order, with code 0, after the spec's suspend_timeout_seconds without use (300 when it says none)"
  ),
  flag(
    machine,
    "ours",
    [null, "replica-max-lag", "SECS"],
    "a replica that is so far behind, or has heard nothing from its primary for so long, is not ready; 0: it always is",
    { fallback: String(defaults.replicaMaxLagSeconds) }
  ),
  flag(machine, "both", [null, "cgroup", "NAME"], "for the vm-monitor", { fallback: defaults.cgroup }),
  flag(machine, "ours", [null, "cgroup-policy", "POLICY"], "no such cgroup: refuse, deny-downscales or run-without", {
    fallback: "refuse"
  }),
  flag(machine, "both", [null, "filecache-connstr", "CONNINFO"], "for the vm-monitor", {
    fallback: "postgres on localhost as cloud_admin"
  }),
  flag(machine, "both", [null, "vm-monitor-addr", "ADDR"], "for the vm-monitor", {
    fallback: defaults.vmMonitorAddress
  }),
  flag(machine, "both", [null, "resize-swap-on-bind", null], "let the spec resize swap"),
  flag(machine, "both", [null, "set-disk-quota-for-fs", "MOUNT"], "let the spec set this file system's disk quota"),

  flag(log, "ours", [null, "log-format", "FORMAT"], "text or json", { fallback: "text" }),
  flag(
    log,
    "ours",
    [null, "log-level", "LEVEL"],
    "trace, debug, info, warn or error; also by module, as in info,monitor=debug",
    { fallback: "info", env: "RUST_LOG" }
  ),
  flag(log, "ours", [null, "no-banner", null], "do not say how to connect once Postgres runs"),
  flag(log, "ours", ["v", "verbose", null], "on a terminal: the whole log, instead of one line per step"),

  flag(
    commandFlags,
    "ours",
    [null, "wait", "STATE"],
    "for health: wait until the compute is ready or running; without it, ask once whether it is ready"
  ),
  flag(commandFlags, "ours", [null, "timeout", "TIME"], "for health --wait: 30s, 500ms, 2m", { fallback: "30s" }),
  flag(commandFlags, "ours", [null, "at", "LSN"], "for branch: with what ended at or before this LSN, and no more"),
  flag(commandFlags, "ours", [null, "json", null], "for plan, apply and timelines: print it as JSON"),
  flag(commandFlags, "ours", [null, "script", "FILE"], "for fake: what it does, as JSON"),
  flag(commandFlags, "ours", [null, "host", "ADDR"], "for fake: address to listen on", { fallback: "127.0.0.1" }),
  flag(commandFlags, "ours", [null, "port", "PORT"], "for fake: port to listen on", { fallback: "a free one" }),
  flag(commandFlags, "ours", [null, "until-stdin-closes", null], "for fake: end when standard input closes, too"),
  flag(commandFlags, "ours", [null, "schema", null], "for fake: print the JSON Schema of its scripts"),
  flag(commandFlags, "ours", [null, "detailed", null], "for plan: first say what differs, attribute by attribute"),

  flag(other, "head", [null, "dev", null], "leave pgbouncer and local_proxy alone at the end"),
  flag(other, "head", [null, "pg-init-timeout", "SECS"], "how long Postgres may take to start, its recovery included", {
    fallback: "as long as its recovery gets on"
  }),
  flag(other, "head", [null, "lakebase-mode", "BOOL"], "accepted for compatibility; only its meaning of --http-port", {
    fallback: "false"
  }),
  flag(other, "both", ["h", "help", null], "print this and exit"),
  flag(other, "2024", ["V", "version", null], "print the version and exit")
] as const

export type FlagName = (typeof flags)[number]["name"]

export interface CommandRow {
  readonly name: string
  readonly usage: string
  readonly meaning: string
  readonly flags: ReadonlyArray<FlagName>
  /** Besides its own it takes the flags of a run: it is about the compute that these would start, or have started. */
  readonly asRun?: true
  /** Words that are no flags; none by default. */
  readonly words?: "one" | "many"
}

export const shells = ["bash", "zsh", "fish"] as const

export const commands = [
  { name: "run", usage: "[FLAGS]", meaning: "start the compute and stay with it", flags: [], asRun: true },
  {
    name: "validate",
    usage: "SPEC… [--storage KIND]",
    meaning: "say what is wrong with specs; - reads stdin",
    flags: ["storage"],
    words: "many"
  },
  {
    name: "plan",
    usage: "-C URL (-S FILE | -s JSON) [--detailed] [--json]",
    meaning: "print what an apply would do; exit 2 when something",
    flags: ["connstr", "spec", "spec-path", "config", "storage", "privileged-role-name", "detailed", "json"]
  },
  {
    name: "apply",
    usage: "-C URL (-S FILE | -s JSON) [--json]",
    meaning: "make a running Postgres's roles, databases and extensions agree with a spec; exit 0 when they do",
    flags: ["connstr", "spec", "spec-path", "config", "storage", "privileged-role-name", "json"]
  },
  {
    name: "doctor",
    usage: "[FLAGS]",
    meaning: "look at what a run with these flags needs of this machine, and say what is missing; exit 0 when nothing",
    flags: [],
    asRun: true
  },
  {
    name: "health",
    usage: "[--wait STATE] [FLAGS]",
    meaning: "ask a running compute whether it accepts connections; exit 0 when it does",
    flags: ["wait", "timeout"],
    asRun: true
  },
  {
    name: "status",
    usage: "[FLAGS]",
    meaning: "print what a running compute is at: status, conditions, start, activity, last apply, log",
    flags: [],
    asRun: true
  },
  { name: "top", usage: "[FLAGS]", meaning: "the same on a terminal, again every two seconds", flags: [], asRun: true },
  {
    name: "check",
    usage: "--storage (local:DIR | volume -D DIR)",
    meaning: "verify a storage of this machine while nothing runs on it; exit 0 when it is whole",
    flags: ["storage", "pgdata"]
  },
  {
    name: "branch",
    usage: "FROM TO [--at LSN] --storage local:DIR",
    meaning: "make the timeline TO, which begins with what FROM holds and shares its files; FROM may run meanwhile",
    flags: ["storage", "at"],
    words: "many"
  },
  {
    name: "timelines",
    usage: "[rm TIMELINE] [--json] --storage local:DIR",
    meaning: "print the timelines of local storage as a tree of branches; rm removes one that nobody uses",
    flags: ["storage", "json"],
    words: "many"
  },
  {
    name: "routes",
    usage: "",
    meaning: "print the HTTP routes, where they listen and who may ask",
    flags: ["api-dialect"]
  },
  {
    name: "fake",
    usage: "compute|control-plane|pageserver|safekeeper --script FILE",
    meaning: "for tests: be one of these as a script says, print its URLs as JSON, and stay until TERM",
    flags: ["script", "host", "port", "until-stdin-closes", "schema"],
    words: "one"
  },
  { name: "schema", usage: "", meaning: "print the JSON Schema of the spec", flags: [] },
  {
    name: "explain",
    usage: "[CODE]",
    meaning: "print what an error means, what it comes from and what to do; without a code, every error",
    flags: [],
    words: "one"
  },
  {
    name: "completions",
    usage: shells.join("|"),
    meaning: "print a script that completes commands and flags in this shell",
    flags: [],
    words: "one"
  },
  { name: "man", usage: "", meaning: "print the manual page, for man -l -", flags: [] },
  { name: "help", usage: "[COMMAND]", meaning: "print the flags of one command, or this", flags: [], words: "one" }
] as const satisfies ReadonlyArray<CommandRow>

export type CommandName = (typeof commands)[number]["name"]

/** The flags that a command takes, `--help` aside. */
export const flagsOf = ({ asRun, flags: own, name }: CommandRow): ReadonlyArray<Flag & { readonly name: FlagName }> =>
  flags.filter(
    (flag) =>
      own.includes(flag.name) ||
      (asRun === true && flag.category !== commandFlags && (name === "run" || flag.name !== "version"))
  )

/** What the environment says, beside the variables that flags have. */
export const environment: ReadonlyArray<{ readonly names: ReadonlyArray<string>; readonly meaning: string }> = [
  { names: ["NEON_CONTROL_PLANE_TOKEN"], meaning: "bearer token for -p" },
  { names: ["AUTOSCALING"], meaning: "any value: we run in a virtual machine, and the vm-monitor answers" },
  { names: ["PGBOUNCER_PASSWORD"], meaning: "password of pgbouncer's administrator, for its reload" },
  {
    names: ["AUDIT_LOGGING_ENDPOINT", "AUDIT_LOGGING_TLS_ENDPOINT"],
    meaning: "host:port that audit records are sent to"
  },
  {
    names: ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"],
    meaning: "where traces are sent; without one they are not"
  },
  {
    names: ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"],
    meaning: "http/protobuf or http/json"
  },
  {
    names: ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"],
    meaning: "headers of each of these requests, such as a token"
  },
  {
    names: ["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"],
    meaning: "milliseconds for each of them"
  },
  { names: ["OTEL_SERVICE_NAME"], meaning: "the name in traces; compute_ctl by default" },
  { names: ["OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"], meaning: "true, or none: no traces" },
  { names: ["TRACEPARENT", "TRACESTATE"], meaning: "the caller's span, to which the start belongs" },
  {
    names: ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"],
    meaning: "where a running compute says on which ports it listens"
  },
  { names: ["COMPUTE_CTL_TOKEN"], meaning: "bearer token of the API, for status and top" },
  {
    names: ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"],
    meaning: "set by systemd: it is told how the compute is (Type=notify), and that it lives"
  },
  { names: ["JOURNAL_STREAM"], meaning: "set by systemd: log lines for its journal have a priority and no time" },
  { names: ["XDG_STATE_HOME", "HOME"], meaning: "where local storage lives when nobody says" },
  { names: ["NO_COLOR"], meaning: "any value: no colours on a terminal" },
  { names: ["PATH"], meaning: "where Postgres and helper programs are looked for" },
  { names: ["XDG_CACHE_HOME", "NODE_COMPILE_CACHE"], meaning: "where compiled code is kept, for a faster start" },
  {
    names: ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"],
    meaning: "glibc's; where none is set, the launcher sets the first two, for compute_ctl alone, to save memory"
  },
  { names: ["NODE_OPTIONS"], meaning: "Node's own options; with any of them a start takes longer" }
]
