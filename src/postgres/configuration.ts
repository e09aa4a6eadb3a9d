/**
 * Asks Postgres what it thinks of its configuration files as they lie there now, whether or not it has taken them up.
 *
 * Changes nothing. Short of time on purpose: a session of a Postgres whose pageserver is gone may never begin.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { type Failure, TimedOut } from "../errors/Failure.ts"
import { fileSettingsSql, type FileVerdict, judgeFiles, pendingSettingsSql } from "./configurationCheck.ts"
import { Admin } from "../pgwire/Admin.ts"

const within = Duration.seconds(5)

/** Finds nothing wrong unless there is a Postgres to ask: see `configurationCheck`. */
export const ConfigurationCheck = Context.Reference<Effect.Effect<FileVerdict, Failure>>("compute/pg/ConfigurationCheck", {
  defaultValue: () => Effect.succeed({ problems: [], pending: [] })
})

/** One session for both questions: it is the first that tells it what the second answers. */
const ask = (admin: Admin["Service"]): Effect.Effect<FileVerdict, Failure> =>
  Effect.gen(function*() {
    const wire = yield* admin.connect("configure_check")
    const files = yield* wire.rows(fileSettingsSql)
    return judgeFiles(files, yield* wire.rows(pendingSettingsSql))
  }).pipe(
    Effect.scoped,
    Effect.timeoutOrElse({
      duration: within,
      orElse: () => Effect.fail(new TimedOut({ what: "the check of the configuration files", millis: Duration.toMillis(within) }))
    })
  )

export const configurationCheck: Layer.Layer<never, never, Admin> = Layer.effect(ConfigurationCheck, Effect.map(Admin, ask))
