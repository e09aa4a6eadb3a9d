/**
 * From settings (arguments and environment, parsed) to what the program needs: reads the spec from where it is, and
 * fills in what local storage lets a person leave out. Starts nothing.
 */
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as FS from "node:fs/promises"
import * as Net from "node:net"
import * as OS from "node:os"
import * as Path from "node:path"
import { pullDefaults, pullSpec } from "../controlplane/ControlPlane.ts"
import { isDown, lastGoodSpec, type LastGoodSpec, standIn } from "../controlplane/LastGoodSpec.ts"
import { type Failure, SpecInvalid, SpecUnreadable } from "../errors/Failure.ts"
import { keyWatcher, type Verifier, verifierOf } from "../http/Verifier.ts"
import type { HookOptions } from "../lifecycle/hooks.ts"
import type { ProgramOptions } from "../lifecycle/Program.ts"
import { defaultSuperuser } from "../pgwire/Admin.ts"
import { type ConnString, parseConnString, printPeer } from "../pgwire/ConnString.ts"
import { parseComputeConfig, parseControlPlaneResponse, type Tls } from "../spec/ComputeConfig.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { parseJsonText, parseSpec } from "../spec/parseSpec.ts"
import { buildTag, version } from "../version.ts"
import { defaults } from "./flags.ts"
import type { RunSettings } from "./RunSettings.ts"

// ---------------------------------------------------------------------------------------------------------------------
// What a person at a terminal is told once the compute runs: where Postgres and `/status` are, and how to stop.
// ---------------------------------------------------------------------------------------------------------------------

export interface BannerFacts {
  readonly at: ConnString
  readonly httpHost: string
  readonly httpPort: number
}

/** A listener on all addresses is reached on this one. */
const reachable = (host: string): string => (host === "::" || host === "0.0.0.0" ? "127.0.0.1" : host)

export const banner = ({ at, httpHost, httpPort }: BannerFacts): string => {
  const user = at.user === null ? "" : `${encodeURIComponent(at.user)}@`
  const database = encodeURIComponent(at.database ?? "postgres")
  return [
    "",
    "  Postgres   " +
      `psql 'postgresql://${user}${printPeer({ host: reachable(at.host), port: at.port })}/${database}'`,
    "  Status     " + `curl http://${printPeer({ host: reachable(httpHost), port: httpPort })}/status`,
    "  Stop       Ctrl-C",
    "",
    ""
  ].join("\n")
}

// ---------------------------------------------------------------------------------------------------------------------

/** What main knows of the process and hands on as values. */
export interface Surroundings {
  readonly path: string | undefined
  readonly home: string | undefined
  /** `XDG_STATE_HOME`. */
  readonly stateHome: string | undefined
  readonly isRoot: boolean
  /** `PGBOUNCER_PASSWORD`. */
  readonly pgbouncerPassword: Redacted.Redacted<string> | null
  /** `AUDIT_LOGGING_ENDPOINT`, `AUDIT_LOGGING_TLS_ENDPOINT`. */
  readonly auditEndpoints: HookOptions["auditEndpoints"]
  /** The folder of the running program. */
  readonly programFolder: string
}

interface Found {
  readonly spec: ParsedSpec | null
  readonly jwks: ReadonlyArray<unknown> | null
  /** The control plane's answer that they are from; `null`: they are from elsewhere. */
  readonly answer: unknown | null
  /** Where the compute's own certificate is kept. */
  readonly tls: Tls | null
}

/** With local storage, where Postgres listens when nobody says. Apart from 5432, which others like. */
const localPort = 55432

const readText = (path: string) =>
  Effect.tryPromise({
    try: () => FS.readFile(path === "-" ? "/dev/stdin" : path, "utf8"),
    catch: (cause) => new SpecUnreadable({ source: path, cause })
  })

/** What finding a spec needs of the settings; commands that only look at one have no more. */
export type SpecSettings = Pick<RunSettings, "spec" | "storage" | "computeId" | "controlPlaneToken" | "apiVersion">

/** Reads and parses the spec from wherever it is. */
export const findSpec = Effect.fnUntraced(function* (settings: SpecSettings): Effect.fn.Return<Found, Failure> {
  const storage = settings.storage._tag === "Neon" ? ("neon" as const) : ("local" as const)
  const from = settings.spec
  const read = (input: unknown, source: string, under: ReadonlyArray<string> = []) =>
    Effect.fromResult(parseSpec(input, { source, storage, under }))
  switch (from._tag) {
    case "Inline":
      return {
        spec: yield* read(yield* Effect.fromResult(parseJsonText(from.text, "-s")), "-s"),
        jwks: null,
        answer: null,
        tls: null
      }
    case "File": {
      const json = yield* Effect.fromResult(parseJsonText(yield* readText(from.path), from.path))
      return { spec: yield* read(json, from.path), jwks: null, answer: null, tls: null }
    }
    case "ConfigFile": {
      const json = yield* Effect.fromResult(parseJsonText(yield* readText(from.path), from.path))
      const config = yield* Effect.fromResult(parseComputeConfig(json, from.path))
      const { jwks, spec, tls } = config
      return { spec: spec === null ? null : yield* read(spec, from.path, ["spec"]), jwks, answer: null, tls }
    }
    case "ControlPlane": {
      const json = yield* pullSpec({
        base: from.uri,
        computeId: settings.computeId ?? "",
        token: settings.controlPlaneToken,
        ...pullDefaults
      })
      return yield* readAnswer(settings, json, from.uri)
    }
  }
})

/** What a control plane answered, or once answered. */
const readAnswer = Effect.fnUntraced(function* (
  settings: SpecSettings,
  json: unknown,
  source: string
): Effect.fn.Return<Found, Failure> {
  const storage = settings.storage._tag === "Neon" ? ("neon" as const) : ("local" as const)
  const answer = yield* Effect.fromResult(parseControlPlaneResponse(json, source))
  const spec =
    answer.spec === null ? null : yield* Effect.fromResult(parseSpec(answer.spec, { source, storage, under: ["spec"] }))
  return { spec, jwks: settings.apiVersion === "2024" ? null : answer.jwks, answer: json, tls: answer.tls }
})

/** From where it is; from what was kept when the control plane is down and `kept` is given. */
const findOrRecall = Effect.fnUntraced(function* (settings: RunSettings, kept: LastGoodSpec | null, path: string) {
  const found = yield* Effect.result(findSpec(settings))
  if (Result.isSuccess(found)) return { ...found.success, degraded: [] }
  const answer = kept !== null && isDown(found.failure) ? yield* kept.read : null
  if (answer === null) return yield* Effect.fail(found.failure)
  const condition = standIn(found.failure, path)
  yield* Effect.logWarning(condition.message)
  return { ...(yield* readAnswer(settings, answer, path)), degraded: [condition] }
})

/** Standard input can be read once, and a spec on the command line stays what it is. */
const refetchOf = (
  settings: RunSettings,
  verifier: Verifier | null,
  kept: LastGoodSpec | null
): Effect.Effect<ParsedSpec | null, Failure> | null =>
  settings.spec._tag === "Inline" || ("path" in settings.spec && settings.spec.path === "-")
    ? null
    : Effect.gen(function* () {
        const { answer, jwks, spec } = yield* findSpec(settings)
        if (spec !== null) kept?.remember(spec, answer)
        if (verifier !== null && jwks !== null) yield* verifier.rotate(jwks)
        return spec
      })

const watchersOf = (
  { spec }: RunSettings,
  given: ReadonlyArray<unknown> | null,
  verifier: Verifier | null
): ProgramOptions["watchers"] => {
  if (given === null || verifier === null || spec._tag !== "ConfigFile" || spec.path === "-") return []
  const read = readText(spec.path).pipe(
    Effect.flatMap((text) => Effect.fromResult(parseJsonText(text, spec.path))),
    Effect.flatMap((json) => Effect.fromResult(parseComputeConfig(json, spec.path))),
    Effect.map(({ jwks }) => jwks)
  )
  return [keyWatcher({ path: spec.path, given, read }, verifier)]
}

/** Where local storage lives when nobody says: the machine's place for state when we are root, the user's otherwise. */
const localDirectory = ({ home, isRoot, stateHome }: Surroundings): string =>
  isRoot
    ? "/var/lib/compute-ctl"
    : Path.join(stateHome ?? Path.join(home ?? OS.homedir(), ".local", "state"), "compute-ctl")

/** Beside PGDATA, which is wiped; `null`: nothing is to be kept. */
const lastGoodPath = (settings: RunSettings, around: Surroundings): string | null => {
  if (!settings.allowLastGoodSpec || settings.spec._tag !== "ControlPlane") return null
  if (settings.pgdata !== null) return `${Path.resolve(settings.pgdata)}.last-good-spec.json`
  const local = settings.storage._tag === "Local" ? settings.storage.directory : null
  return Path.join(Path.resolve(local ?? localDirectory(around)), "last-good-spec.json")
}

/** On every address at once: naming one would cost ten milliseconds for a look-up of it, before HTTP is up. */
const isFree = (port: number) =>
  Effect.callback<boolean>((resume) => {
    const server = Net.createServer()
    server.once("error", () => resume(Effect.succeed(false)))
    server.listen(port, () => server.close(() => resume(Effect.succeed(true))))
  })

/** Only for a port that nobody asked for: the next free one, and a word about it. */
const chooseLocalPort = Effect.fnUntraced(function* () {
  for (let port = localPort; port < localPort + 100; port++) {
    if (!(yield* isFree(port))) continue
    if (port !== localPort) yield* Effect.logWarning(`port ${localPort} is taken, so Postgres will listen on ${port}`)
    return port
  }
  return localPort
})

const chooseConnString = Effect.fnUntraced(function* (settings: RunSettings): Effect.fn.Return<ConnString> {
  return (
    settings.connstr ?? {
      host: "127.0.0.1",
      port: yield* chooseLocalPort(),
      user: defaultSuperuser,
      password: null,
      database: "postgres",
      options: null,
      applicationName: null
    }
  )
})

const overcommit = Effect.orElseSucceed(
  Effect.tryPromise(() => FS.readFile("/proc/sys/vm/overcommit_memory", "utf8")),
  () => null
)

/** Nobody said where the file cache is asked about: at our own Postgres, which need not be on the default's port. */
const vmOptions = Effect.fnUntraced(function* ({ vmMonitor }: RunSettings, { path }: Surroundings, ours: ConnString) {
  const said = vmMonitor.filecacheConnstr
  const fileCacheConnstr =
    said === defaults.filecacheConnstr
      ? ours
      : yield* Effect.fromResult(parseConnString(said)).pipe(
          Effect.mapError(
            (message) =>
              new SpecInvalid({
                source: "--filecache-connstr",
                problems: [{ path: "", message: `it is no connection string: ${message}` }]
              })
          )
        )
  return {
    address: vmMonitor.address,
    cgroup: vmMonitor.cgroup,
    policy: vmMonitor.cgroupPolicy,
    fileCacheConnstr,
    path
  }
})

export const prepare = Effect.fn("Run.prepare")(function* (
  settings: RunSettings,
  around: Surroundings
): Effect.fn.Return<ProgramOptions, Failure> {
  const keptAt = lastGoodPath(settings, around)
  const kept = keptAt === null ? null : lastGoodSpec(keptAt, settings.computeId ?? "")
  const { answer, degraded, jwks, spec, tls } = yield* findOrRecall(settings, kept, keptAt ?? "")
  if (spec !== null) kept?.remember(spec, answer)
  const verifier = jwks === null ? null : verifierOf(jwks)
  const storageKind = settings.storage._tag === "Neon" ? ("neon" as const) : ("local" as const)
  const state = localDirectory(around)
  const storage: ProgramOptions["storage"] =
    settings.storage._tag === "Neon"
      ? { _tag: "Neon" }
      : {
          _tag: "Local",
          directory: Path.resolve(settings.storage.directory ?? state),
          durability: settings.storage.durability
        }
  const home = storage._tag === "Local" ? storage.directory : state
  const ids = spec === null ? [] : [spec.tenant, spec.timeline]
  const at = yield* chooseConnString(settings)
  const pgdata = Path.resolve(settings.pgdata ?? Path.join(home, ...ids, "pgdata"))
  return {
    apiVersion: settings.apiVersion,
    spec,
    storage,
    pgdata,
    at,
    postgres: settings.postgres,
    runAs: settings.runAs,
    privilegedRole: settings.privilegedRole,
    exitDelay: true,
    computeId: settings.computeId,
    buildTag,
    hooks: {
      apiVersion: settings.apiVersion,
      buildTag,
      extensionsBase: settings.remoteExtBaseUrl,
      arch: OS.arch(),
      resizeSwap: settings.resizeSwapOnBind,
      diskQuotaMount: settings.diskQuotaMount,
      inventorySeconds: settings.installedExtensionsIntervalSeconds,
      pgdata,
      tls,
      dev: settings.dev,
      autoscaling: settings.autoscaling,
      pgbouncerPassword: around.pgbouncerPassword,
      auditEndpoints: around.auditEndpoints
    },
    vm: settings.autoscaling ? yield* vmOptions(settings, around, at) : null,
    http: {
      host: settings.httpHost,
      externalPort: settings.externalHttpPort,
      internalPort: settings.internalHttpPort,
      liveConfigAllowed: settings.liveConfigAllowed,
      verifier,
      tls: settings.httpTls,
      refetch: refetchOf(settings, verifier, kept)
    },
    watchers: [...watchersOf(settings, jwks, verifier), ...(kept === null ? [] : [kept.keeper])],
    degraded,
    version,
    parseSpec: (input) =>
      Result.map(parseSpec(input, { source: "the request", storage: storageKind, under: ["spec"] }), (parsed) => {
        kept?.rememberSpec(parsed, input)
        return parsed
      }),
    host: {
      path: around.path,
      platform: OS.platform(),
      overcommitMemory: yield* overcommit,
      embeddedRoot: around.programFolder,
      cacheDirectory: around.isRoot ? "/var/cache/compute-ctl" : Path.join(state, "cache")
    }
  }
})
