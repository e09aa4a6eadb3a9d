/**
 * `compute_ctl doctor`: what a run with these flags needs of this machine, looked at one by one, with a remedy for each
 * that is missing. Starts no compute; what it writes it removes, but for the copy of an embedded Postgres that a start
 * would make, too.
 *
 * Exit 0 when nothing is missing, 1 otherwise. What only makes a compute worse, and not impossible, is a warning.
 */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as FS from "node:fs"
import * as OS from "node:os"
import * as Path from "node:path"
import type { Failure } from "../errors/Failure.ts"
import { explain, failed, hintOf } from "../errors/policy.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import { attemptFlock } from "../platform/flock.ts"
import { runCommand } from "../platform/processes.ts"
import { type RunAs, Spawn } from "../platform/Spawn.ts"
import { barrier, nssWrapper, osUserNames, resolveRunAs } from "../platform/users.ts"
import { locatePostgres, PostgresInstall } from "../postgres/PostgresInstall.ts"
import type { Environment, Given, Read } from "./given.ts"
import { cacheDirectoryOf, isFree, localDirectory, localPort, type Surroundings } from "./run.ts"
import {
  readApiVersion,
  readConnstr,
  readPorts,
  readStorage,
  readVmMonitor,
  type RunSettings,
  type StorageChoice
} from "./RunSettings.ts"

interface Finding {
  readonly what: string
  readonly state: "ok" | "warning" | "missing"
  readonly detail: string
  /** `null`: there is nothing to do. */
  readonly remedy: string | null
}

const fine = (what: string, detail: string): Finding => ({ what, state: "ok", detail, remedy: null })
const note = (what: string, detail: string, remedy: string): Finding => ({ what, state: "warning", detail, remedy })
const missing = (what: string, detail: string, remedy: string): Finding => ({ what, state: "missing", detail, remedy })

/** What it is, or `null` where the system says no. */
const unlessWrong = <A>(look: () => A): A | null => Result.getOrElse(Result.try(look), () => null)

export interface DoctorSettings {
  readonly postgres: string | null
  readonly runAs: string | null
  readonly storage: StorageChoice
  readonly pgdata: string | null
  readonly connstr: ConnString | null
  /** Without those that the system chooses. */
  readonly httpPorts: ReadonlyArray<{ readonly port: number; readonly flag: string }>
  readonly allowUnfenced: boolean
  /** `null`: there is no autoscaler. */
  readonly vm: Pick<RunSettings["vmMonitor"], "cgroup" | "cgroupPolicy"> | null
}

export const readDoctor = (given: Given, env: Environment): Read<DoctorSettings> =>
  Result.gen(function* () {
    const ports = yield* readPorts(given, yield* readApiVersion(given), [])
    const older = ports.internalHttpPort === null && given.has("http-port")
    return {
      postgres: given.get("pgbin")?.value ?? (env["POSTGRES_PATH"] || null),
      runAs: given.get("run-as")?.value ?? null,
      storage: yield* readStorage(given),
      pgdata: given.get("pgdata")?.value ?? null,
      connstr: yield* readConnstr(given),
      httpPorts: [
        { port: ports.externalHttpPort, flag: older ? "--http-port" : "--external-http-port" },
        ...(ports.internalHttpPort === null ? [] : [{ port: ports.internalHttpPort, flag: "--internal-http-port" }])
      ].filter(({ port }) => port !== 0),
      allowUnfenced: given.has("allow-unfenced"),
      vm: env["AUTOSCALING"] === undefined ? null : yield* readVmMonitor(given)
    }
  })

const withFailure = (what: string, failure: Failure): Finding => missing(what, explain(failure), hintOf(failure))

const lookAtPostgres = (settings: DoctorSettings, around: Surroundings, runAs: RunAs | null) =>
  Effect.gen(function* () {
    const install = yield* PostgresInstall
    const lacks = install.initdb === null && settings.storage._tag !== "Neon"
    return lacks
      ? missing("Postgres", `${install.postgres} has no initdb beside it`, "install the whole of its server package")
      : fine("Postgres", `${install.version} in ${install.postgres}`)
  }).pipe(
    Effect.provide(
      locatePostgres({
        given: settings.postgres,
        path: around.path,
        runAs,
        embeddedRoot: around.programFolder,
        cacheDirectory: cacheDirectoryOf(around)
      }).pipe(Layer.provide(Spawn.layer))
    ),
    Effect.catch((failure) => Effect.succeed(withFailure("Postgres", failure)))
  )

/** The loader says on standard error that it does not find it. */
const hasNssWrapper = runCommand(
  { command: "/bin/sh", args: ["-c", ":"], env: { LD_PRELOAD: nssWrapper }, runAs: null },
  "5 seconds"
).pipe(
  Effect.provide(Spawn.layer),
  Effect.map(({ stderr }) => stderr === ""),
  Effect.orElseSucceed(() => false)
)

const lookAtUser = (runAs: RunAs | null, { isRoot }: Surroundings, storage: DoctorSettings["storage"]) => {
  const who = isRoot || runAs !== null ? `${runAs?.name ?? "root"} (${runAs?.uid ?? 0})` : `this user (${ownUid()})`
  if (osUserNames(runAs) !== null || storage._tag === "Neon") {
    return Effect.succeed(fine("user", `Postgres runs as ${who}`))
  }
  const nameless = `Postgres runs as ${who}, which has no name`
  return hasNssWrapper.pipe(
    Effect.map((has) =>
      has
        ? fine("user", `${nameless}; initdb gets one by nss_wrapper`)
        : note(
            "user",
            `${nameless}, and initdb, which a first start needs, runs for nobody without one`,
            "install libnss-wrapper (nss_wrapper), or add a line for it to /etc/passwd"
          )
    )
  )
}

const ownUid = () => process.geteuid?.() ?? "?"

/** Neon's settings name C.UTF-8; stock Postgres is started with C, and a new cluster falls back to it. */
const lookAtLocale = ({ storage }: DoctorSettings) =>
  runCommand({ command: "locale", args: ["-a"], runAs: null }, "5 seconds").pipe(
    Effect.provide(Spawn.layer),
    Effect.map(({ stdout }) => /^C\.utf-?8$/im.test(stdout)),
    Effect.orElseSucceed(() => FS.existsSync("/usr/lib/locale/C.utf8")),
    Effect.map((known) => {
      if (known) return fine("locale", "C.UTF-8 is there")
      const remedy = "install the locales of the system's C library"
      return storage._tag === "Neon"
        ? missing("locale", "there is no C.UTF-8, with which Postgres is started", remedy)
        : note("locale", "there is no C.UTF-8, so new clusters sort as C and know ASCII's letters alone", remedy)
    })
  )

const limitOf = (name: string): string | null =>
  unlessWrong(() => new RegExp(`^${name} +(\\S+)`, "m").exec(FS.readFileSync("/proc/self/limits", "latin1"))?.[1]) ??
  null

const fewFiles = 4096
const littleShared = 64 * 1024 * 1024

const lookAtLimits = (): ReadonlyArray<Finding> => {
  const files = limitOf("Max open files")
  const cores = limitOf("Max core file size")
  const shared = unlessWrong(() => FS.statfsSync("/dev/shm"))
  return [
    files !== null && files !== "unlimited" && Number(files) < fewFiles
      ? note("open files", `at most ${files}`, `raise it: ulimit -n ${fewFiles}, LimitNOFILE= or --ulimit nofile`)
      : fine("open files", `at most ${files ?? "unknown"}`),
    cores === "0"
      ? note("core dumps", "a crash of Postgres leaves none", "allow them: ulimit -c unlimited, LimitCORE=infinity")
      : fine("core dumps", "allowed"),
    OS.platform() !== "linux" || (shared !== null && shared.blocks * shared.bsize >= littleShared)
      ? fine("shared memory", shared === null ? "not looked at" : `${mebibytes(shared.blocks * shared.bsize)} MiB`)
      : missing(
          "shared memory",
          shared === null ? "there is no /dev/shm" : `/dev/shm has ${mebibytes(shared.blocks * shared.bsize)} MiB`,
          "mount a tmpfs there, of 64 MiB or more (docker run --shm-size=256m)"
        )
  ]
}

const mebibytes = (bytes: number): number => Math.floor(bytes / 1024 / 1024)

const lookAtPorts = Effect.fnUntraced(function* ({ connstr, httpPorts, storage }: DoctorSettings) {
  const free = Effect.fnUntraced(function* (what: string, port: number, flag: string) {
    return (yield* isFree(port))
      ? fine(what, `port ${port} is free`)
      : missing(what, `something listens on port ${port}`, `stop it, or choose another port with ${flag}`)
  })
  const found: Array<Finding> = []
  for (const { flag, port } of httpPorts) found.push(yield* free("HTTP", port, flag))
  // Nobody asked for one: the next that is free is taken.
  if (connstr !== null) found.push(yield* free("Postgres's port", connstr.port, "-C"))
  else if (storage._tag !== "Neon" && !(yield* isFree(localPort)))
    found.push(fine("Postgres's port", `port ${localPort} is taken, so the next free one will be`))
  return found
})

const lookAtCgroup = Effect.fnUntraced(function* ({ vm }: DoctorSettings, { path }: Surroundings, runAs: RunAs | null) {
  if (vm === null) return fine("cgroup", "not needed without AUTOSCALING")
  // No run without an autoscaler loads it.
  const { checkEntry, defaultCgroupRoot } = yield* Effect.promise(() => import("../autoscaling/Cgroup.ts"))
  const entry = { root: defaultCgroupRoot, name: vm.cgroup, policy: vm.cgroupPolicy, path }
  return yield* checkEntry(entry, { command: "postgres", args: [], runAs, stages: [] }).pipe(
    Effect.as(fine("cgroup", `Postgres can enter ${vm.cgroup}, or need not`)),
    Effect.catch((failure) => Effect.succeed(withFailure("cgroup", failure)))
  )
})

/** The folder, or the first above it that is there. */
const existing = (folder: string): string =>
  FS.existsSync(folder) || folder === Path.dirname(folder) ? folder : existing(Path.dirname(folder))

const littleRoom = 1024 * 1024 * 1024

const lookAtDisk = (what: string, folder: string, runAs: RunAs | null): Finding => {
  const there = existing(folder)
  const stat = unlessWrong(() => FS.statfsSync(there))
  if (stat === null) return missing(what, `${there} cannot be looked at`, "check the disk and its mount")
  if (unlessWrong(() => (FS.accessSync(there, FS.constants.W_OK), true)) === null)
    return missing(
      what,
      `${there} cannot be written to`,
      "give a folder of this user, on a file system that is not read-only"
    )
  const closed = barrier(there, runAs)
  if (closed !== null && there === folder)
    return missing(
      what,
      `${runAs?.name ?? "this user"} may not enter ${closed}`,
      "open it: chmod o+x, or another owner"
    )
  const free = stat.bavail * stat.bsize
  return free < littleRoom || (stat.files > 0 && stat.ffree < 1000)
    ? missing(
        what,
        `${there} has ${mebibytes(free)} MiB and ${stat.ffree} files left`,
        "make room, or use another disk"
      )
    : fine(what, `${mebibytes(free)} MiB free for ${folder}`)
}

/** Tries it on a file of its own, where the compute would. */
const lookAtLock = (folder: string, allowed: boolean) =>
  Effect.acquireUseRelease(
    Effect.sync(() =>
      unlessWrong(() => {
        const at = FS.mkdtempSync(Path.join(existing(folder), ".compute-ctl-doctor-"))
        return { at, descriptor: FS.openSync(Path.join(at, "flock"), "w") }
      })
    ),
    (file) =>
      file === null
        ? Effect.succeed({ _tag: "Unavailable" as const, because: `${existing(folder)} cannot be written to` })
        : attemptFlock(file.descriptor),
    (file) =>
      Effect.sync(() => {
        if (file === null) return
        FS.closeSync(file.descriptor)
        FS.rmSync(file.at, { recursive: true, force: true })
      })
  ).pipe(
    Effect.map((attempt) => {
      if (attempt._tag !== "Unavailable") return fine("flock", `works in ${existing(folder)}`)
      const remedy = "use a file system with flock, and have flock, busybox, perl or python3 on the PATH"
      return (allowed ? note : missing)("flock", attempt.because, remedy)
    })
  )

/** Tokens and certificates have times, and WAL is kept by the age of its files. */
const lookAtClock = (folder: string, programFolder: string, now: number): Finding => {
  const remedy = "set the clock, and keep it by NTP (chrony, systemd-timesyncd)"
  const written = (file: string) => unlessWrong(() => FS.statSync(file).mtimeMs) ?? 0
  const newest = Math.max(written(programFolder), written(folder))
  return newest > now + 60_000
    ? missing("clock", `it says ${DateTime.formatIso(DateTime.makeUnsafe(now))}, but files here are newer`, remedy)
    : fine("clock", "no file here is newer than now")
}

const findings = Effect.fnUntraced(function* (settings: DoctorSettings, around: Surroundings, now: number) {
  const user = yield* Effect.result(resolveRunAs(settings.runAs))
  const runAs = Result.isSuccess(user) ? user.success : null
  const { pgdata, storage } = settings
  const home = storage._tag === "Local" ? (storage.directory ?? localDirectory(around)) : localDirectory(around)
  const data = Path.resolve(storage._tag === "Local" ? home : (pgdata ?? home))
  return [
    yield* lookAtPostgres(settings, around, runAs),
    Result.isSuccess(user) ? yield* lookAtUser(runAs, around, settings.storage) : withFailure("user", user.failure),
    yield* lookAtLocale(settings),
    ...lookAtLimits(),
    ...(yield* lookAtPorts(settings)),
    yield* lookAtCgroup(settings, around, runAs),
    lookAtDisk("disk", data, runAs),
    ...(pgdata === null || storage._tag === "Volume" ? [] : [lookAtDisk("PGDATA's disk", Path.resolve(pgdata), runAs)]),
    yield* lookAtLock(data, settings.allowUnfenced),
    lookAtClock(data, around.programFolder, now)
  ]
})

const printed = ({ detail, remedy, what, state }: Finding): string =>
  `${state.padEnd(8)} ${what}: ${detail}${remedy === null ? "" : `\n${" ".repeat(9)}-> ${remedy}`}`

/** The exit code. */
export const doctorCommand = Effect.fn("Doctor.command")(function* (
  settings: DoctorSettings,
  around: Surroundings,
  out: (text: string) => void
) {
  const found = yield* findings(settings, around, (yield* DateTime.now).epochMilliseconds)
  const wrong = found.filter(({ state }) => state === "missing").length
  const end = wrong === 0 ? "nothing is missing" : `${wrong} of ${found.length} are missing`
  out(`${[...found.map(printed), end].join("\n")}\n`)
  return wrong === 0 ? 0 : failed
})
