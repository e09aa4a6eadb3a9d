/**
 * From settings (arguments and environment, parsed) to the options of the program. Fills in what local storage lets a
 * person leave out. Starts nothing.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { existsSync } from "node:fs"
import * as FS from "node:fs/promises"
import * as Net from "node:net"
import * as OS from "node:os"
import * as Path from "node:path"
import type { Waiting } from "../controlplane/ControlPlane.ts"
import { lastGoodSpec, type LastGoodSpec } from "../controlplane/LastGoodSpec.ts"
import { type Failure, SpecInvalid } from "../errors/Failure.ts"
import { verifierOf } from "../http/Verifier.ts"
import type { HookOptions } from "../lifecycle/hooks.ts"
import type { ListenOptions, ProgramOptions } from "../lifecycle/options.ts"
import { sessionAddress } from "../lifecycle/sessionAddress.ts"
import { defaultSuperuser } from "../pgwire/Admin.ts"
import { type ConnString, parseConnString } from "../pgwire/ConnString.ts"
import { resolveRunAs } from "../platform/users.ts"
import { livesOnPort } from "../postgres/leftovers.ts"
import type { Tls } from "../spec/ComputeConfig.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import { parseSpec } from "../spec/parseSpec.ts"
import { buildTag, version } from "../version.ts"
import { findOrRecall, parseOptionsOf, refetchOf, watchersOf } from "./findSpec.ts"
import { defaults } from "./flags.ts"
import { generatedLogin, type Login, withLogin } from "./generatedPassword.ts"
import type { RunSettings } from "./RunSettings.ts"

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

/** With local storage, where Postgres listens when nobody says. Apart from 5432, which others like. */
export const localPort = 55432

/** Where local storage lives when nobody says: the machine's place for state when we are root, the user's otherwise. */
export const localDirectory = ({ home, isRoot, stateHome }: Surroundings): string =>
  isRoot
    ? "/var/lib/compute-ctl"
    : Path.join(stateHome ?? Path.join(home ?? homeOrTemporary(), ".local", "state"), "compute-ctl")

/** A user whom the machine does not know has no home; who gives every path does not need one. */
const homeOrTemporary = (): string => {
  try {
    return OS.homedir()
  } catch {
    return Path.join(OS.tmpdir(), `compute-ctl-${process.getuid?.() ?? "user"}`)
  }
}

/** For an embedded Postgres that the run-as user cannot reach, and for seed clusters. */
export const cacheDirectoryOf = (around: Surroundings): string =>
  around.isRoot ? "/var/cache/compute-ctl" : Path.join(localDirectory(around), "cache")

/** Beside PGDATA, which is wiped; `null`: nothing is to be kept. */
const lastGoodPath = (settings: RunSettings, around: Surroundings): string | null => {
  if (!settings.allowLastGoodSpec || settings.spec._tag !== "ControlPlane") return null
  if (settings.pgdata !== null) return `${Path.resolve(settings.pgdata)}.last-good-spec.json`
  const local = settings.storage._tag === "Local" ? settings.storage.directory : null
  return Path.join(Path.resolve(local ?? localDirectory(around)), "last-good-spec.json")
}

/** On every address at once: naming one would cost ten milliseconds for a look-up of it, before HTTP is up. */
export const isFree = (port: number) =>
  Effect.callback<boolean>((resume) => {
    const server = Net.createServer()
    server.once("error", () => resume(Effect.succeed(false)))
    server.listen(port, () => server.close(() => resume(Effect.succeed(true))))
  })

/**
 * Only for a port that nobody asked for: the next free one, and a word about it. One that is `ours` will be free.
 */
const freePort = Effect.fnUntraced(function* (
  who: string,
  first: number,
  ours: (port: number) => boolean = () => false
) {
  for (let port = first; port < first + 100; port++) {
    if (!(yield* isFree(port)) && !ours(port)) continue
    if (port !== first) yield* Effect.logWarning(`port ${first} is taken, so ${who} will listen on ${port}`)
    return port
  }
  return first
})

/** A control plane that names no port expects the usual one; who has storage of this machine is told of another. */
export const withFreeHttpPorts = Effect.fnUntraced(function* (settings: RunSettings) {
  if (settings.httpPortsGiven || settings.storage._tag === "Neon") return settings
  const externalHttpPort = yield* freePort("HTTP", settings.externalHttpPort)
  const { internalHttpPort: internal } = settings
  const internalHttpPort =
    internal === null ? null : yield* freePort("the internal HTTP", Math.max(internal, externalHttpPort + 1))
  return { ...settings, externalHttpPort, internalHttpPort }
})

/** What a killed compute left of its Postgres is ended before ours begins: clients find the next one where it was. */
const chooseConnString = Effect.fnUntraced(function* (
  settings: RunSettings,
  pgdata: string
): Effect.fn.Return<ConnString> {
  return (
    settings.connstr ?? {
      host: "127.0.0.1",
      port: yield* freePort("Postgres", localPort, (port) => livesOnPort(pgdata, port)),
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

const loopback = /^(localhost|127\.\d+\.\d+\.\d+|::1|\/.*)$/

/** Whether a connection string means our own Postgres: the same port, by whichever name of this machine. */
const isOurs = (one: ConnString, ours: ConnString): boolean =>
  one.port === ours.port && (one.host === ours.host || loopback.test(one.host))

/** Nobody said where the file cache is asked about: at our own Postgres, which need not be on the default's port. */
const vmOptions = Effect.fnUntraced(function* ({ vmMonitor }: RunSettings, { path }: Surroundings, ours: ConnString) {
  const given = vmMonitor.filecacheConnstr
  const fileCacheConnstr =
    given === defaults.filecacheConnstr
      ? ours
      : yield* Effect.fromResult(parseConnString(given)).pipe(
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
    fileCacheIsOurs: isOurs(fileCacheConnstr, ours),
    path
  }
})

/** Where this run keeps its data: local storage or Neon's, PGDATA, and the machine's place for state. */
const placesOf = (settings: RunSettings, around: Surroundings, spec: ParsedSpec | null) => {
  const state = localDirectory(around)
  const storage: ProgramOptions["storage"] =
    settings.storage._tag === "Local"
      ? {
          _tag: "Local",
          directory: Path.resolve(settings.storage.directory ?? state),
          durability: settings.storage.durability,
          requireExisting: settings.requireExisting,
          stopBudget: Duration.seconds(settings.stopBudgetSeconds)
        }
      : settings.storage._tag === "Volume"
        ? { _tag: "Volume", requireExisting: settings.requireExisting }
        : { _tag: "Neon" }
  const home = storage._tag === "Local" ? storage.directory : state
  const ids = spec === null ? [] : [spec.tenant, spec.timeline]
  const pgdata = Path.resolve(settings.pgdata ?? Path.join(home, ...ids, "pgdata"))
  return { state, storage, pgdata }
}

const hookOptions = (settings: RunSettings, around: Surroundings, pgdata: string, tls: Tls | null): HookOptions => ({
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
})

/** Of `/configure` and its like; what becomes good is kept in the words in which it came. */
const requestParser =
  (settings: RunSettings, kept: LastGoodSpec | null, login: Login | null): ProgramOptions["parseSpec"] =>
  (input) =>
    Result.map(parseSpec(input, { ...parseOptionsOf(settings, "the request"), under: ["spec"] }), (parsed) => {
      kept?.rememberSpec(parsed, input)
      return withLogin(login)(parsed)
    })

/** What a start-up banner says beside the options. */
export interface Prepared extends ProgramOptions {
  readonly login: Login | null
}

const loginOf = Effect.fnUntraced(function* (
  settings: RunSettings,
  { state, storage }: ReturnType<typeof placesOf>,
  spec: ParsedSpec | null
) {
  if (settings.generatePassword === null || storage._tag === "Neon") return null
  const folder = storage._tag === "Local" ? storage.directory : state
  // A storage that is not mounted is no place for it, and the start fails for that.
  if (storage._tag === "Local" && settings.requireExisting && !existsSync(folder)) return null
  return yield* generatedLogin(
    spec,
    settings.generatePassword,
    Path.join(folder, "pgpass"),
    yield* resolveRunAs(settings.runAs)
  )
})

/** Known before there is a spec. */
export const listenOptions = (settings: RunSettings): ListenOptions => ({
  apiVersion: settings.apiVersion,
  computeId: settings.computeId,
  buildTag,
  version,
  http: {
    host: settings.httpHost,
    externalPort: settings.externalHttpPort,
    internalPort: settings.internalHttpPort,
    allowedHosts: settings.httpAllowedHosts,
    liveConfigAllowed: settings.liveConfigAllowed,
    tls: settings.httpTls
  }
})

/** A spec that is here is read at once; one that somebody else has is asked for, and that may take its time. */
export const isRemote = ({ spec }: RunSettings): boolean => spec._tag === "ControlPlane"

export const prepare = Effect.fn("Run.prepare")(function* (
  settings: RunSettings,
  around: Surroundings,
  waiting: Waiting = () => Effect.void
): Effect.fn.Return<Prepared, Failure> {
  const keptAt = lastGoodPath(settings, around)
  const kept = keptAt === null ? null : lastGoodSpec(keptAt, settings.computeId ?? "")
  const { answer, degraded, jwks, spec, tls } = yield* findOrRecall(settings, kept, keptAt ?? "", waiting)
  if (spec !== null) kept?.remember(spec, answer)
  const verifier = jwks === null ? null : verifierOf(jwks)
  const places = placesOf(settings, around, spec)
  const { pgdata, storage } = places
  const at = yield* chooseConnString(settings, pgdata)
  const login = yield* loginOf(settings, places, spec)
  const listen = listenOptions(settings)
  return {
    ...listen,
    spec: spec === null ? null : withLogin(login)(spec),
    login,
    storage,
    allowUnfenced: settings.allowUnfenced,
    postgresReadyWithin:
      settings.pgInitTimeoutSeconds === null ? null : Duration.seconds(settings.pgInitTimeoutSeconds),
    pgdata,
    at,
    postgres: settings.postgres,
    runAs: settings.runAs,
    privilegedRole: settings.privilegedRole,
    exitDelay: true,
    exitWhenIdle: settings.exitWhenIdle,
    replicaMaxLag: Duration.seconds(settings.replicaMaxLagSeconds),
    hooks: hookOptions(settings, around, pgdata, tls),
    vm: settings.autoscaling ? yield* vmOptions(settings, around, sessionAddress({ at, pgdata, storage })) : null,
    http: { ...listen.http, verifier, refetch: refetchOf(settings, verifier, kept) },
    watchers: [...watchersOf(settings, jwks, verifier), ...(kept === null ? [] : [kept.watcher])],
    degraded,
    parseSpec: requestParser(settings, kept, login),
    host: {
      path: around.path,
      platform: OS.platform(),
      overcommitMemory: yield* overcommit,
      embeddedRoot: around.programFolder,
      cacheDirectory: cacheDirectoryOf(around)
    }
  }
})
