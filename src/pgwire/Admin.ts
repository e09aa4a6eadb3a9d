/**
 * Our own superuser sessions: where Postgres listens, and a start-up packet that no tenant setting can bend.
 *
 * `ALTER ROLE … SET` and `ALTER DATABASE … SET` lose against start-up options, so role, search path, timeouts and
 * read-only mode are pinned there. Options in the connection string come last and win
 * (docs/reference/compute_ctl.md#apply-connections).
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Ref from "effect/Ref"
import type * as Scope from "effect/Scope"
import type { WireFailed } from "../errors/Failure.ts"
import type { ConnString } from "./ConnString.ts"
import { connect, type Wire } from "./Wire.ts"

/** What a session is for; becomes its `application_name`, by which the activity monitor knows us. */
export type Purpose =
  | "apply_config"
  | "reconfigure"
  | "migrations"
  | "post_apply_config"
  | "compute_monitor"
  | "availability_checker"
  | "get_dbs_and_roles"
  | "collect_insights"
  | "set_role_grants"
  | "install_extension"
  | "get_installed_extensions"
  | "lfc_prewarm"
  | "lfc_offload"
  | "local_storage"
  | "configure_check"
  | "promote"

export const applicationName = (purpose: Purpose): string => `compute_ctl:${purpose}`

/** The superuser of a cluster that the connection string does not name one for. */
export const defaultSuperuser = "cloud_admin"

/** Pinned for every session; `role=` is the superuser itself, so that `ALTER ROLE … SET role` cannot bend it. */
const pinned = (superuser: string): string =>
  [
    `-c role=${superuser.replace(/[\\ ]/g, "\\$&")}`,
    "-c default_transaction_read_only=off",
    "-c search_path=",
    "-c statement_timeout=0",
    "-c lock_timeout=0",
    "-c idle_in_transaction_session_timeout=0",
    "-c standard_conforming_strings=on"
  ].join(" ")

/** Fails for a session that must not be used. */
export type Prove = (wire: Wire) => Effect.Effect<void, WireFailed>

export class Admin extends Context.Service<
  Admin,
  {
    readonly at: ConnString
    readonly superuser: string
    /** The database of the connection string: where cluster-wide work is done. */
    readonly systemDatabase: string
    /** From now on a session is used only when this succeeds: it proves that the server is the one we started. */
    readonly guard: (prove: Prove) => Effect.Effect<void>
    /** That proof, for a session which was not opened by `connect`. */
    readonly prove: Prove
    /** A session of its own, gone with the scope. Database names are sent as they are: whatever it is, it works. */
    readonly connect: (purpose: Purpose, database?: string) => Effect.Effect<Wire, WireFailed, Scope.Scope>
  }
>()("compute/pg/Admin") {
  static readonly layer = (at: ConnString): Layer.Layer<Admin> =>
    Layer.effect(
      Admin,
      Effect.gen(function* () {
        const guard = yield* Ref.make<Prove>(() => Effect.void)
        const superuser = at.user ?? defaultSuperuser
        const systemDatabase = at.database ?? "postgres"
        const options = at.options === null ? pinned(superuser) : `${pinned(superuser)} ${at.options}`
        const prove: Prove = (wire) => Effect.flatMap(Ref.get(guard), (one) => one(wire))
        return Admin.of({
          at,
          superuser,
          systemDatabase,
          guard: (next) => Ref.set(guard, next),
          prove,
          connect: Effect.fnUntraced(function* (purpose, database = systemDatabase) {
            const wire = yield* connect({
              host: at.host,
              port: at.port,
              user: superuser,
              database,
              applicationName: applicationName(purpose),
              options,
              connectWithin: Duration.seconds(10),
              ...(at.password === null ? {} : { password: at.password })
            })
            yield* prove(wire)
            return wire
          })
        })
      })
    )
}
