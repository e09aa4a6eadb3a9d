/**
 * The programs that run with Postgres on this machine: pgbouncer, local_proxy, rsyslogd. They are configured from every
 * spec, and stopped at the end.
 *
 * Starts none of them. Only exports of logs can fail a start or a spec, as in the reference; a pgbouncer or local_proxy
 * that is missing delays nothing: it is a condition, and is tried again until it is there.
 */
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { ComputeState } from "../compute/ComputeState.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { type Failure, SidecarUnusable } from "../errors/Failure.ts"
import { explain } from "../errors/policy.ts"
import { showsCertificate } from "../postgres/postgresqlConf.ts"
import type { Tls } from "../spec/ComputeConfig.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import type { Family } from "../telemetry/prometheus.ts"
import { auditSweeper } from "./auditFiles.ts"
import { configureLocalProxy, type LocalProxyPlace, reloadLocalProxy, stopLocalProxy } from "./localProxy.ts"
import { makePgbouncer, type Pgbouncer, pgbouncerEntries, type PgbouncerPlace } from "./pgbouncer.ts"
import type { Settings } from "./pgbouncerIni.ts"
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

type Sidecar = SidecarUnusable["sidecar"]
type State = ComputeState["Service"]

const inParallel = { concurrency: "unbounded", discard: true } as const

/** What became of the latest spec in this sidecar; `null`: all is well, `undefined`: the spec does not ask for it. */
const report = Effect.fnUntraced(function* (state: State, sidecar: string, failure: Failure | null | undefined) {
  const at = DateTime.formatIso(yield* DateTime.now)
  const reason = failure === null || failure === undefined ? null : explain(failure)
  const latest = { sidecar, at, outcome: reason === null ? ("done" as const) : ("failed" as const), reason }
  yield* state.note(({ sidecarReports }) => ({
    sidecarReports: [
      ...sidecarReports.filter((one) => one.sidecar !== sidecar),
      ...(failure === undefined ? [] : [latest])
    ]
  }))
  if (reason === null) return yield* state.clear("sidecar_unusable", sidecar)
  const { degraded } = yield* state.now
  const earlier = degraded.find(({ about, code }) => code === "sidecar_unusable" && about === sidecar)
  yield* state.raise({ code: "sidecar_unusable", about: sidecar, message: reason })
  // A condition is logged when it begins; another complaint is news.
  if (earlier !== undefined && earlier.message !== reason) yield* Effect.logWarning(reason)
})

/** Between two attempts: 5 s, doubling, at most 5 minutes. */
const pauses = Schedule.exponential("5 seconds").pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.minutes(5)))),
  Schedule.jittered
)

/** Until it succeeds or is refused: the next spec may be another. `null`: the spec does not ask for this sidecar. */
const keepTrying = Effect.fnUntraced(function* (
  state: State,
  sidecar: Sidecar,
  attempt: ((attempts: number) => Effect.Effect<unknown, Failure>) | null
) {
  if (attempt === null) return yield* report(state, sidecar, undefined)
  let attempts = 0
  const once = Effect.suspend(() => attempt(attempts++)).pipe(
    Effect.matchEffect({
      onSuccess: () => Effect.as(report(state, sidecar, null), true),
      onFailure: (failure) =>
        Effect.as(report(state, sidecar, failure), failure._tag === "SidecarUnusable" && failure.refused === true)
    })
  )
  if (yield* once) return
  yield* Effect.sleep("5 seconds")
  yield* Effect.repeat(once, { schedule: pauses, until: (over) => over })
})

/** Apart from the settings, which may be refused while the certificate is taken. */
const certificateOf = "pgbouncer's certificate"

/** A spec without settings leaves it alone, but for what an earlier one has put into its ini. */
const tunePgbouncer = Effect.fnUntraced(function* (state: State, pgbouncer: Pgbouncer, settings: Settings | null) {
  if (settings === null) yield* state.clear("sidecar_unusable", certificateOf)
  const wanted = settings ?? ((yield* pgbouncer.isTuned) ? new Map<string, string>() : null)
  yield* keepTrying(state, "pgbouncer", wanted === null ? null : (attempts) => pgbouncer.tune(wanted, attempts))
})

/** Without it no local_proxy is ever found. */
const locks = "/proc/locks"

/** It may start after us, and reads its file then; so one that is missing is no failure at once. */
const configureProxy = Effect.fnUntraced(function* (
  { localProxy }: SidecarOptions,
  config: NonNullable<ParsedSpec["localProxy"]>,
  tls: Tls | null,
  attempts: number
) {
  const found = yield* configureLocalProxy(localProxy, config, tls)
  if (found || !fs.existsSync(locks)) return
  const detail = "it does not run; its configuration is written, and it reads it when it starts"
  if (attempts > 0) return yield* new SidecarUnusable({ sidecar: "local_proxy", detail })
  yield* Effect.sleep("5 seconds")
  if (!(yield* reloadLocalProxy(localProxy))) return yield* new SidecarUnusable({ sidecar: "local_proxy", detail })
})

const configure = (options: SidecarOptions, state: State, pgbouncer: Pgbouncer) =>
  Effect.fn("Sidecars.configure")(function* ({ features, localProxy, pgbouncerSettings }: ParsedSpec) {
    const tls = showsCertificate(features) ? options.tls : null
    yield* Effect.all(
      [
        tunePgbouncer(state, pgbouncer, pgbouncerSettings === null ? null : pgbouncerEntries(pgbouncerSettings, tls)),
        keepTrying(
          state,
          "local_proxy",
          localProxy === null ? null : (attempts) => configureProxy(options, localProxy, tls, attempts)
        )
      ],
      inParallel
    )
  })

const reloadCertificate = (options: SidecarOptions, state: State, pgbouncer: Pgbouncer, spec: ParsedSpec) =>
  Effect.all(
    [
      spec.pgbouncerSettings === null
        ? Effect.void
        : Effect.matchEffect(pgbouncer.reload, {
            onSuccess: () => state.clear("sidecar_unusable", certificateOf),
            onFailure: (failure) =>
              state.raise({ code: "sidecar_unusable", about: certificateOf, message: explain(failure) })
          }),
      spec.localProxy === null ? Effect.void : reloadLocalProxy(options.localProxy)
    ],
    inParallel
  )

/** What fails a start or a spec is a condition, too: the next spec may not ask for it, and it would be forgotten. */
const logExport = <E extends Failure>(
  state: State,
  about: "rsyslogd" | "rsyslogd (audit)",
  asked: boolean,
  effect: Effect.Effect<void, E>
): Effect.Effect<void, E> =>
  effect.pipe(
    Effect.tap(() => report(state, about, asked ? null : undefined)),
    Effect.tapError((failure) => (failure._tag === "NotSupported" ? Effect.void : report(state, about, failure)))
  )

const make = Effect.fnUntraced(function* (options: SidecarOptions) {
  const state = yield* ComputeState
  const auditBytes = yield* Ref.make<number | null>(null)
  const pgbouncer = makePgbouncer(options.pgbouncer)
  const configureFrom = configure(options, state, pgbouncer)

  const specs = Stream.changesWith(
    Stream.map(state.changes, ({ spec }) => spec),
    (one, other) => one === other
  )
  const tuner: Actor = {
    name: "sidecar tuner",
    kind: "auxiliary",
    run: specs.pipe(
      // A later spec takes the place of one that is still being tried.
      Stream.switchMap((spec) => Stream.fromEffect(spec === null ? Effect.void : configureFrom(spec))),
      Stream.runDrain
    )
  }
  const sweeper = auditSweeper(path.join(options.pgdata, "log"), (left) => Ref.set(auditBytes, left))
  const sweeperIfAudited: Actor = {
    ...sweeper,
    run: Effect.flatMap(state.now, ({ spec }) => (spec !== null && exportsAudit(spec) ? sweeper.run : Effect.void))
  }

  return Sidecars.of({
    beforeStart: (spec) =>
      logExport(
        state,
        "rsyslogd (audit)",
        exportsAudit(spec),
        exportAudit(options.rsyslog, spec, options.auditEndpoints, options.pgdata)
      ),
    onSpec: (spec) => logExport(state, "rsyslogd", spec.logsExportHost !== null, exportLog(options.rsyslog, spec)),
    onCertificateChanged: Effect.flatMap(state.now, ({ spec }) =>
      spec === null || !showsCertificate(spec.features)
        ? Effect.void
        : reloadCertificate(options, state, pgbouncer, spec)
    ),
    stop: options.dev ? Effect.void : Effect.all([pgbouncer.stop, stopLocalProxy(options.localProxy)], inParallel),
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
