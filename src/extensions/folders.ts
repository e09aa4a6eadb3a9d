/**
 * Where this Postgres looks for extensions and libraries: what its `pg_config` says, else what its folder shows.
 *
 * Postgres derives these folders from where its own program lies, and so do we when there is no `pg_config` beside
 * it. A folder counts when it holds what every Postgres brings: plpgsql.
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { PostgresUnusable } from "../errors/Failure.ts"
import type { PostgresInstall } from "../postgres/PostgresInstall2.ts"
import { runCommand } from "../platform/run.ts"
import type { Spawn } from "../platform/Spawn.ts"

export interface Folders {
  /** Control files and scripts. */
  readonly extension: string
  readonly library: string
  /** Where archives are unpacked before anything is moved into the other two; ours alone. */
  readonly incoming: string
}

const has = (folder: string, ...names: ReadonlyArray<string>): boolean => names.some((name) => fs.existsSync(path.join(folder, name)))

/** Below the installation's own folder, in the layouts of `make install`, of packagers, and of npm's Postgres. */
const byLayout = (postgres: string, major: number): { share: string | undefined; library: string | undefined } => {
  const prefix = path.resolve(fs.realpathSync(postgres), "../..")
  const shares = ["share/postgresql", "share"].map((at) => path.join(prefix, at))
  const libraries = ["lib/postgresql", "lib"].map((at) => path.join(prefix, at))
  return {
    share: [...shares, `/usr/share/postgresql/${major}`].find((at) => has(at, "extension/plpgsql.control")),
    library: libraries.find((at) => has(at, "plpgsql.so", "plpgsql.dylib"))
  }
}

const askPgConfig = Effect.fnUntraced(function*(install: PostgresInstall["Service"]) {
  const program = [install.postgres, fs.realpathSync(install.postgres)].map((at) => path.join(path.dirname(at), "pg_config"))
    .find((at) => fs.existsSync(at))
  if (program === undefined) return null
  const said = yield* Effect.option(
    runCommand({ command: program, args: ["--sharedir", "--pkglibdir"], runAs: install.runAs, cwd: "/" }, "5 seconds")
  )
  if (said._tag === "None") return null
  const [share, library] = said.value.stdout.split("\n").map((line) => line.trim())
  return share !== undefined && library !== undefined && has(share, "extension") && fs.existsSync(library) ? { share, library } : null
})

export const locateFolders = Effect.fn("RemoteExtensions.locateFolders")(function*(
  install: PostgresInstall["Service"]
): Effect.fn.Return<Folders, PostgresUnusable, Spawn> {
  const told = yield* askPgConfig(install)
  const { library, share } = told ?? byLayout(install.postgres, install.major)
  if (share === undefined || library === undefined) {
    return yield* new PostgresUnusable({
      binary: install.postgres,
      detail: `it does not show where its ${share === undefined ? "extensions" : "libraries"} are`,
      hint: "put its pg_config beside it"
    })
  }
  return {
    extension: path.join(share, "extension"),
    library,
    incoming: path.join(path.resolve(fs.realpathSync(install.postgres), "../.."), "download_extensions")
  }
})
