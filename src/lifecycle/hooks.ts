/**
 * Composes the hooks of a real compute: extensions, file cache, inventory, swap and disk, sidecars,
 * certificate.
 *
 * `Program.ts` imports it only after HTTP listens, because none of it is needed before; the bundle has it at hand.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import { ComputeHooks } from "../compute/ComputeHooks.ts"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import type { Failure } from "../errors/Failure.ts"
import { InstalledExtensions, inventoryActor } from "../extensions/InstalledExtensions.ts"
import { RemoteExtensions } from "../extensions/RemoteExtensions.ts"
import { autoprewarm, Lfc, lfcActor } from "../lfc/Lfc.ts"
import { below } from "../platform/tracing.ts"
import { protectFromOom, resizeSwap, setDiskQuota } from "../platform/memory.ts"
import type { RunAs, Spawn } from "../platform/Spawn.ts"
import { liftCoreLimit } from "../postgres/coreDumps.ts"
import { localProxyPlace } from "../sidecars/localProxy.ts"
import { pgbouncerPlace } from "../sidecars/pgbouncer.ts"
import { type AuditEndpoints, rsyslogPlace } from "../sidecars/rsyslog.ts"
import { Sidecars } from "../sidecars/Sidecars.ts"
import type { Tls } from "../spec/ComputeConfig.ts"
import type { ApiVersion, ParsedSpec } from "../spec/ParsedSpec.ts"
import { printFamilies } from "../telemetry/prometheus.ts"
import { Certificates } from "../tls/Certificates.ts"

export interface HookOptions {
  readonly apiVersion: ApiVersion
  readonly buildTag: string
  /** `-r`; `null`: no extension is fetched. */
  readonly extensionsBase: string | null
  /** As Node says it: `x64`, `arm64`. */
  readonly arch: string
  /** Whether a spec may resize swap. */
  readonly resizeSwap: boolean
  /** The file system whose quota a spec may set. */
  readonly diskQuotaMount: string | null
  readonly inventorySeconds: number
  readonly pgdata: string
  /** Where the compute's certificate is kept; `null`: it has none. */
  readonly tls: Tls | null
  /** `--dev`: what runs beside is somebody else's and stays. */
  readonly dev: boolean
  readonly autoscaling: boolean
  readonly pgbouncerPassword: Redacted.Redacted<string> | null
  readonly auditEndpoints: AuditEndpoints
}

type Parts = RemoteExtensions | Lfc | InstalledExtensions | Sidecars | Certificates | Spawn | ComputeState

const make = Effect.fnUntraced(function* (options: HookOptions) {
  // The span of whoever calls is the one that counts.
  const context = yield* below(null)(Effect.context<Parts>())
  const extensions = yield* RemoteExtensions
  const lfc = yield* Lfc
  const inventory = yield* InstalledExtensions
  const sidecars = yield* Sidecars
  const certificates = yield* Certificates
  const state = yield* ComputeState
  const provided = <A, E>(effect: Effect.Effect<A, E, Parts>): Effect.Effect<A, E> => Effect.provide(effect, context)
  const actor = (one: Actor<Parts>): Actor => ({ ...one, run: provided(one.run) })

  const memoryAndDisk = Effect.fnUntraced(function* ({ diskQuotaBytes, swapSizeBytes }: ParsedSpec) {
    const { diskQuotaMount } = options
    if (options.resizeSwap && swapSizeBytes !== null) yield* resizeSwap(swapSizeBytes)
    if (diskQuotaMount !== null && diskQuotaBytes !== null) yield* setDiskQuota(diskQuotaBytes, diskQuotaMount)
  })

  return ComputeHooks.of({
    beforeStart: (spec): Effect.Effect<void, Failure> =>
      provided(
        Effect.all(
          [
            // Postgres is to inherit it.
            liftCoreLimit(process.pid),
            memoryAndDisk(spec),
            spec.remoteExtensions === null ? Effect.void : extensions.prepare(spec),
            sidecars.beforeStart(spec),
            sidecars.onSpec(spec)
          ],
          { concurrency: "unbounded", discard: true }
        )
      ),
    placeCertificate: certificates.place,
    afterSpawn: (pid) => Effect.asVoid(protectFromOom(pid)),
    onSpecChanged: sidecars.onSpec,
    onRunning: (spec) => provided(autoprewarm(spec)),
    // Only what this compute was asked to configure is its to end.
    onStopped: Effect.flatMap(state.now, ({ spec }) =>
      (spec?.pgbouncerSettings ?? null) === null && (spec?.localProxy ?? null) === null ? Effect.void : sidecars.stop
    ),
    actors: (reload) => [
      actor(inventoryActor),
      actor(lfcActor),
      ...sidecars.actors,
      ...(options.tls === null ? [] : [certificates.watch(Effect.andThen(reload, sidecars.onCertificateChanged))])
    ],
    fetchExtension: extensions.download,
    fileCache: lfc,
    metrics: Effect.map(Effect.all([inventory.family, sidecars.families]), ([family, families]) =>
      printFamilies([family, ...families])
    )
  })
})

export const makeHooks = (options: HookOptions, runAs: RunAs | null) =>
  Layer.effect(ComputeHooks, make(options)).pipe(
    Layer.provide([
      RemoteExtensions.layer({
        apiVersion: options.apiVersion,
        base: options.extensionsBase,
        buildTag: options.buildTag,
        arch: options.arch
      }),
      Lfc.layer(),
      Sidecars.layer({
        pgbouncer: pgbouncerPlace(options.autoscaling, options.pgbouncerPassword),
        localProxy: localProxyPlace,
        rsyslog: rsyslogPlace,
        auditEndpoints: options.auditEndpoints,
        pgdata: options.pgdata,
        tls: options.tls,
        dev: options.dev
      }),
      Certificates.layer(options.tls === null ? null : { tls: options.tls, pgdata: options.pgdata, runAs }),
      InstalledExtensions.layer({ apiVersion: options.apiVersion, intervalSeconds: options.inventorySeconds })
    ])
  )
