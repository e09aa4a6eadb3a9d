/**
 * A new cluster without initdb: a seed cluster, made once per Postgres version and superuser, becomes base 1 of a
 * timeline with a system identifier of its own.
 *
 * initdb takes about a second, a copy a few milliseconds. Several first starts may make the seed cluster at the same
 * time: each under its own name, and the first to finish gives it. Until `current.json` names base 1 a marker shows
 * that nothing here is anybody's data yet, so a first start that was cut short begins again. A folder with WAL and
 * neither marker nor `current.json` has lost something, and is refused.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { createHash, randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import { type Failure, PostgresUnusable, StorageDamaged } from "../../errors/Failure.ts"
import { attempt, attemptPromise, hasCode, makeFolder, namesIn, removeFile, textOrNull } from "../../platform/files.ts"
import { runCommand } from "../../platform/processes.ts"
import type { RunAs, Spawn } from "../../platform/Spawn.ts"
import { namedByWrapper } from "../../platform/users.ts"
import {
  controlFileWithSystemId,
  parseControlFile,
  parseSegmentHeader,
  segmentSystemIdOffset
} from "../../postgres/controlFile.ts"
import type { PostgresInstall } from "../../postgres/PostgresInstall.ts"
import { printLsn } from "../../spec/identifiers.ts"
import { coldBackupLabel } from "./backupLabel.ts"
import { Lasting, flush, handOver, readStart, removeTree, rename, replaceUnflushed, statOrNull } from "./disk.ts"
import { failpoint } from "./failpoint.ts"
import { copyNew, flushCopy, readManifest, writeManifest } from "./baseFolder.ts"
import { putFile } from "./copyTree.ts"
import { type Base, damaged, type Layout, readBase } from "./layout.ts"
import { verifyTree } from "./layTree.ts"
import { type Manifest, pieceBytes } from "./manifest.ts"
import { paced } from "./pacing.ts"
import { publish, removeOld } from "./publishBase.ts"
import { shareFiles } from "./secondNames.ts"
import { putFolders } from "./treeFiles.ts"
import { segmentNumberOf, segmentsFrom } from "./walSegments.ts"

const Record = Schema.Struct({
  label: Schema.String,
  stop: Schema.String,
  /** The digest of the seed's manifest. */
  manifest: Schema.String,
  segmentBytes: Schema.Int,
  segments: Schema.Array(Schema.String),
  /** SHA-256 of each of its files, by name. */
  digests: Schema.Record(Schema.String, Schema.String)
})
const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Record))

export interface SeedCluster {
  readonly folder: string
  readonly record: typeof Record.Type
  readonly manifest: Manifest
}

export interface ClusterRequest {
  /** A folder, in which `templates/` (the seed clusters) is. */
  readonly directory: string
  readonly install: PostgresInstall["Service"]
  readonly superuser: string
  /** Checksums of data pages, where the major version has none by default. */
  readonly checksums?: boolean
}

/** What a start writes over this lets in whom it should; a cluster that somebody starts by hand lets in nobody else. */
const closed = ["--auth-local=peer", "--auth-host=reject"]
const initdbWithin = Duration.minutes(2)
/** A build that old was killed: most of it is the initdb. */
const staleMillis = 900_000

/** Where nothing is to last, WAL in 1 MB instead of 16: of a new cluster that is two fifths of its room. */
const walOptions = Effect.map(Lasting, (lasting) => (lasting ? [] : ["--wal-segsize=1"]))

const keyOf = ({ checksums = false, install, superuser }: ClusterRequest, more: ReadonlyArray<string>): string => {
  const version = install.version.replace(/[^0-9A-Za-z.]/g, "_")
  const user = /^[a-z0-9_]{1,63}$/.test(superuser) ? superuser : `HEX${Buffer.from(superuser).toString("hex")}`
  return [`${version}-${user}${checksums ? "-checksums" : ""}`, ...more].join("")
}

const initdb = Effect.fnUntraced(function* (wanted: ClusterRequest, pgdata: string) {
  const { checksums = false, install, superuser } = wanted
  const command = install.initdb
  if (command === null) {
    return yield* new PostgresUnusable({
      binary: install.postgres,
      detail: "there is no initdb beside it, and a first start needs one",
      hint: "install the server package that brings initdb"
    })
  }
  const more = [...(checksums ? ["--data-checksums"] : []), ...(yield* walOptions)]
  const run = (locale: string, env: Readonly<Record<string, string>>) =>
    runCommand(
      {
        command,
        args: ["-D", pgdata, "-U", superuser, ...closed, "-E", "UTF8", `--locale=${locale}`, "--no-sync", ...more],
        env: { LC_ALL: undefined, LANG: undefined, PGDATA: undefined, ...env },
        cwd: "/",
        runAs: install.runAs
      },
      initdbWithin
    )
  // Some systems have no C.UTF-8; C with UTF8 sorts the same.
  const inSomeLocale = (env: Readonly<Record<string, string>>) =>
    Effect.catchTag(run("C.UTF-8", env), "CommandFailed", (failure) =>
      /locale/.test(failure.output) ? Effect.andThen(removeTree(pgdata), run("C", env)) : Effect.fail(failure)
    )
  yield* inSomeLocale({}).pipe(
    Effect.catchTag("CommandFailed", (failure) =>
      namelessIn(failure.output) === undefined
        ? Effect.fail(failure)
        : Effect.andThen(giveName(install.runAs, path.dirname(pgdata)), inSomeLocale)
    ),
    Effect.catchTag("CommandFailed", (failure): Effect.Effect<never, Failure> => {
      const uid = namelessIn(failure.output)
      if (uid === undefined) return Effect.fail(failure)
      return Effect.fail(
        new PostgresUnusable({
          binary: command,
          detail: `user id ${uid} has no name, and initdb, which a first start needs, runs for nobody without one`,
          hint:
            "install libnss-wrapper (nss_wrapper), or add a line for it to /etc/passwd; " +
            "or let another user make the first start, then chown the storage"
        })
      )
    })
  )
})

const namelessIn = (output: string): string | undefined => /could not look up effective user ID (\d+)/.exec(output)?.[1]

const giveName = Effect.fnUntraced(function* (runAs: RunAs | null, folder: string) {
  const { env, files } = namedByWrapper(runAs, folder)
  for (const { file, text } of files) yield* replaceUnflushed(file, text, runAs)
  return env
})

const describe = Effect.fnUntraced(function* (work: string, pgdata: string) {
  const hint = "initdb left an odd cluster; try again"
  const broken = (detail: string) => new StorageDamaged({ directory: work, detail, hint })
  const control = yield* Effect.fromResult(
    Result.mapError(
      parseControlFile(yield* attempt("read", pgdata, () => fs.readFileSync(`${pgdata}/global/pg_control`))),
      broken
    )
  )
  const names = (yield* namesIn(`${pgdata}/pg_wal`)).filter((name) => /^[0-9A-F]{24}$/.test(name)).sort()
  const first = `${pgdata}/pg_wal/${names[0] ?? ""}`
  const { segmentBytes } = yield* Effect.fromResult(
    Result.mapError(parseSegmentHeader(yield* readStart(first, 64)), broken)
  )
  if (!control.shutDown) return yield* broken("initdb did not stop its cluster")
  const segments = segmentsFrom(names, segmentNumberOf(control.redo, segmentBytes), segmentBytes)
  return {
    label: coldBackupLabel(control, segmentBytes),
    stop: printLsn(control.checkpoint + 1n),
    segmentBytes,
    segments
  }
})

/** Builds of computes that were killed meanwhile. */
const removeStale = Effect.fnUntraced(function* (templates: string) {
  const now = yield* Clock.currentTimeMillis
  for (const name of yield* namesIn(templates)) {
    const stat = name.startsWith(".build-") ? yield* statOrNull(`${templates}/${name}`) : null
    if (stat !== null && now - stat.mtimeMs > staleMillis) yield* removeTree(`${templates}/${name}`)
  }
})

const build = Effect.fnUntraced(function* (wanted: ClusterRequest, templates: string, folder: string) {
  const owner = wanted.install.runAs
  const work = `${templates}/.build-${randomBytes(6).toString("hex")}`
  const pgdata = `${work}/initdb`
  yield* Effect.gen(function* () {
    yield* makeFolder(work, owner)
    yield* initdb(wanted, pgdata)
    for (const { file } of namedByWrapper(owner, work).files) yield* removeFile(file)
    const facts = yield* describe(work, pgdata)
    const copied = yield* copyNew(pgdata, work, owner)
    yield* flushCopy(copied, [...copied.manifest.files.keys()])
    const manifest = yield* writeManifest(owner, copied)
    for (const name of facts.segments) yield* rename(`${pgdata}/pg_wal/${name}`, `${work}/${name}`)
    const digests: { [name: string]: string } = {}
    for (const name of facts.segments) digests[name] = yield* digestOf(`${work}/${name}`)
    const record: typeof Record.Type = { ...facts, digests, manifest }
    yield* replaceUnflushed(`${work}/template.json`, JSON.stringify(record), owner)
    yield* removeTree(pgdata)
    for (const name of [...facts.segments, "template.json"]) yield* flush(`${work}/${name}`)
    yield* flush(work)
    yield* rename(work, folder).pipe(
      Effect.catchTag(
        "FileFailed",
        Effect.fnUntraced(function* (failure) {
          if (!hasCode(failure, "ENOTEMPTY", "EEXIST")) return yield* failure
          // Another first start was faster; or what is there is unusable, cut short by a power cut, and nobody's data.
          if ((yield* read(folder)) !== null) return
          yield* removeTree(folder)
          yield* rename(work, folder)
        })
      )
    )
    yield* flush(templates)
  }).pipe(Effect.ensuring(Effect.ignore(removeTree(work))))
})

const read = Effect.fnUntraced(function* (folder: string) {
  const text = yield* textOrNull(`${folder}/template.json`)
  const record = text === null ? null : Option.getOrNull(decode(text))
  if (record === null) return null
  const manifest = yield* Effect.orElseSucceed(readManifest(folder, record.manifest, "urgent"), () => null)
  if (manifest === null) return null
  // Where it may be lost, what is taken of it is verified when it is laid out.
  if (!(yield* Lasting)) return { folder, record, manifest } satisfies SeedCluster
  const files = `${folder}/pgdata`
  const problems = yield* paced("verify", files, "urgent", (pacer) => verifyTree(pacer, manifest, files))
  if (problems.length > 0) return null
  for (const name of record.segments) {
    const digest = yield* digestOf(`${folder}/${name}`).pipe(
      Effect.catchIf(
        (failure) => hasCode(failure, "ENOENT"),
        () => Effect.succeed(null)
      )
    )
    if (digest === null || digest !== record.digests[name]) return null
  }
  return { folder, record, manifest } satisfies SeedCluster
})

const digestOf = (path: string) =>
  attemptPromise("read", path, async () => {
    const hash = createHash("sha256")
    for await (const chunk of fs.createReadStream(path, { highWaterMark: pieceBytes })) hash.update(chunk)
    return hash.digest("hex")
  })

/** The seed cluster, made if need be. */
export const findSeedCluster = Effect.fnUntraced(function* (
  wanted: ClusterRequest
): Effect.fn.Return<SeedCluster, Failure, Spawn> {
  const templates = `${wanted.directory}/templates`
  const folder = `${templates}/${keyOf(wanted, yield* walOptions)}`
  yield* removeStale(templates)
  const known = yield* read(folder)
  if (known !== null) return known
  yield* makeFolder(templates, wanted.install.runAs)
  yield* build(wanted, templates, folder)
  return (
    (yield* read(folder)) ??
    (yield* new StorageDamaged({
      directory: folder,
      detail: "the seed cluster, which new ones are copied from, is not whole",
      hint: "remove this folder; it is made anew and holds no data of yours"
    }))
  )
})

/** Seconds in the upper half, as initdb does it, and chance in the lower. */
export const freshSystemId = Effect.map(
  Clock.currentTimeMillis,
  (millis) => (BigInt(Math.floor(millis / 1000)) << 32n) | BigInt(randomBytes(4).readUInt32LE())
)

const writeAt = (file: string, offset: number, bytes: Uint8Array): void => {
  const fd = fs.openSync(file, fs.constants.O_WRONLY | fs.constants.O_NOFOLLOW)
  try {
    fs.writeSync(fd, bytes, 0, bytes.length, offset)
  } finally {
    fs.closeSync(fd)
  }
}

const copy = (from: string, to: string) =>
  attemptPromise("copy", to, () => fs.promises.copyFile(from, to, fs.constants.COPYFILE_FICLONE))

const mark = Effect.fnUntraced(function* (layout: Layout) {
  if ((yield* statOrNull(layout.first)) === null) {
    const names = yield* namesIn(layout.root)
    const segments = (yield* namesIn(layout.wal)).filter((name) => /^[0-9A-F]{24}$/.test(name))
    if (segments.length > 0 || names.some((name) => /^base-\d+(\.tar)?$/.test(name))) {
      return yield* damaged(layout, "there is data, but current.json, which says how to start from it, is missing")
    }
    yield* replaceUnflushed(layout.first, "the first base is being made\n", layout.owner)
    yield* flush(layout.first)
    yield* flush(layout.root)
  }
  for (const name of yield* namesIn(layout.wal)) {
    if (/^[0-9A-F]{24}$/.test(name)) yield* removeFile(`${layout.wal}/${name}`)
  }
})

export const controlPath = "global/pg_control"

/** The seed's pg_control with another system identifier. */
export const controlWith = Effect.fnUntraced(function* ({ folder }: SeedCluster, systemId: bigint) {
  const path = `${folder}/pgdata/${controlPath}`
  const renamed = controlFileWithSystemId(yield* attempt("read", path, () => fs.readFileSync(path)), systemId)
  const hint = "remove this folder; it is made anew and holds no data of yours"
  return yield* Effect.fromResult(
    Result.mapError(renamed, (detail) => new StorageDamaged({ directory: folder, detail, hint }))
  )
})

/** The seed's WAL with another system identifier. Nothing of it is flushed. */
export const copySeedWal = Effect.fnUntraced(function* (
  { folder, record }: SeedCluster,
  wal: string,
  owner: RunAs | null,
  systemId: bigint
) {
  const eight = Buffer.alloc(8)
  eight.writeBigUInt64LE(systemId)
  yield* makeFolder(`${wal}/archive_status`, owner)
  for (const name of record.segments) {
    const segment = `${wal}/${name}`
    yield* copy(`${folder}/${name}`, segment)
    yield* attempt("write", segment, () => writeAt(segment, segmentSystemIdOffset, eight))
    yield* handOver(segment, owner)
  }
})

/**
 * Base 1 of a timeline: the seed's own files under a second name, which are on the disk already and are never written
 * to, and a pg_control of its own. Where the filesystem knows no second names they are copied and flushed.
 */
const copySeed = Effect.fnUntraced(function* (layout: Layout, seed: SeedCluster, systemId: bigint) {
  const { manifest } = seed
  const folder = `${layout.root}/base-1.new`
  const [from, to] = [`${seed.folder}/pgdata`, `${folder}/pgdata`]
  // Of a first start that was cut short.
  yield* removeTree(folder)
  yield* removeTree(`${layout.root}/base-1`)
  yield* makeFolder(to, layout.owner)
  const patched = yield* controlWith(seed, systemId)
  const entry = yield* paced("copy", to, "urgent", async (pacer) => {
    await putFolders(pacer, to, manifest.folders, layout.owner)
    const names = [...manifest.files.keys()].filter((name) => name !== controlPath)
    await shareFiles(pacer, from, to, names, layout.owner)
    return putFile(pacer, to, controlPath, Buffer.from(patched), layout.owner)
  })
  const files = new Map(manifest.files).set(controlPath, entry)
  return { folder, manifest: { folders: manifest.folders, files } }
})

/** Returns when base 1 would survive a power cut. */
export const makeFirstBase: (layout: Layout, wanted: ClusterRequest) => Effect.Effect<Base, Failure, Spawn> =
  Effect.fnUntraced(function* (layout, wanted) {
    yield* mark(layout)
    yield* failpoint("first-marked")
    const seed = yield* findSeedCluster(wanted)
    const { record } = seed
    const systemId = yield* freshSystemId
    yield* copySeedWal(seed, layout.wal, layout.owner, systemId)
    yield* failpoint("first-wal")

    const copied = yield* copySeed(layout, seed, systemId)
    yield* failpoint("first-copied")

    yield* publish(layout, copied, [controlPath], {
      n: 1,
      label: record.label,
      stop: record.stop,
      systemId: systemId.toString(),
      pgMajor: wanted.install.major,
      segmentBytes: record.segmentBytes,
      transaction: "0",
      databases: 3
    })
    // The way to the folder must be as lasting as what is in it.
    yield* flush(path.dirname(layout.root))
    yield* flush(path.dirname(path.dirname(layout.root)))
    // The storage's own parent may be a folder we cannot read, and then it is not new.
    yield* Effect.ignore(flush(path.dirname(path.dirname(path.dirname(layout.root)))))
    yield* removeFile(layout.first)
    const base = yield* readBase(layout)
    if (base === null) return yield* damaged(layout, "the first base has vanished")
    yield* removeOld(layout, base, segmentNumberOf(base.start, record.segmentBytes))
    return base
  })
