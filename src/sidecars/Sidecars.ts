/**
 * The programs that run with Postgres on this machine: pgbouncer, local_proxy, rsyslogd. They are configured from every
 * spec, and stopped at the end.
 *
 * Starts none of them. Only exports of logs can fail a start or a spec, as in the reference; a pgbouncer or local_proxy
 * that is missing delays nothing: it is a condition, and is tried again until it is there.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { ComputeState } from "../compute/ComputeState.ts"
import { isRaised } from "../compute/snapshot.ts"
import type { Actor } from "../compute/Supervisor.ts"
import { type Failure, SidecarUnusable } from "../errors/Failure.ts"
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

type Sidecar = SidecarUnusable["sidecar"]
type State = ComputeState["Service"]

const inParallel = { concurrency: "unbounded", discard: true } as const

/** A failure is a condition until the same thing succeeds. Answers whether it did. */
const shown =
  (state: State, sidecar: Sidecar) =>
  <E extends Failure>(effect: Effect.Effect<unknown, E>): Effect.Effect<boolean> =>
    Effect.matchEffect(effect, {
      onSuccess: () => Effect.as(state.clear("sidecar_unusable", sidecar), true),
      onFailure: (failure) =>
        Effect.as(state.raise({ code: "sidecar_unusable", about: sidecar, message: explain(failure) }), false)
    })

/** Between two attempts: 5 s, doubling, at most 5 minutes. */
const pauses = Schedule.exponential("5 seconds").pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.minutes(5)))),
  Schedule.jittered
)

/** Until it succeeds; `null`: the spec does not ask for this sidecar. */
const keepTrying = Effect.fnUntraced(function* (
  state: State,
  sidecar: Sidecar,
  attempt: ((attempts: number) => Effect.Effect<unknown, Failure>) | null
) {
  if (attempt === null) return yield* state.clear("sidecar_unusable", sidecar)
  let attempts = 0
  const once = Effect.suspend(() => shown(state, sidecar)(attempt(attempts++)))
  if (yield* once) return
  yield* Effect.sleep("5 seconds")
  yield* Effect.repeat(once, { schedule: pauses, until: (well) => well })
})

/** The settings being in its file is not enough for one that could not be reached: it has to be there. */
const tune = Effect.fnUntraced(function* (
  { pgbouncer }: SidecarOptions,
  state: State,
  settings: ReadonlyMap<string, string>,
  tls: Tls | null
) {
  const changed = yield* tunePgbouncer(pgbouncer, settings, tls)
  const { degraded } = yield* state.now
  if (!changed && isRaised(degraded, "sidecar_unusable", "pgbouncer")) yield* reloadPgbouncer(pgbouncer)
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

const configure = (options: SidecarOptions, state: State) =>
  Effect.fn("Sidecars.configure")(function* ({ features, localProxy, pgbouncerSettings }: ParsedSpec) {
    const tls = showsCertificate(features) ? options.tls : null
    yield* Effect.all(
      [
        keepTrying(
          state,
          "pgbouncer",
          pgbouncerSettings === null ? null : () => tune(options, state, pgbouncerSettings, tls)
        ),
        keepTrying(
          state,
          "local_proxy",
          localProxy === null ? null : (attempts) => configureProxy(options, localProxy, tls, attempts)
        )
      ],
      inParallel
    )
  })

const reloadCertificate = (options: SidecarOptions, state: State, spec: ParsedSpec) =>
  Effect.all(
    [
      spec.pgbouncerSettings === null ? Effect.void : shown(state, "pgbouncer")(reloadPgbouncer(options.pgbouncer)),
      spec.localProxy === null ? Effect.void : reloadLocalProxy(options.localProxy)
    ],
    inParallel
  )

/** What fails a start or a spec is a condition, too: the next spec may not ask for it, and it would be forgotten. */
const logExport = <E extends Failure>(state: State, effect: Effect.Effect<void, E>): Effect.Effect<void, E> =>
  effect.pipe(
    Effect.tap(() => state.clear("sidecar_unusable", "rsyslogd")),
    Effect.tapError((failure) =>
      failure._tag === "NotSupported"
        ? Effect.void
        : state.raise({ code: "sidecar_unusable", about: "rsyslogd", message: explain(failure) })
    )
  )

const make = Effect.fnUntraced(function* (options: SidecarOptions) {
  const state = yield* ComputeState
  const auditBytes = yield* Ref.make<number | null>(null)
  const configureFrom = configure(options, state)

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
    beforeStart: (spec) => logExport(state, exportAudit(options.rsyslog, spec, options.auditEndpoints, options.pgdata)),
    onSpec: (spec) => logExport(state, exportLog(options.rsyslog, spec)),
    onCertificateChanged: Effect.flatMap(state.now, ({ spec }) =>
      spec === null || !showsCertificate(spec.features) ? Effect.void : reloadCertificate(options, state, spec)
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
