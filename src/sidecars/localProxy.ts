/**
 * The local_proxy of this machine: its configuration is written, and it is told to read it again.
 *
 * It is told only while the file with its pid is locked: local_proxy holds that lock as long as it lives, and without
 * the lock the pid may be anybody's. Linux tells of locks in `/proc/locks`; elsewhere nobody is ever told.
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
import { flockHolders } from "./auditFiles.ts"

// ---------------------------------------------------------------------------------------------------------------------
// The configuration of local_proxy as text (reference sections 2.7 and 11.2). Pure.
// ---------------------------------------------------------------------------------------------------------------------

/** Pretty JSON; what is `null` is left out. */
export const localProxyText = (config: NonNullable<ParsedSpec["localProxy"]>, tls: Tls | null): string => {
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

// ---------------------------------------------------------------------------------------------------------------------

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
    const holders = flockHolders(fs.readFileSync("/proc/locks", "utf8"), { inode })
    const pid = pidInFile(pidFile)
    return pid === null || holders.every((holder) => holder === process.pid) ? null : processOf(pid)
  } catch {
    return null
  }
}

/** Was a running local_proxy told? One that is not running reads the file when it starts. */
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
