/**
 * Would Postgres start with its configuration files as they are now? Asks the program itself, next to the one that
 * runs, which is not touched.
 *
 * `postgres -C` of a setting that Postgres computes goes the way of a start up to its shared memory: it reads the
 * files, compares the settings with one another, loads `shared_preload_libraries` and the certificate, and opens no
 * socket. It runs in a folder of its own, made of links to PGDATA's files and gone afterwards. Before Postgres 15 it
 * ends after the files. A try that fails is believed only when the files before them pass it.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { codeOf } from "../errors/errno.ts"
import type { CommandFailed, Failure, FileFailed, Problem } from "../errors/Failure.ts"
import { quoteIdentifier } from "../pgwire/quote.ts"
import { attempt } from "../platform/files.ts"
import { runCommand } from "../platform/processes.ts"
import type { RunAs, Spawn } from "../platform/Spawn.ts"
import { readList } from "./confText.ts"
import type { PostgresInstall } from "./PostgresInstall.ts"
import type { PgdataFile } from "./startPlan.ts"

export interface StartQuestion {
  readonly pgdata: string
  /** What the files of PGDATA that are new now held before. */
  readonly before: ReadonlyArray<PgdataFile>
  /** Libraries that are not here yet and are fetched before the next start. */
  readonly fetchable: ReadonlySet<string>
  /** The value of a setting in the new files, and the place of its line; `null`: they do not set it. */
  readonly settingOf: (name: string) => { readonly value: string; readonly place: string } | null
  /** Settings that a running Postgres did not take up. */
  readonly pending: ReadonlyArray<string>
}

/** A hang of a library that is loaded. */
const tryWithin = "20 seconds"

const preload = "shared_preload_libraries"

/** As the index of remote extensions knows a library. */
export const libraryName = (library: string): string => library.replace(/^\$libdir\//, "").replace(/\.(so|dylib)$/, "")

// The folder.

/** Of a running postmaster, not of a start. */
const ofThisRun: ReadonlySet<string> = new Set(["postmaster.pid", "postmaster.opts"])

const makeLinks = (pgdata: string, folder: string, instead: ReadonlyArray<PgdataFile>, owner: RunAs | null): void => {
  for (const { content, name } of instead) fs.writeFileSync(path.join(folder, name), content, { mode: 0o600 })
  for (const name of fs.readdirSync(pgdata)) {
    const file = path.join(pgdata, name)
    if (ofThisRun.has(name) || instead.some((one) => one.name === name)) continue
    if (fs.statSync(file, { throwIfNoEntry: false })?.isFile() === true) fs.symlinkSync(file, path.join(folder, name))
  }
  fs.mkdirSync(path.join(folder, "global"), { mode: 0o700 })
  fs.symlinkSync(path.join(pgdata, "global/pg_control"), path.join(folder, "global/pg_control"))
  if (owner === null || process.geteuid?.() !== 0) return
  for (const name of ["", "global", ...instead.map((one) => one.name)]) {
    fs.chownSync(path.join(folder, name), owner.uid, owner.gid)
  }
}

const linkedFolder = (
  pgdata: string,
  instead: ReadonlyArray<PgdataFile>,
  owner: RunAs | null
): Effect.Effect<string, FileFailed, Scope.Scope> =>
  Effect.acquireRelease(
    attempt("make a folder in", os.tmpdir(), () => fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-start-"))),
    (folder) => Effect.ignore(attempt("remove", folder, () => fs.rmSync(folder, { recursive: true, force: true })))
  ).pipe(Effect.tap((folder) => attempt("fill", folder, () => makeLinks(pgdata, folder, instead, owner))))

// The try.

/** What Postgres said last, without the name of its program and without a time stamp. */
const reasonOf = ({ message, output }: CommandFailed): string => {
  const lines = output.split("\n").map((line) => line.trim())
  const fatal = lines.map((line) => /(?:FATAL|PANIC|ERROR):\s+(.*)$/.exec(line)?.[1]).find((text) => text !== undefined)
  return fatal ?? lines.findLast((line) => line !== "")?.replace(/^[^ ]*postgres: /, "") ?? message
}

const tryStart = (
  install: PostgresInstall["Service"],
  { fetchable, pgdata, settingOf }: StartQuestion,
  instead: ReadonlyArray<PgdataFile>
): Effect.Effect<string | null, Failure, Spawn> =>
  Effect.gen(function* () {
    const folder = yield* linkedFolder(pgdata, instead, install.runAs)
    const libraries = instead.length > 0 ? [] : readList(settingOf(preload)?.value ?? "")
    const present = libraries.filter((name) => !fetchable.has(libraryName(name)))
    const fixed = [
      `data_directory=${folder}`,
      "log_destination=stderr",
      "logging_collector=off",
      "log_line_prefix=",
      "lc_messages=C",
      ...(present.length === libraries.length ? [] : [`${preload}=${present.map(quoteIdentifier).join(",")}`])
    ]
    const computed = install.major >= 15 ? "shared_memory_size" : "max_connections"
    yield* runCommand(
      {
        command: install.postgres,
        args: ["-D", folder, "-C", computed, ...fixed.flatMap((setting) => ["-c", setting])],
        runAs: install.runAs,
        cwd: "/"
      },
      tryWithin
    )
    return null
  }).pipe(
    Effect.catchTag("CommandFailed", (failure) => Effect.succeed(reasonOf(failure))),
    Effect.scoped
  )

/** The line that a reason of Postgres is about, as far as it says so. */
const placeOf = (reason: string, settingOf: StartQuestion["settingOf"]): string => {
  const named = [...reason.matchAll(/[a-z_]{3,}/g)].flatMap(([word]) => settingOf(word) ?? [])
  const meant = /certificate|private key/.test(reason)
    ? "ssl"
    : /could not (access|load)|library/.test(reason)
      ? preload
      : ""
  return (named[0] ?? settingOf(meant))?.place ?? "postgresql.conf"
}

// What Postgres looks at only once it has begun to start.

const noSuchAddress: ReadonlySet<string | null> = new Set(["EADDRNOTAVAIL", "ENOTFOUND", "EINVAL"])

const canListenOn = (host: string): Effect.Effect<boolean> =>
  Effect.callback((resume) => {
    const server = net.createServer()
    server.once("error", (cause) => resume(Effect.succeed(!noSuchAddress.has(codeOf(cause)))))
    server.listen({ host, port: 0 }, () => server.close(() => resume(Effect.succeed(true))))
    return Effect.sync(() => server.close())
  })

const addressProblems = Effect.fnUntraced(function* ({ pending, settingOf }: StartQuestion) {
  const wanted = pending.includes("listen_addresses") ? settingOf("listen_addresses") : null
  const hosts = readList(wanted?.value ?? "").filter((host) => host !== "*")
  if (wanted === null || hosts.length === 0 || hosts.length < readList(wanted.value).length) return []
  const usable = yield* Effect.forEach(hosts, canListenOn)
  return usable.includes(true)
    ? []
    : [{ path: wanted.place, message: "listen_addresses: none of these is an address of this machine" }]
})

const isFolder = (at: string): boolean => fs.statSync(at, { throwIfNoEntry: false })?.isDirectory() === true

const fileProblems = ({ pgdata, settingOf }: StartQuestion): ReadonlyArray<Problem> => {
  const problems: Array<Problem> = []
  const hba = settingOf("hba_file")
  if (hba !== null && !fs.existsSync(path.resolve(pgdata, hba.value))) {
    problems.push({ path: hba.place, message: "hba_file: there is no such file" })
  }
  const logs = settingOf("log_directory")
  const collects = /^(on|t|true|y|yes|1)$/i.test(settingOf("logging_collector")?.value ?? "")
  if (logs !== null && collects) {
    const at = path.resolve(pgdata, logs.value)
    // Postgres makes the last part of the path by itself.
    if (!isFolder(at) && (fs.existsSync(at) || !isFolder(path.dirname(at)))) {
      problems.push({ path: logs.place, message: "log_directory: the logging_collector could not write there" })
    }
  }
  return problems
}

/** Why the next start would fail. Nothing when the question cannot be asked: it is no reason to refuse a spec. */
export const startProblems = (install: PostgresInstall["Service"]) =>
  Effect.fn("Postgres.startProblems")(function* (
    question: StartQuestion
  ): Effect.fn.Return<ReadonlyArray<Problem>, never, Spawn> {
    const others = [...fileProblems(question), ...(yield* addressProblems(question))]
    if (others.length > 0) return others
    const tried = yield* Effect.result(tryStart(install, question, []))
    if (Result.isFailure(tried)) {
      yield* Effect.logWarning(`whether Postgres would start with its new files is not known: ${tried.failure.message}`)
      return []
    }
    const reason = tried.success
    if (reason === null) return []
    const before = yield* Effect.result(tryStart(install, question, question.before))
    if (Result.isSuccess(before) && before.success === null) {
      return [{ path: placeOf(reason, question.settingOf), message: `Postgres would not start again: ${reason}` }]
    }
    yield* Effect.logWarning(`Postgres would not start again with its files, and would not have before: ${reason}`)
    return []
  })
