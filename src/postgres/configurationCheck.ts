/**
 * Asks Postgres what is wrong with its configuration files as they are now, before it is told to reload them: errors,
 * libraries that no session could load, and what would keep it from starting again (`startCheck.ts`).
 *
 * `pg_file_settings` reads the files anew in the session that asks, and calls every setting it could not take an
 * error. A setting that only a restart can change is among them, but is no mistake: the same session knows it then as
 * `pending_restart`, and that is how the two are told apart. Changes nothing, and opens one session for each check; a
 * library that every session is to load is loaded into that one first.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { type Failure, type Problem } from "../errors/Failure.ts"
import { within } from "../errors/within.ts"
import { Admin } from "../pgwire/Admin.ts"
import { quoteLiteral } from "../pgwire/quote.ts"
import type { Wire } from "../pgwire/Wire.ts"
import { Spawn } from "../platform/Spawn.ts"
import { readList } from "./confText.ts"
import { PostgresInstall } from "./PostgresInstall.ts"
import { libraryName, startProblems, type StartQuestion } from "./startCheck.ts"
import type { PgdataFile } from "./startPlan.ts"

/** A setting whose value in the files waits for a restart. Values as Postgres prints them, cut to a readable length. */
export interface PendingRestart {
  readonly name: string
  readonly current: string
  readonly wanted: string
}

/** Columns in the order of `problemsOf`; lines that a later one overrides say nothing. */
const fileSettingsSql =
  "SELECT name, sourcefile, sourceline, error, setting FROM pg_catalog.pg_file_settings ORDER BY seqno"

/** Asked in the session that asked `fileSettingsSql` before. */
const pendingSettingsSql = `SELECT name, pg_catalog.current_setting(name, true),
  setting IS NOT DISTINCT FROM boot_val
FROM pg_catalog.pg_settings WHERE pending_restart`

export type Row = ReadonlyArray<string | null>

export interface ConfigurationProblems {
  /** Why the files must not be taken up. */
  readonly problems: ReadonlyArray<Problem>
  readonly pending: ReadonlyArray<PendingRestart>
}

const longest = 200
const secretive = /password|passphrase|secret|token|conninfo/i

/** A value may be anything that a spec holds; what its name makes a secret is not shown. */
const shown = (name: string, value: string): string =>
  secretive.test(name) ? "(not shown)" : value.length > longest ? `${value.slice(0, longest)}…` : value

const placeOf = (path: string | null, line: string | null): string => {
  const file = path?.split("/").at(-1) ?? "postgresql.conf"
  return line === null ? file : `${file} line ${line}`
}

/** A file may spell a name as it likes; to Postgres `Max_Connections` is `max_connections`. */
const isSameName = (one: string | null | undefined, other: string): boolean =>
  one?.toLowerCase() === other.toLowerCase()

export const readFileSettings = (files: ReadonlyArray<Row>, waiting: ReadonlyArray<Row>): ConfigurationProblems => {
  const current = new Map(waiting.map(([name, value]) => [name ?? "", value ?? ""]))
  /** The waiting setting of an error. One that was taken out of the files has no row, but an error that names it. */
  const waitingOf = ([name = null, , , error = null]: Row): string | undefined =>
    error === null
      ? undefined
      : [...current.keys()].find((one) => (name === null ? error.includes(`"${one}"`) : isSameName(name, one)))
  const problems = files
    .filter((row) => (row[3] ?? null) !== null && waitingOf(row) === undefined)
    .map(([name = null, file = null, line = null, error = null]) => ({
      path: placeOf(file, line),
      message: name === null ? `${error}` : `${name}: ${error}`
    }))
  // Postgres goes on calling a setting pending when its line is gone again; without an error, nothing waits.
  const pending = [...new Set(files.map(waitingOf))]
    .filter((name) => name !== undefined)
    .flatMap((name) => {
      // Without a line of its own it was taken out of the files: the built-in value waits, unless it is in force.
      const wanted = files.findLast(([one]) => isSameName(one, name))?.[4] ?? null
      const same = wanted === null && waiting.some(([one, , isBuiltIn]) => isSameName(one, name) && isBuiltIn === "t")
      return same
        ? []
        : [{ name, current: shown(name, current.get(name) ?? ""), wanted: shown(name, wanted ?? "its default") }]
    })
  return { problems, pending }
}

/** One line for the log. */
export const printPending = (pending: ReadonlyArray<PendingRestart>): string =>
  `${pending.length} setting(s) wait for a restart of Postgres: ${pending
    .map(({ current, name, wanted }) => `${name} (${current} now, ${wanted} then)`)
    .join(", ")}`

/** The line of a setting that counts, and where it stands. */
const settingIn =
  (files: ReadonlyArray<Row>): StartQuestion["settingOf"] =>
  (wanted) => {
    const row = files.findLast(([name]) => isSameName(name, wanted))
    if (row === undefined) return null
    const [, file = null, line = null, , value = null] = row
    return value === null ? null : { value, place: placeOf(file, line) }
  }

// Libraries that every session loads.

/** What `LOAD` is to be given for an entry of the setting; `null`: the setting may not have it. */
const loaded: Readonly<Record<string, (entry: string) => string | null>> = {
  session_preload_libraries: (entry) => entry,
  // Any user may set it, so Postgres takes its libraries from one folder only.
  local_preload_libraries: (entry) =>
    !entry.includes("/") ? `$libdir/plugins/${entry}` : /^\$libdir\/plugins\/[^/]+$/.test(entry) ? entry : null
}

/** A library may be fetched when it is loaded. */
const loadWithin = Duration.seconds(60)

/** Why no session could load it; `null`: this one has. */
const loadFailure = (wire: Wire, entry: string, library: string | null): Effect.Effect<string | null, Failure> =>
  library === null
    ? Effect.succeed(`access to library "${entry}" is not allowed`)
    : wire.simple(`LOAD ${quoteLiteral(library)}`, loadWithin).pipe(
        Effect.as(null),
        Effect.catchTag("WireFailed", ({ detail }) => Effect.succeed(detail))
      )

/** The first that fails is enough: the session may have ended with it. */
const libraryProblems = Effect.fnUntraced(function* (
  wire: Wire,
  settingOf: StartQuestion["settingOf"],
  fetchable: ReadonlySet<string>
): Effect.fn.Return<ReadonlyArray<Problem>, Failure> {
  for (const [name, loadable] of Object.entries(loaded)) {
    const setting = settingOf(name)
    for (const entry of readList(setting?.value ?? "").filter((one) => !fetchable.has(libraryName(one)))) {
      const failure = yield* loadFailure(wire, entry, loadable(entry))
      if (setting === null || failure === null) continue
      return [{ path: setting.place, message: `${name}: no new session would begin: ${failure}` }]
    }
  }
  return []
})

// The check.

/** Short on purpose: a session of a Postgres whose pageserver is gone may never begin. */
const deadline = Duration.seconds(5)

export interface ConfigurationQuestion {
  /** What the files that are new held before. */
  readonly before: ReadonlyArray<PgdataFile>
  /** Libraries that are fetched when they are needed, and so need not be here. */
  readonly fetchable: ReadonlySet<string>
}

/** Finds nothing wrong unless there is a Postgres to ask: see `configurationCheck`. */
export const ConfigurationCheck = Context.Reference<
  (question: ConfigurationQuestion) => Effect.Effect<ConfigurationProblems, Failure>
>("compute/pg/ConfigurationCheck", {
  defaultValue: () => () => Effect.succeed({ problems: [], pending: [] })
})

/** One session for both queries: the second answers from what the first has read. */
const ask = Effect.fnUntraced(function* (admin: Admin["Service"], { fetchable }: ConfigurationQuestion) {
  const [wire, files, waiting, folder] = yield* Effect.gen(function* () {
    const wire = yield* admin.connect("configure_check")
    const files = yield* wire.rows(fileSettingsSql)
    const waiting = yield* wire.rows(pendingSettingsSql)
    const [row] = yield* wire.rows("SELECT pg_catalog.current_setting('data_directory')")
    return [wire, files, waiting, row?.[0] ?? ""] as const
  }).pipe(within("the check of the configuration files", deadline))
  const settingOf = settingIn(files)
  const { pending, problems } = readFileSettings(files, waiting)
  const found = problems.length > 0 ? problems : yield* libraryProblems(wire, settingOf, fetchable)
  return { found: { pending, problems: found }, settingOf, pgdata: folder }
}, Effect.scoped)

const check =
  (admin: Admin["Service"], install: PostgresInstall["Service"], spawn: Spawn["Service"]) =>
  (question: ConfigurationQuestion): Effect.Effect<ConfigurationProblems, Failure> =>
    Effect.gen(function* () {
      const { found, pgdata, settingOf } = yield* ask(admin, question)
      if (found.problems.length > 0) return found
      const pending = found.pending.map(({ name }) => name)
      const problems = yield* startProblems(install)({ ...question, pgdata, settingOf, pending })
      return { ...found, problems }
    }).pipe(Effect.provideService(Spawn, spawn))

export const configurationCheck: Layer.Layer<never, never, Admin | PostgresInstall | Spawn> = Layer.effect(
  ConfigurationCheck,
  Effect.gen(function* () {
    return check(yield* Admin, yield* PostgresInstall, yield* Spawn)
  })
)
