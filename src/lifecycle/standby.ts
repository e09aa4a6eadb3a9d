/**
 * What a standby is asked on its way to a primary. Each question has a session of its own, for a session may outlive
 * what it knew of the server it began on.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import { type Failure, NotSupported } from "../errors/Failure.ts"
import { invalidLsn, type Lsn, parseLsn } from "../spec/Lsn.ts"
import { Admin } from "../pgwire/Admin.ts"

export interface Standby {
  /** How far WAL is replayed; `null`: it is no standby any more. */
  readonly replayed: Effect.Effect<Lsn | null, Failure>
  /** Whether Postgres says that it is promoted. It is given a minute. */
  readonly promote: Effect.Effect<boolean, Failure>
  readonly takesWrites: Effect.Effect<boolean, Failure>
}

const nobody = Effect.fail(new NotSupported({ what: "a promotion", because: "there is no Postgres here to promote" }))

export const Standby = Context.Reference<Standby>("compute/pg/Standby", {
  defaultValue: () => ({ replayed: nobody, promote: nobody, takesWrites: nobody })
})

const promoteWithin = Duration.seconds(60)

const make = (admin: Admin["Service"]): Standby => {
  const ask = (sql: string, within?: Duration.Duration) =>
    Effect.scoped(Effect.flatMap(admin.connect("promote"), (wire) => wire.rows(sql, within)))
  const seconds = Duration.toSeconds(promoteWithin)
  return {
    replayed: Effect.map(ask("SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn()", Duration.seconds(10)), ([row]) =>
      row?.[0] === "t" ? Option.getOrElse(parseLsn(row[1] ?? ""), () => invalidLsn) : null),
    promote: Effect.map(
      ask(`SELECT pg_catalog.pg_promote(true, ${seconds})`, Duration.sum(promoteWithin, Duration.seconds(10))),
      ([row]) => row?.[0] === "t"
    ),
    takesWrites: Effect.map(ask("SHOW transaction_read_only", Duration.seconds(10)), ([row]) => row?.[0] === "off")
  }
}

export const standby: Layer.Layer<never, never, Admin> = Layer.effect(Standby, Effect.map(Admin, make))
