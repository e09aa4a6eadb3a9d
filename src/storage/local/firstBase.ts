/**
 * The first start of a timeline: the template becomes base 1, with a system identifier of its own.
 *
 * Until `current.json` names base 1 a marker says that nothing here is anybody's data yet, so a first start that was
 * cut short begins again. A folder with WAL and neither marker nor `current.json` has lost something, and is refused.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"
import type { Failure } from "../../errors/Failure.ts"
import { controlFileBytes, controlFileWithSystemId, segmentSystemIdOffset } from "../../postgres/controlFile.ts"
import { segmentNumberOf } from "./wal.ts"
import type { Spawn } from "../../platform/Spawn.ts"
import {
  attempt,
  attemptPromise,
  flush,
  handOver,
  makeFolder,
  namesIn,
  removeFile,
  replaceFile,
  statOrNull
} from "./disk.ts"
import { failpoint } from "./failpoint.ts"
import { type Base, Current, damaged, type Layout, readBase } from "./layout.ts"
import { publish, removeOld } from "./publish.ts"
import { findTemplate, type TemplateFor } from "./seedCluster.ts"

/** Seconds in the upper half, as initdb does it, and chance in the lower. */
const freshSystemId = Effect.map(Clock.currentTimeMillis, (millis) =>
  (BigInt(Math.floor(millis / 1000)) << 32n) | BigInt(randomBytes(4).readUInt32LE()))

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

const mark = Effect.fnUntraced(function*(layout: Layout) {
  if ((yield* statOrNull(layout.first)) === null) {
    const names = yield* namesIn(layout.root)
    const segments = (yield* namesIn(layout.wal)).filter((name) => /^[0-9A-F]{24}$/.test(name))
    if (segments.length > 0 || names.some((name) => /^base-\d+\.tar$/.test(name))) {
      return yield* damaged(layout, "there is data, but current.json, which says how to start from it, is missing")
    }
    yield* replaceFile(layout.first, "the first base is being made\n", layout.owner)
    yield* flush(layout.first)
    yield* flush(layout.root)
  }
  for (const name of yield* namesIn(layout.wal)) {
    if (/^[0-9A-F]{24}$/.test(name)) yield* removeFile(`${layout.wal}/${name}`)
  }
})

/** Returns when base 1 would survive a power cut. */
export const makeFirstBase: (layout: Layout, wanted: TemplateFor) => Effect.Effect<Base, Failure, Spawn> = Effect
  .fnUntraced(function*(layout, wanted) {
    yield* mark(layout)
    yield* failpoint("first-marked")
    const { folder, record } = yield* findTemplate(wanted)
    const systemId = yield* freshSystemId
    const eight = Buffer.alloc(8)
    eight.writeBigUInt64LE(systemId)

    yield* makeFolder(`${layout.wal}/archive_status`, layout.owner)
    for (const name of record.segments) {
      const segment = `${layout.wal}/${name}`
      yield* copy(`${folder}/${name}`, segment)
      yield* attempt("write", segment, () => writeAt(segment, segmentSystemIdOffset, eight))
      yield* handOver(segment, layout.owner)
    }
    yield* failpoint("first-wal")

    const tar = `${layout.root}/base-1.tar.new`
    yield* copy(`${folder}/base.tar`, tar)
    const control = yield* attempt("read", tar, () => {
      const bytes = Buffer.alloc(controlFileBytes)
      const fd = fs.openSync(tar, fs.constants.O_RDONLY)
      try {
        fs.readSync(fd, bytes, 0, bytes.length, record.controlOffset)
      } finally {
        fs.closeSync(fd)
      }
      return bytes
    })
    const renamed = controlFileWithSystemId(control, systemId)
    const patched = yield* Effect.fromResult(Result.mapError(renamed, (detail) => damaged(layout, detail)))
    yield* attempt("write", tar, () => writeAt(tar, record.controlOffset, patched))
    yield* failpoint("first-tar")

    const current = Current.make({
      format: 1,
      n: 1,
      tar: "base-1.tar",
      tarBytes: record.tarBytes,
      label: record.label,
      stop: record.stop,
      systemId: systemId.toString(),
      pgMajor: wanted.install.major,
      segmentBytes: record.segmentBytes,
      transaction: "0",
      databases: 3
    })
    yield* publish(layout, tar, current, 0n)
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
