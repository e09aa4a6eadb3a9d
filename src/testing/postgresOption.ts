/**
 * Which Postgres a test asked for: a program by its path, or a major version by its number.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { PostgresUnusable } from "../errors/Failure.ts"
import { findEmbedded, postgresVersion } from "../postgres/embeddedPostgres.ts"
import type { PostgresOption } from "./options.ts"

/** Where Debian, Red Hat and Homebrew have one folder per major version. */
const distributions = [
  "/usr/lib/postgresql/N/bin/postgres",
  "/usr/pgsql-N/bin/postgres",
  "/opt/homebrew/opt/postgresql@N/bin/postgres",
  "/usr/local/opt/postgresql@N/bin/postgres"
]

/** The path of the program; `null`: the embedded one. */
export const programOf = (option: PostgresOption | undefined): Effect.Effect<string | null, PostgresUnusable> =>
  Effect.suspend(() => {
    if (typeof option !== "number") return Effect.succeed(option ?? null)
    const embedded = findEmbedded(import.meta.dirname)
    const version = embedded === null ? null : postgresVersion(embedded.packageVersion)
    if (version !== null && Number.parseInt(version, 10) === option) return Effect.succeed(null)
    const places = distributions.map((place) => place.replace("N", String(option)))
    const found = places.find((place) => fs.existsSync(place))
    if (found !== undefined) return Effect.succeed(found)
    return Effect.fail(
      new PostgresUnusable({
        binary: places[0] ?? "",
        detail:
          `there is no Postgres ${option} here, nor in ${places.slice(1).join(", ")}; ` +
          `the embedded one is ${version ?? "missing"}`,
        hint: `install Postgres ${option}, or give the path of its postgres program`
      })
    )
  })
