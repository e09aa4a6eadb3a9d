/**
 * What runs beside Postgres on this machine: pgbouncer, local_proxy, rsyslogd. Told of every spec, and at the end to leave.
 *
 * Starts none of them. Only exports of logs can fail a start or a spec, as in the reference; a pgbouncer or local_proxy
 * that is not there is told of once and held up by nobody.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as Stream from "effect/Stream"
import * as path from "node:path"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import type { Failure } from "../errors/Failure.ts"
import { causesOf } from "../errors/policy.ts"
import { showsCertificate } from "../postgres/postgresqlConf.ts"
import type { Tls } from "../spec/ComputeConfig.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import type { Family } from "../telemetry/prometheus.ts"
import { auditSweeper } from "./auditFiles.ts"
import { configureLocalProxy, type LocalProxyPlace, reloadLocalProxy, stopLocalProxy } from "./localProxy.ts"
import { type PgbouncerPlace, reloadPgbouncer, stopPgbouncer, tunePgbouncer } from "./pgbouncer.ts"
import { type AuditEndpoints, exportAudit, exportLog, exportsAudit, type RsyslogPlace } from "./rsyslog.ts"

export interface SidecarOptions {
  readonly pgbouncer: PgbouncerPlace
  readonly localProxy: LocalProxyPlace
  readonly rsyslog: RsyslogPlace
  readonly auditEndpoints: AuditEndpoints
  readonly pgdata: string
  /** The compute's certificate where it is kept; `null`: it has none. */
  readonly tls: Tls | null
  /** `--dev`: what runs beside is somebody else's and stays. */
  readonly dev: boolean
}

export class Sidecars extends Context.Service<
  Sidecars,
  {
    /** At the start, beside the building of PGDATA. */
    readonly before: (spec: ParsedSpec) => Effect.Effect<void, Failure>
    /** With the first spec and every later one. */
    readonly renewed: (spec: ParsedSpec) => Effect.Effect<void, Failure>
    /** The certificate has new content under its old name. */
    readonly certificateChanged: Effect.Effect<void>
    /** They leave, each within seconds. */
    readonly ended: Effect.Effect<void>
    readonly actors: ReadonlyArray<Actor>
    readonly families: Effect.Effect<ReadonlyArray<Family>>
  }
>()("compute/sidecars/Sidecars") {
  static readonly layer = (options: SidecarOptions): Layer.Layer<Sidecars, never, ComputeState> =>
    Layer.effect(Sidecars, make(options))
}

const make = Effect.fnUntraced(function* (options: SidecarOptions) {
  const state = yield* ComputeState
  const bytes = yield* Ref.make<number | null>(null)
  const told = new Set<string>()

  /** The same sqlError once, and again only after it has been well in between. */
  const tell =
    (name: string) =>
    <E extends Failure>(effect: Effect.Effect<unknown, E>): Effect.Effect<void> =>
      Effect.matchEffect(effect, {
        onSuccess: () => Effect.sync(() => void told.delete(name)),
        onFailure: (failure) =>
          Effect.suspend(() => {
            if (told.has(name)) return Effect.logDebug(causesOf(failure).join(": "))
            told.add(name)
            return Effect.logWarning(causesOf(failure).join(": "))
          })
      })

  const tune = Effect.fn("Sidecars.tune")(function* ({ features, localProxy, pgbouncerSettings }: ParsedSpec) {
    const tls = showsCertificate(features) ? options.tls : null
    yield* Effect.all(
      [
        pgbouncerSettings === null
          ? Effect.void
          : tell("pgbouncer")(tunePgbouncer(options.pgbouncer, pgbouncerSettings, tls)),
        localProxy === null
          ? Effect.void
          : tell("local_proxy")(configureLocalProxy(options.localProxy, localProxy, tls))
      ],
      { concurrency: "unbounded", discard: true }
    )
  })

  const specs = Stream.changesWith(
    Stream.map(state.changes, ({ spec }) => spec),
    (one, other) => one === other
  )
  const tuner: Actor = {
    name: "sidecar tuner",
    policy: "permanent",
    run: Stream.runForEach(specs, (spec) => (spec === null ? Effect.void : tune(spec)))
  }

  const sweeper = auditSweeper(path.join(options.pgdata, "log"), (left) => Ref.set(bytes, left))
  const sweeperOfAudited: Actor = {
    ...sweeper,
    policy: "transient",
    run: Effect.flatMap(state.now, ({ spec }) => (spec !== null && exportsAudit(spec) ? sweeper.run : Effect.void))
  }

  return Sidecars.of({
    before: (spec) => exportAudit(options.rsyslog, spec, options.auditEndpoints, options.pgdata),
    renewed: (spec) => exportLog(options.rsyslog, spec),
    certificateChanged: Effect.flatMap(state.now, ({ spec }) =>
      spec === null || !showsCertificate(spec.features)
        ? Effect.void
        : Effect.all(
            [
              spec.pgbouncerSettings === null ? Effect.void : tell("pgbouncer")(reloadPgbouncer(options.pgbouncer)),
              spec.localProxy === null ? Effect.void : reloadLocalProxy(options.localProxy)
            ],
            { concurrency: "unbounded", discard: true }
          )
    ),
    ended: options.dev
      ? Effect.void
      : Effect.all([stopPgbouncer(options.pgbouncer), stopLocalProxy(options.localProxy)], {
          concurrency: "unbounded",
          discard: true
        }),
    actors: [tuner, sweeperOfAudited],
    families: Effect.map(Ref.get(bytes), (size) => [
      {
        name: "compute_audit_log_dir_size",
        type: "gauge",
        help: "Bytes of logs in the folder of audit records",
        samples: size === null ? [] : [{ labels: {}, value: size }]
      }
    ])
  })
})
