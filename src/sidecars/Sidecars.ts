/**
 * The programs that run with Postgres on this machine: pgbouncer, local_proxy, rsyslogd. They are configured from every
 * spec, and stopped at the end.
 *
 * Starts none of them. Only exports of logs can fail a start or a spec, as in the reference; a pgbouncer or local_proxy
 * that is missing is logged once and delays nothing.
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
import { explain } from "../errors/policy.ts"
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
  /** `--dev`: the sidecars are not stopped at the end. */
  readonly dev: boolean
}

export class Sidecars extends Context.Service<
  Sidecars,
  {
    /** At the start, while PGDATA is built. */
    readonly beforeStart: (spec: ParsedSpec) => Effect.Effect<void, Failure>
    /** With the first spec and every later one. */
    readonly onSpec: (spec: ParsedSpec) => Effect.Effect<void, Failure>
    /** The certificate has new content under its old name. */
    readonly onCertificateChanged: Effect.Effect<void>
    /** Stops them, each within seconds. */
    readonly stop: Effect.Effect<void>
    readonly actors: ReadonlyArray<Actor>
    readonly families: Effect.Effect<ReadonlyArray<Family>>
  }
>()("compute/sidecars/Sidecars") {
  static readonly layer = (options: SidecarOptions): Layer.Layer<Sidecars, never, ComputeState> =>
    Layer.effect(Sidecars, make(options))
}

/** Logs a failure once, and again only after the same thing has succeeded in between. */
const makeLogOnce = () => {
  const failing = new Set<string>()
  return (name: string) =>
    <E extends Failure>(effect: Effect.Effect<unknown, E>): Effect.Effect<void> =>
      Effect.matchEffect(effect, {
        onSuccess: () => Effect.sync(() => void failing.delete(name)),
        onFailure: (failure) =>
          Effect.suspend(() => {
            if (failing.has(name)) return Effect.logDebug(explain(failure))
            failing.add(name)
            return Effect.logWarning(explain(failure))
          })
      })
}

type LogOnce = ReturnType<typeof makeLogOnce>

const inParallel = { concurrency: "unbounded", discard: true } as const

const configure = (options: SidecarOptions, logOnce: LogOnce) =>
  Effect.fn("Sidecars.configure")(function* ({ features, localProxy, pgbouncerSettings }: ParsedSpec) {
    const tls = showsCertificate(features) ? options.tls : null
    yield* Effect.all(
      [
        pgbouncerSettings === null
          ? Effect.void
          : logOnce("pgbouncer")(tunePgbouncer(options.pgbouncer, pgbouncerSettings, tls)),
        localProxy === null
          ? Effect.void
          : logOnce("local_proxy")(configureLocalProxy(options.localProxy, localProxy, tls))
      ],
      inParallel
    )
  })

const reloadCertificate = (options: SidecarOptions, logOnce: LogOnce, spec: ParsedSpec) =>
  Effect.all(
    [
      spec.pgbouncerSettings === null ? Effect.void : logOnce("pgbouncer")(reloadPgbouncer(options.pgbouncer)),
      spec.localProxy === null ? Effect.void : reloadLocalProxy(options.localProxy)
    ],
    inParallel
  )

const make = Effect.fnUntraced(function* (options: SidecarOptions) {
  const state = yield* ComputeState
  const auditBytes = yield* Ref.make<number | null>(null)
  const logOnce = makeLogOnce()
  const configureFrom = configure(options, logOnce)

  const specs = Stream.changesWith(
    Stream.map(state.changes, ({ spec }) => spec),
    (one, other) => one === other
  )
  const tuner: Actor = {
    name: "sidecar tuner",
    kind: "auxiliary",
    run: Stream.runForEach(specs, (spec) => (spec === null ? Effect.void : configureFrom(spec)))
  }
  const sweeper = auditSweeper(path.join(options.pgdata, "log"), (left) => Ref.set(auditBytes, left))
  const sweeperIfAudited: Actor = {
    ...sweeper,
    run: Effect.flatMap(state.now, ({ spec }) => (spec !== null && exportsAudit(spec) ? sweeper.run : Effect.void))
  }

  return Sidecars.of({
    beforeStart: (spec) => exportAudit(options.rsyslog, spec, options.auditEndpoints, options.pgdata),
    onSpec: (spec) => exportLog(options.rsyslog, spec),
    onCertificateChanged: Effect.flatMap(state.now, ({ spec }) =>
      spec === null || !showsCertificate(spec.features) ? Effect.void : reloadCertificate(options, logOnce, spec)
    ),
    stop: options.dev
      ? Effect.void
      : Effect.all([stopPgbouncer(options.pgbouncer), stopLocalProxy(options.localProxy)], inParallel),
    actors: [tuner, sweeperIfAudited],
    families: Effect.map(Ref.get(auditBytes), (size) => [
      {
        name: "compute_audit_log_dir_size",
        type: "gauge",
        help: "Bytes of logs in the folder of audit records",
        samples: size === null ? [] : [{ labels: {}, value: size }]
      }
    ])
  })
})
