/**
 * Settings of a run, and the rules that lead to them from the flags given (docs/reference/compute_ctl.md#command-line).
 * Nothing is left open.
 *
 * Both generations' flags are understood, also mixed; where they mean different things, the source of the spec says
 * which generation is speaking. Messages name flags and never repeat values.
 */
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { type LogFilter, parseLogFilter } from "../logging/filter.ts"
import { type ConnString, isConnUrl, parseConnString } from "../pgwire/ConnString.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"
import { defaults, flags } from "./flags.ts"
import {
  type Environment,
  type Given,
  type Read,
  readChoice,
  readCount,
  readPort,
  readText,
  usageError
} from "./given.ts"

export type SpecSource =
  | { readonly _tag: "Inline"; readonly text: string }
  | { readonly _tag: "File"; readonly path: string }
  | { readonly _tag: "ConfigFile"; readonly path: string }
  | { readonly _tag: "ControlPlane"; readonly uri: string }

export type StorageChoice =
  | { readonly _tag: "Neon" }
  /** `directory` `null`: the caller decides. `process`: commits survive our end, but not the machine's. */
  | { readonly _tag: "Local"; readonly directory: string | null; readonly durability: "os" | "process" }
  /** The data stays in PGDATA. */
  | { readonly _tag: "Volume" }

export interface RunSettings {
  /** Which generation's HTTP API is served. */
  readonly apiVersion: ApiVersion
  /** `null` only with local storage, and `connstr` not with Neon's: the caller decides. */
  readonly pgdata: string | null
  readonly connstr: ConnString | null
  /** `null`: neither `-b` nor `POSTGRES_PATH` was given. */
  readonly postgres: string | null
  readonly spec: SpecSource
  readonly computeId: string | null
  /** Keep the last spec that worked, and start with it when the control plane is down. */
  readonly allowLastGoodSpec: boolean
  readonly externalHttpPort: number
  /** `null` in the 2024 apiVersion, which has one port for all. */
  readonly internalHttpPort: number | null
  /** Somebody chose the ports; otherwise the next that are free will do, with storage of this machine. */
  readonly httpPortsGiven: boolean
  readonly httpHost: string
  /** Names, beside addresses and localhost, by which a port without tokens may be asked; in lower case. */
  readonly httpAllowedHosts: ReadonlySet<string>
  /** Certificate of the external port; `null`: plain HTTP. */
  readonly httpTls: { readonly certPath: string; readonly keyPath: string } | null
  readonly storage: StorageChoice
  /** Fail when a storage of this machine has no such timeline yet. */
  readonly requireExisting: boolean
  /** Go on where no lock keeps a second compute out. */
  readonly allowUnfenced: boolean
  /** The role of the spec that gets a password of our making, unless the spec has one. */
  readonly generatePassword: string | null
  /** `null`: not found. */
  readonly runAs: string | null
  readonly privilegedRole: string
  readonly logFormat: "text" | "json"
  readonly logFilter: LogFilter
  readonly banner: boolean
  /** On a terminal the whole log, too. */
  readonly verbose: boolean
  /** False when the spec is on the command line (`-s`). */
  readonly liveConfigAllowed: boolean
  readonly dev: boolean
  /** Ends in exactly one `/`. */
  readonly remoteExtBaseUrl: string | null
  readonly vmMonitor: {
    readonly cgroup: string
    readonly filecacheConnstr: string
    readonly address: string
    /** What to do when Postgres can not run in its cgroup. */
    readonly cgroupPolicy: "refuse" | "deny-downscales" | "run-without"
  }
  readonly resizeSwapOnBind: boolean
  readonly diskQuotaMount: string | null
  readonly installedExtensionsIntervalSeconds: number
  readonly controlPlaneToken: Redacted.Redacted<string> | null
  /** For the whole start of Postgres; `null`: as long as its recovery gets on. */
  readonly pgInitTimeoutSeconds: number | null
  /** How long a stop may take in all before local storage gives up what only makes the next start faster. */
  readonly stopBudgetSeconds: number
  /** End when nobody has used Postgres for as long as the spec allows. */
  readonly exitWhenIdle: boolean
  /** Lag or silence after which a replica is not ready; 0: it always is. */
  readonly replicaMaxLagSeconds: number
  readonly autoscaling: boolean
  /** For the log: what was given and will have no effect. */
  readonly warnings: ReadonlyArray<string>
}

export const readRun = (given: Given, env: Environment): Read<RunSettings> =>
  Result.gen(function* () {
    const warnings: Array<string> = []
    const spec = yield* readSpecSource(given, warnings)
    const storage = yield* readStorage(given)
    if (storage._tag !== "Local" && !given.has("pgdata")) return yield* usageError("--pgdata", pgdataMissing(storage))
    if (storage._tag === "Neon" && !given.has("connstr")) {
      return yield* usageError("--connstr", "-C (--connstr) is required")
    }
    const apiVersion = yield* readApiVersion(given)
    const ports = yield* readPorts(given, apiVersion, warnings)
    if (given.has("allow-last-good-spec") && spec._tag !== "ControlPlane") {
      warnings.push("--allow-last-good-spec has no effect without -p")
    }
    if (given.has("stop-budget") && storage._tag !== "Local") {
      warnings.push("--stop-budget has no effect without --storage local")
    }
    if (given.has("generate-password") && storage._tag === "Neon") {
      warnings.push("--generate-password has no effect with --storage neon")
    }
    return {
      apiVersion,
      pgdata: yield* readText(given, "pgdata"),
      connstr: yield* readConnstr(given),
      postgres: (yield* readText(given, "pgbin")) ?? (env["POSTGRES_PATH"] || null),
      spec,
      computeId: yield* readText(given, "compute-id"),
      allowLastGoodSpec: given.has("allow-last-good-spec"),
      ...ports,
      httpPortsGiven: (["http-port", "external-http-port", "internal-http-port"] as const).some((name) =>
        given.has(name)
      ),
      httpHost: (yield* readText(given, "http-host")) ?? (storage._tag === "Neon" ? "::" : "localhost"),
      httpAllowedHosts: yield* readAllowedHosts(given),
      httpTls: yield* readTls(given),
      storage,
      requireExisting: yield* readRequireExisting(given, storage),
      allowUnfenced: given.has("allow-unfenced"),
      generatePassword: yield* readText(given, "generate-password"),
      runAs: yield* readText(given, "run-as"),
      privilegedRole: yield* readPrivilegedRole(given),
      logFormat: yield* readChoice(given, "log-format", ["text", "json"], "text"),
      logFilter: yield* readLogFilter(given, env, warnings),
      banner: !given.has("no-banner"),
      verbose: given.has("verbose"),
      liveConfigAllowed: spec._tag !== "Inline",
      dev: given.has("dev"),
      remoteExtBaseUrl: yield* readRemoteExtensions(given),
      vmMonitor: yield* readVmMonitor(given),
      resizeSwapOnBind: given.has("resize-swap-on-bind"),
      diskQuotaMount: yield* readText(given, "set-disk-quota-for-fs"),
      installedExtensionsIntervalSeconds: yield* readCount(
        given,
        "installed-extensions-collection-interval",
        defaults.installedExtensionsIntervalSeconds
      ),
      controlPlaneToken: readToken(env),
      pgInitTimeoutSeconds: given.has("pg-init-timeout") ? yield* readCount(given, "pg-init-timeout", 0) : null,
      stopBudgetSeconds: yield* readCount(given, "stop-budget", defaults.stopBudgetSeconds),
      exitWhenIdle: given.has("exit-when-idle"),
      replicaMaxLagSeconds: yield* readCount(given, "replica-max-lag", defaults.replicaMaxLagSeconds),
      autoscaling: env["AUTOSCALING"] !== undefined,
      warnings
    }
  })

const pgdataMissing = ({ _tag }: StorageChoice): string =>
  _tag === "Volume" ? "--storage volume needs -D (--pgdata): the folder on the volume" : "-D (--pgdata) is required"

/** The reference panics when there is no source. Its order of preference is `-s`, `-S`, pull; `-c` excludes others. */
export const readSpecSource = (given: Given, warnings: Array<string>): Read<SpecSource> => {
  const inline = given.get("spec")
  const file = given.get("spec-path")
  const config = given.get("config")
  const uri = given.get("control-plane-uri")
  const first = inline ?? file
  if (config !== undefined) {
    const rival = first ?? uri
    if (rival !== undefined) return usageError(config.as, `${config.as} cannot be used together with ${rival.as}`)
    if (config.value === "") return usageError(config.as, `${config.as} needs the path of a file`)
    return Result.succeed({ _tag: "ConfigFile", path: config.value })
  }
  if (first !== undefined) {
    for (const unused of [inline === undefined ? undefined : file, uri]) {
      if (unused !== undefined) warnings.push(`${unused.as} has no effect, because ${first.as} gives the spec`)
    }
    if (inline !== undefined) return Result.succeed({ _tag: "Inline", text: inline.value })
    if (first.value === "") return usageError(first.as, `${first.as} needs the path of a file`)
    return Result.succeed({ _tag: "File", path: first.value })
  }
  if (uri === undefined) return usageError(null, "no spec: one of -s, -S, -c, or -p with -i is required")
  if (!given.has("compute-id")) return usageError(uri.as, `${uri.as} needs -i (--compute-id)`)
  const wrong = faultOfHttpUrl(uri.value)
  if (wrong !== null) return usageError(uri.as, `${uri.as} ${wrong}; NEON_CONTROL_PLANE_TOKEN has the token`)
  return Result.succeed({ _tag: "ControlPlane", uri: uri.value })
}

export const readStorage = (given: Given): Read<StorageChoice> =>
  Result.gen(function* () {
    const kind = given.get("storage")
    const durability = yield* readChoice(given, "durability", ["os", "process"], "os")
    if (kind?.value === "local") return { _tag: "Local", directory: null, durability }
    const directory = /^local:(.+)$/s.exec(kind?.value ?? "")?.[1]
    if (directory !== undefined) return { _tag: "Local", directory, durability }
    if (kind !== undefined && kind.value !== "neon" && kind.value !== "volume") {
      return yield* usageError(kind.as, `${kind.as} expects neon, local, local:DIR or volume`)
    }
    if (given.has("durability")) {
      return yield* usageError(
        "--durability",
        kind?.value === "volume"
          ? "--durability goes with --storage local only: a volume's data is the only copy, and always flushed"
          : "--durability goes with --storage local only: Neon's safekeepers keep commits otherwise"
      )
    }
    return { _tag: kind?.value === "volume" ? "Volume" : "Neon" }
  })

export const readVmMonitor = (given: Given): Read<RunSettings["vmMonitor"]> =>
  Result.gen(function* () {
    return {
      cgroup: given.get("cgroup")?.value ?? defaults.cgroup,
      cgroupPolicy: yield* readChoice(given, "cgroup-policy", ["refuse", "deny-downscales", "run-without"], "refuse"),
      filecacheConnstr: given.get("filecache-connstr")?.value ?? defaults.filecacheConnstr,
      address: given.get("vm-monitor-addr")?.value ?? defaults.vmMonitorAddress
    }
  })

const readRequireExisting = (given: Given, storage: StorageChoice): Read<boolean> =>
  given.has("require-existing") && storage._tag === "Neon"
    ? usageError("--require-existing", "--require-existing goes with --storage local or volume only")
    : Result.succeed(given.has("require-existing"))

/** `-r` belongs to both generations, so it does not tell which one speaks. */
export const readApiVersion = (given: Given): Read<ApiVersion> => {
  const headFlag = flags.some((flag) => flag.generation === "head" && (given.get(flag.name)?.as ?? "-r") !== "-r")
  const older = given.has("spec") || given.has("spec-path") || (given.has("http-port") && !headFlag)
  return readChoice(given, "api-dialect", ["2024", "head"], older ? "2024" : "head")
}

export const readConnstr = (given: Given): Read<ConnString | null> => {
  const connstr = given.get("connstr")
  if (connstr === undefined) return Result.succeed(null)
  const expected = `${connstr.as} expects a URL such as postgresql://cloud_admin@localhost:5432/postgres`
  if (!isConnUrl(connstr.value)) return usageError(connstr.as, expected)
  return Result.mapError(parseConnString(connstr.value), (why) => ({
    flag: connstr.as,
    message: `${expected}, but ${why}`
  }))
}

/**
 * The two generations disagree about `--http-port`: in the older it is the port; in the newer it is an old alias that
 * has no effect outside one vendor's mode.
 */
interface Ports {
  readonly externalHttpPort: number
  /** `null` in the 2024 apiVersion. */
  readonly internalHttpPort: number | null
}

export const readPorts = (given: Given, apiVersion: ApiVersion, warnings: Array<string>): Read<Ports> =>
  Result.gen(function* () {
    const single = yield* readPort(given, "http-port")
    const external = yield* readPort(given, "external-http-port")
    const internal = yield* readPort(given, "internal-http-port")
    const lakebase = yield* readLakebase(given)
    if (single !== null && (external !== null || internal !== null)) {
      const rival = external === null ? "--internal-http-port" : "--external-http-port"
      return yield* usageError("--http-port", `--http-port cannot be used together with ${rival}`)
    }
    if (lakebase) warnings.push("--lakebase-mode: only its meaning of --http-port is known here")
    if (apiVersion === "2024") {
      if (internal !== null) warnings.push("--internal-http-port has no effect: the 2024 API has one port")
      return { externalHttpPort: single ?? external ?? defaults.externalHttpPort, internalHttpPort: null }
    }
    const olderSpec = given.has("spec") || given.has("spec-path")
    if (single !== null && (lakebase || olderSpec)) {
      if (single === 65535) {
        return yield* usageError("--http-port", "--http-port is too high: the port after it is needed, too")
      }
      return { externalHttpPort: single, internalHttpPort: single === 0 ? 0 : single + 1 }
    }
    if (single !== null) warnings.push("--http-port has no effect; use --external-http-port and --internal-http-port")
    const ports = {
      externalHttpPort: external ?? defaults.externalHttpPort,
      internalHttpPort: internal ?? defaults.internalHttpPort
    }
    if (ports.externalHttpPort === ports.internalHttpPort && ports.externalHttpPort !== 0) {
      return yield* usageError("--internal-http-port", "--external-http-port and --internal-http-port must differ")
    }
    return ports
  })

const readAllowedHosts = (given: Given): Read<ReadonlySet<string>> => {
  const found = given.get("http-allowed-host")
  if (found === undefined) return Result.succeed(new Set())
  const names = found.value.split(",").map((name) => name.trim().toLowerCase())
  return names.every((name) => /^[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?$/.test(name))
    ? Result.succeed(new Set(names))
    : usageError(found.as, `${found.as} expects names of hosts without ports, with commas between them`)
}

const readLakebase = (given: Given): Read<boolean> => {
  const found = given.get("lakebase-mode")
  if (found === undefined || found.value === "false") return Result.succeed(false)
  return found.value === "true" ? Result.succeed(true) : usageError(found.as, `${found.as} expects true or false`)
}

export const readTls = (given: Given): Read<RunSettings["httpTls"]> =>
  Result.gen(function* () {
    const certPath = yield* readText(given, "http-tls-cert")
    const keyPath = yield* readText(given, "http-tls-key")
    if (certPath !== null && keyPath !== null) return { certPath, keyPath }
    return certPath === null && keyPath === null
      ? null
      : yield* usageError("--http-tls-cert", "--http-tls-cert and --http-tls-key go together")
  })

/** The name goes into SQL, so its letters are few. */
export const readPrivilegedRole = (given: Given): Read<string> => {
  const role = given.get("privileged-role-name")
  if (role === undefined) return Result.succeed(defaults.privilegedRole)
  return /^[a-z_]+$/.test(role.value) && role.value.length <= 63
    ? Result.succeed(role.value)
    : usageError(role.as, `${role.as} expects lower-case letters and underscores, at most 63`)
}

/** An older spec source gives `-r` its older meaning: what is not a URL names the gateway. */
const readRemoteExtensions = (given: Given): Read<string | null> => {
  const base = given.get("remote-ext-base-url")
  const config = given.get("remote-ext-config")
  if (base !== undefined && config !== undefined) {
    return usageError(base.as, `${base.as} cannot be used together with ${config.as}`)
  }
  const one = base ?? config
  if (one === undefined) return Result.succeed(null)
  const older = config !== undefined || (one.as === "-r" && (given.has("spec") || given.has("spec-path")))
  if (older && !one.value.startsWith("http")) return Result.succeed("http://pg-ext-s3-gateway/")
  const wrong = faultOfHttpUrl(one.value)
  if (wrong !== null) return usageError(one.as, `${one.as} ${wrong}`)
  if (/[?#]/.test(one.value)) {
    return usageError(one.as, `${one.as}: parameters detected in remote extensions base URL`)
  }
  return Result.succeed(`${one.value.replace(/\/+$/, "")}/`)
}

const levels = ["trace", "debug", "info", "warn", "error"] as const

/** `info,monitor=debug`; the flag wins over `RUST_LOG`, where what is not understood has no effect. */
const readLogFilter = (given: Given, env: Environment, warnings: Array<string>): Read<LogFilter> => {
  const ambient = parseLogFilter(env["RUST_LOG"] ?? "", "info")
  if (ambient.unread > 0) {
    warnings.push(
      ambient.understood
        ? "a part of RUST_LOG is not understood; it has no effect"
        : "RUST_LOG has no level that we know; it has no effect"
    )
  }
  const found = given.get("log-level")
  if (found === undefined) return Result.succeed(ambient.filter)
  const asked = parseLogFilter(found.value, ambient.filter.level)
  return asked.understood && asked.unread === 0
    ? Result.succeed(asked.filter)
    : usageError(found.as, `${found.as} expects ${levels.join(" or ")}`)
}

const readToken = (env: Environment): Redacted.Redacted<string> | null => {
  const token = env["NEON_CONTROL_PLANE_TOKEN"] ?? ""
  return token === "" ? null : Redacted.make(token, { label: "NEON_CONTROL_PLANE_TOKEN" })
}

/** With a user or a password in it, it would be shown wherever the URL is, and be sent nowhere. */
const faultOfHttpUrl = (text: string): string | null => {
  const url = URL.parse(text)
  if (url === null || !/^https?:$/.test(url.protocol)) return "expects an http or https URL"
  return url.username === "" && url.password === "" ? null : "expects a URL without a user and a password in it"
}
