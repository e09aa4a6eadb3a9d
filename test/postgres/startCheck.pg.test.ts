/**
 * Whether Postgres would start with its files, asked of a real one beside another that runs on them.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { Spawn } from "../../src/platform/Spawn.ts"
import { startProblems, type StartQuestion } from "../../src/postgres/startCheck.ts"
import { atHand, installs, runAs, startPostgres, type TestPostgres } from "../support/postgres.ts"

const ask = Effect.fnUntraced(function* (
  { install, pgdata }: TestPostgres,
  question: Partial<StartQuestion> & { readonly lines: Readonly<Record<string, string>> }
) {
  const { initdb, major, postgres } = yield* Effect.promise(() => atHand(install))
  const files = { postgres, initdb, pgDump: null, major, version: `${major}.test`, runAs }
  const settingOf: StartQuestion["settingOf"] = (name) => {
    const value = question.lines[name]
    return value === undefined ? null : { value, place: `line of ${name}` }
  }
  return yield* startProblems(files)({
    pgdata,
    before: [],
    fetchable: new Set(),
    pending: [],
    settingOf,
    ...question
  })
})

const ownFolders = () => fs.readdirSync(os.tmpdir()).filter((name) => name.startsWith("compute-ctl-start-"))

describe.each(installs)("Postgres $major", (install) => {
  it.live("is asked without being touched, and refuses what only the new files ask for", () =>
    Effect.gen(function* () {
      const running = yield* startPostgres({ major: install.major })
      const conf = path.join(running.pgdata, "postgresql.conf")
      const good = fs.readFileSync(conf, "utf8")
      const before = [{ name: "postgresql.conf", content: good }]
      const of = (...added: ReadonlyArray<string>) => fs.writeFileSync(conf, `${good}${added.join("\n")}\n`)
      const folders = ownFolders()

      assert.deepStrictEqual(yield* ask(running, { before, lines: {} }), [])
      of("shared_preload_libraries = 'no_such_lib'", "logging_collector = on", "log_destination = syslog")
      const lines = { shared_preload_libraries: "no_such_lib, auto_explain" }
      const reason = 'Postgres would not start again: could not access file "no_such_lib": No such file or directory'
      assert.deepStrictEqual(yield* ask(running, { before, lines }), [
        { path: "line of shared_preload_libraries", message: reason }
      ])
      assert.deepStrictEqual(yield* ask(running, { before, lines, fetchable: new Set(["no_such_lib"]) }), [])
      const alike = [{ name: "postgresql.conf", content: fs.readFileSync(conf, "utf8") }]
      assert.deepStrictEqual(yield* ask(running, { before: alike, lines }), [], "it is not the new files' fault")

      of("max_wal_senders = 5", "wal_level = minimal")
      const [combination] = yield* ask(running, { before, lines: { wal_level: "minimal" } })
      assert.match(combination?.message ?? "", /WAL streaming|wal_level/)
      assert.deepStrictEqual(yield* ask(running, { before, lines: { hba_file: "/nowhere/pg_hba.conf" } }), [
        { path: "line of hba_file", message: "hba_file: there is no such file" }
      ])
      assert.deepStrictEqual(ownFolders(), folders, "nothing is left behind")
      assert.deepStrictEqual(yield* running.rows("select 1"), [["1"]])
    }).pipe(Effect.scoped, Effect.provide(Spawn.layer))
  )
})
