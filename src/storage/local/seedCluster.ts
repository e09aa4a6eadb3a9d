/**
 * A new cluster without initdb: made once per Postgres version and superuser, then copied with an identity of its own.
 *
 * initdb takes about a second, a copy a few milliseconds. Several first starts may build the template at the same
 * time: each under its own name, and the first to finish gives it.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import type { Failure } from "../../errors/Failure.ts"
import { PostgresUnusable, StorageDamaged } from "../../errors/Failure.ts"
import { printLsn } from "../../spec/Lsn.ts"
import type { PostgresInstall } from "../../postgres/PostgresInstall2.ts"
import { runCommand } from "../../platform/run.ts"
import type { Spawn } from "../../platform/Spawn.ts"
import { coldBackupLabel } from "./baseBackupLabel.ts"
import { parseControlFile, parseSegmentHeader } from "../../postgres/controlFile.ts"
import { segmentNumberOf, segmentsFrom } from "./wal.ts"
import {
  attempt,
  flush,
  handOver,
  hasCode,
  makeFolder,
  namesIn,
  removeTree,
  rename,
  replaceFile,
  statOrNull,
  textOrNull
} from "./disk.ts"
import { inSlices } from "./slices.ts"
import { packTar } from "./tarPack.ts"

const Record = Schema.Struct({
  label: Schema.String,
  stop: Schema.String,
  tarBytes: Schema.Number,
  controlOffset: Schema.Int,
  segmentBytes: Schema.Int,
  segments: Schema.Array(Schema.String)
})
const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Record))

export interface Template {
  readonly folder: string
  readonly record: typeof Record.Type
}

export interface TemplateFor {
  /** The storage's own folder, in which `templates/` is. */
  readonly directory: string
  readonly install: PostgresInstall["Service"]
  readonly superuser: string
}

const initdbWithin = Duration.minutes(2)
/** A build that old was killed. */
const staleMillis = 3_600_000

const keyOf = ({ install, superuser }: TemplateFor): string => {
  const version = install.version.replace(/[^0-9A-Za-z.]/g, "_")
  const user = /^[a-z0-9_]{1,63}$/.test(superuser) ? superuser : `HEX${Buffer.from(superuser).toString("hex")}`
  return `${version}-${user}`
}

const initdb = Effect.fnUntraced(function*({ install, superuser }: TemplateFor, pgdata: string) {
  const command = install.initdb
  if (command === null) {
    return yield* new PostgresUnusable({
      binary: install.postgres,
      detail: "there is no initdb beside it, and a first start needs one",
      hint: "install the server package that brings initdb"
    })
  }
  const run = (locale: string) =>
    runCommand({
      command,
      args: ["-D", pgdata, "-U", superuser, "--auth=trust", "-E", "UTF8", `--locale=${locale}`, "--no-sync"],
      env: { LC_ALL: undefined, LANG: undefined, PGDATA: undefined },
      cwd: "/",
      runAs: install.runAs
    }, initdbWithin)
  // Some systems have no C.UTF-8; C with UTF8 sorts the same.
  yield* run("C.UTF-8").pipe(Effect.catchTag("CommandFailed", (failure) =>
    /locale/.test(failure.output) ? Effect.andThen(removeTree(pgdata), run("C")) : Effect.fail(failure)))
})

const describe = Effect.fnUntraced(function*(work: string, pgdata: string) {
  const hint = "initdb left an odd cluster; try again"
  const broken = (detail: string) => new StorageDamaged({ directory: work, detail, hint })
  const control = yield* Effect.fromResult(Result.mapError(
    parseControlFile(yield* attempt("read", pgdata, () => fs.readFileSync(`${pgdata}/global/pg_control`))),
    broken
  ))
  const names = (yield* namesIn(`${pgdata}/pg_wal`)).filter((name) => /^[0-9A-F]{24}$/.test(name)).sort()
  const first = `${pgdata}/pg_wal/${names[0] ?? ""}`
  const { segmentBytes } = yield* Effect.fromResult(Result.mapError(
    parseSegmentHeader((yield* attempt("read", first, () => fs.readFileSync(first))).subarray(0, 64)),
    broken
  ))
  if (!control.shutDown) return yield* broken("initdb did not stop its cluster")
  const segments = segmentsFrom(names, segmentNumberOf(control.redo, segmentBytes), segmentBytes)
  return { label: coldBackupLabel(control, segmentBytes), stop: printLsn(control.checkpoint + 1n), segmentBytes, segments }
})

const build = Effect.fnUntraced(function*(wanted: TemplateFor, templates: string, folder: string) {
  const owner = wanted.install.runAs
  const now = yield* Clock.currentTimeMillis
  for (const name of yield* namesIn(templates)) {
    const stat = name.startsWith(".build-") ? yield* statOrNull(`${templates}/${name}`) : null
    if (stat !== null && now - stat.mtimeMs > staleMillis) yield* removeTree(`${templates}/${name}`)
  }
  const work = `${templates}/.build-${randomBytes(6).toString("hex")}`
  const pgdata = `${work}/pgdata`
  yield* Effect.gen(function*() {
    yield* makeFolder(work, owner)
    yield* initdb(wanted, pgdata)
    const facts = yield* describe(work, pgdata)
    const packed = yield* inSlices("copy", pgdata, "urgent", () => packTar(pgdata, `${work}/base.tar`))
    yield* handOver(`${work}/base.tar`, owner)
    for (const name of facts.segments) yield* rename(`${pgdata}/pg_wal/${name}`, `${work}/${name}`)
    const record: typeof Record.Type = { ...facts, tarBytes: packed.bytes, controlOffset: packed.controlOffset }
    yield* replaceFile(`${work}/template.json`, JSON.stringify(record), owner)
    yield* removeTree(pgdata)
    for (const name of [...facts.segments, "base.tar", "template.json"]) yield* flush(`${work}/${name}`)
    yield* flush(work)
    yield* rename(work, folder).pipe(
      Effect.catchTag("FileFailed", Effect.fnUntraced(function*(failure) {
        if (!hasCode(failure, "ENOTEMPTY", "EEXIST")) return yield* failure
        // Another first start was faster; or what is there is unusable, cut short by a power cut, and nobody's data.
        if ((yield* read(folder)) !== null) return
        yield* removeTree(folder)
        yield* rename(work, folder)
      }))
    )
    yield* flush(templates)
  }).pipe(Effect.ensuring(Effect.ignore(removeTree(work))))
})

const read = Effect.fnUntraced(function*(folder: string) {
  const text = yield* textOrNull(`${folder}/template.json`)
  const record = text === null ? null : Option.getOrNull(decode(text))
  if (record === null) return null
  const stat = yield* statOrNull(`${folder}/base.tar`)
  return stat?.size === record.tarBytes ? { folder, record } satisfies Template : null
})

/** The template, built if need be. */
export const findTemplate = Effect.fnUntraced(function*(
  wanted: TemplateFor
): Effect.fn.Return<Template, Failure, Spawn> {
  const templates = `${wanted.directory}/templates`
  const folder = `${templates}/${keyOf(wanted)}`
  const known = yield* read(folder)
  if (known !== null) return known
  yield* makeFolder(templates, wanted.install.runAs)
  yield* build(wanted, templates, folder)
  return (yield* read(folder)) ?? (yield* new StorageDamaged({
    directory: folder,
    detail: "the template of a new cluster is not whole",
    hint: "remove this folder; it is made anew and holds no data of yours"
  }))
})
