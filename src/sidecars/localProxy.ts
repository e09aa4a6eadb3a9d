/**
 * The local_proxy of this machine: its configuration is written, and it is signalled to read it again.
 *
 * Starts nothing. It is signalled only while its pid file is locked: local_proxy holds that lock as long as it lives,
 * and without the lock the pid may be anybody's. Locks are read from `/proc/locks`; without it, it is never found.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import type { FileFailed } from "../errors/Failure.ts"
import { replaceFile } from "../platform/files.ts"
import { type OtherProcess, pidInFile, processOf, signalProcess, stopProcess } from "../platform/processes.ts"
import type { ShutdownStage } from "../platform/shutdownStages.ts"
import type { Tls } from "../spec/ComputeConfig.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

// -- configuration (docs/reference/compute_ctl.md#local_proxy-and-tls-in-the-spec and
// docs/reference/compute_ctl.md#local_proxy)

/** Pretty JSON; what is `null` is left out. */
const localProxyText = (config: NonNullable<ParsedSpec["localProxy"]>, tls: Tls | null): string => {
  const jwks = config.jwks?.map((one) => ({
    id: one.id,
    role_names: one.roleNames,
    jwks_url: one.jwksUrl,
    provider_name: one.providerName,
    jwt_audience: one.jwtAudience
  }))
  return JSON.stringify(
    {
      ...(jwks === undefined ? {} : { jwks }),
      ...(tls === null ? {} : { tls: { key_path: tls.keyPath, cert_path: tls.certPath } })
    },
    null,
    2
  )
}

// -- the lock on its pid file

const flock = /^\d+:\s+FLOCK\s+\S+\s+\S+\s+(-?\d+)\s+[0-9a-fA-F]+:[0-9a-fA-F]+:(\d+)\s/

/**
 * Pids that hold a flock on the file, from `/proc/locks`; 0 for a holder that our pid namespace cannot see. A line is
 * `1: FLOCK  ADVISORY  WRITE 1234 08:01:131 0 EOF`: kind, holder's pid, device and inode; lines with `->` wait for a
 * lock and hold none. The device is not compared: overlay and btrfs say another one here than `stat` does.
 */
export const flockHolders = (locks: string, inode: bigint): ReadonlyArray<number> =>
  locks.split("\n").flatMap((line) => {
    const [, pid, lockedInode] = flock.exec(line) ?? []
    return pid !== undefined && lockedInode !== undefined && BigInt(lockedInode) === inode ? [Number(pid)] : []
  })

// -- process

export interface LocalProxyPlace {
  readonly config: string
  readonly pidFile: string
}

export const localProxyPlace: LocalProxyPlace = {
  config: "/etc/local_proxy/config.json",
  pidFile: "/etc/local_proxy/pid"
}

/** The process that the pid file names, while another process than we holds a lock on that file. */
export const findLocalProxy = ({ pidFile }: LocalProxyPlace): OtherProcess | null => {
  try {
    const inode = fs.statSync(pidFile, { bigint: true }).ino
    const holders = flockHolders(fs.readFileSync("/proc/locks", "utf8"), inode)
    const pid = pidInFile(pidFile)
    return pid === null || holders.every((holder) => holder === process.pid) ? null : processOf(pid)
  } catch {
    return null
  }
}

/** True: a running local_proxy was signalled. One that is not running reads the file when it starts. */
export const configureLocalProxy = Effect.fn("LocalProxy.configure")(function* (
  place: LocalProxyPlace,
  config: NonNullable<ParsedSpec["localProxy"]>,
  tls: Tls | null
): Effect.fn.Return<boolean, FileFailed> {
  yield* replaceFile({ path: place.config, content: localProxyText(config, tls), mode: 0o644, owner: null })
  return yield* reloadLocalProxy(place)
})

export const reloadLocalProxy = (place: LocalProxyPlace): Effect.Effect<boolean> =>
  Effect.suspend(() => {
    const proxy = findLocalProxy(place)
    return proxy === null ? Effect.succeed(false) : signalProcess(proxy, "SIGHUP")
  })

const stages: ReadonlyArray<ShutdownStage> = [
  { signal: "SIGTERM", grace: Duration.seconds(2), meaning: "leave" },
  { signal: "SIGKILL", grace: Duration.seconds(2), meaning: "the kernel does it" }
]

export const stopLocalProxy = Effect.fn("LocalProxy.stop")(function* (place: LocalProxyPlace) {
  const proxy = findLocalProxy(place)
  if (proxy === null) return
  yield* Effect.logInfo(`asking local_proxy (pid ${proxy.pid}) to leave`)
  if (!(yield* stopProcess(proxy, stages))) yield* Effect.logWarning(`local_proxy (pid ${proxy.pid}) did not leave`)
})
