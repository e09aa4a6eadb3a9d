/**
 * What lies on a volume and cannot be served is refused by name, with what to do, and nothing of it is changed: once it
 * is put right, the next start has every row.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import { afterAll } from "vitest"
import * as fs from "node:fs"
import { controlFileWithSystemId } from "../../../src/postgres/controlFile.ts"
import type { TenantId, TimelineId } from "../../../src/spec/identifiers.ts"
import { runAs } from "../../support/postgres.ts"
import { emptySpec } from "../../support/specs.ts"
import { printWalFile, segmentNumberOf } from "../../../src/storage/local/walSegments.ts"
import { checkVolume } from "../../../src/storage/volume/check.ts"
import type { Started } from "../local/computes.ts"
import { makeVolume, refused, start, stateOf, storageFor, type Volume, type VolumeOptions } from "./volumes.ts"

interface Killed {
  readonly volume: Volume
  /** In the middle of committed WAL, after the last checkpoint. */
  readonly middle: bigint
}

const lsnOf = (started: Started) =>
  Effect.map(started.rows("select pg_current_wal_lsn() - '0/0'"), (rows) => BigInt(rows[0]?.[0] ?? "0"))

/** A volume with 3000 rows whose compute was killed. */
const killed: Effect.Effect<Killed, unknown, Scope.Scope> = Effect.gen(function* () {
  const volume = yield* makeVolume()
  const started = yield* start(volume)
  yield* started.rows("create table kept (n int, t text)")
  yield* started.rows("checkpoint")
  yield* started.rows("insert into kept select n, repeat('x', 200) from generate_series(1, 1000) n")
  const from = yield* lsnOf(started)
  yield* started.rows("insert into kept select n, repeat('x', 200) from generate_series(1001, 2000) n")
  const to = yield* lsnOf(started)
  yield* started.rows("insert into kept select n, repeat('x', 200) from generate_series(2001, 3000) n")
  yield* started.crash()
  return { volume, middle: (from + to) / 2n }
})

/** Only root has files of more than one user. */
const asRoot = <A, E>(test: Effect.Effect<A, E, Scope.Scope>) =>
  runAs === null
    ? Effect.sync(() => void process.stdout.write("not tested on this machine: we are not root\n"))
    : Effect.scoped(Effect.asVoid(test))

interface Case {
  readonly what: string
  /** Answers how to undo it. */
  readonly mischief: (killed: Killed) => () => void
  readonly tag: string
  readonly message: RegExp
  readonly hint: RegExp
  readonly options?: VolumeOptions
  readonly timeline?: string
  /** `check` finds it, too; by default. */
  readonly unseen?: boolean
}

const moved = (path: string) => {
  fs.renameSync(path, `${path}-elsewhere`)
  return () => fs.renameSync(`${path}-elsewhere`, path)
}

const flipped = (path: string, offset: number) => {
  const flip = () => {
    const fd = fs.openSync(path, "r+")
    const byte = Buffer.alloc(1)
    fs.readSync(fd, byte, 0, 1, offset)
    byte[0] = (byte[0] ?? 0) ^ 0x10
    fs.writeSync(fd, byte, 0, 1, offset)
    fs.closeSync(fd)
  }
  flip()
  return flip
}

const rewritten = (path: string, content: string | Uint8Array) => {
  const before = fs.existsSync(path) ? fs.readFileSync(path) : null
  fs.writeFileSync(path, content)
  if (runAs !== null) fs.chownSync(path, runAs.uid, runAs.gid)
  return () => (before === null ? fs.rmSync(path) : fs.writeFileSync(path, before))
}

const segmentBytes = 16 * 1024 * 1024
const segmentOf = (volume: Volume, lsn: bigint): string =>
  `${volume.pgdata}/pg_wal/${printWalFile({ pgTimeline: 1, number: segmentNumberOf(lsn, segmentBytes) }, segmentBytes)}`

const label = (file: string) =>
  [
    `START WAL LOCATION: 0/7F000028 (file ${file})`,
    "CHECKPOINT LOCATION: 0/7F000060",
    "BACKUP METHOD: streamed",
    "BACKUP FROM: primary",
    "START TIME: 2026-01-01 00:00:00 UTC",
    "LABEL: forgotten",
    "START TIMELINE: 1",
    ""
  ].join("\n")

const cases: ReadonlyArray<Case> = [
  {
    what: "data of another timeline",
    mischief: () => () => {},
    timeline: "2".repeat(32),
    tag: "StorageForeign",
    message: /it holds tenant 0{32}, timeline 1{32}, and the spec is of tenant 0{32}, timeline 2{32}/,
    hint: /give the volume of the spec's timeline with -D/,
    unseen: true
  },
  {
    what: "data of another major version",
    mischief: () => () => {},
    options: { major: 16 },
    tag: "StorageDamaged",
    message: /made by Postgres 17, and this is Postgres 16/,
    hint: /give a Postgres 17 with -b/,
    unseen: true
  },
  {
    what: "a cluster in place of the one that was made here",
    mischief: ({ volume }) => {
      const path = `${volume.pgdata}/global/pg_control`
      return rewritten(path, Result.getOrThrow(controlFileWithSystemId(fs.readFileSync(path), 42n)))
    },
    tag: "StorageForeign",
    message: /system identifier 42, and the one that was made here had \d+/,
    hint: /put the cluster's own files back/
  },
  {
    what: "a cluster that no compute made",
    mischief: ({ volume }) => {
      fs.renameSync(volume.ours, `${volume.folder}/ours`)
      return () => {
        assert.isFalse(fs.existsSync(volume.ours), "nothing was made in it")
        fs.renameSync(`${volume.folder}/ours`, volume.ours)
      }
    },
    tag: "StorageForeign",
    message: /files that no compute made \(PG_VERSION, base, /,
    hint: /give an empty folder with -D; nothing was touched/
  },
  {
    what: "data that has lost what says whose it is",
    mischief: ({ volume }) => {
      fs.renameSync(`${volume.ours}/volume.json`, `${volume.folder}/record`)
      return () => fs.renameSync(`${volume.folder}/record`, `${volume.ours}/volume.json`)
    },
    tag: "StorageDamaged",
    message: /there is data, but compute_ctl\/volume.json, which says whose it is, is missing/,
    hint: /put it back from a copy/
  },
  {
    what: "a damaged volume.json",
    mischief: ({ volume }) => flipped(`${volume.ours}/volume.json`, 40),
    tag: "StorageDamaged",
    message: /volume.json, which says whose data this is, cannot be understood/,
    hint: /put this file back from a copy/
  },
  {
    what: "a damaged pg_control",
    mischief: ({ volume }) => flipped(`${volume.pgdata}/global/pg_control`, 41),
    tag: "StorageDamaged",
    message: /pg_control's checksum does not match/,
    hint: /nothing was changed/
  },
  {
    what: "a missing pg_control",
    mischief: ({ volume }) => moved(`${volume.pgdata}/global/pg_control`),
    tag: "StorageDamaged",
    message: /global\/pg_control is missing/,
    hint: /nothing was changed/
  },
  {
    what: "a flipped bit in the middle of the WAL",
    mischief: ({ middle, volume }) => flipped(segmentOf(volume, middle), Number(middle % BigInt(segmentBytes))),
    tag: "StorageDamaged",
    message: /replay would end at 0\/\w+ in the WAL segment \w{24}, because .*; but /,
    hint: /put back the segment \w{24} from a copy/
  },
  {
    what: "a missing segment of the WAL",
    mischief: ({ middle, volume }) => moved(segmentOf(volume, middle)),
    tag: "StorageDamaged",
    message: /replay would end at 0\/\w+ in the WAL segment \w{24}, because there is no page/,
    hint: /put back the segment \w{24} from a copy/
  },
  {
    what: "a backup_label without the WAL that it asks for",
    mischief: ({ volume }) => rewritten(`${volume.pgdata}/backup_label`, label("00000001000000000000007F")),
    tag: "StorageDamaged",
    message: /backup_label says to replay from 0\/7F000028, and there is no pg_wal\/00000001000000000000007F/,
    hint: /put the WAL since it began into pg_wal; only if they are not, remove backup_label alone/
  },
  {
    what: "a tablespace that is not mounted",
    mischief: ({ volume }) => {
      const link = `${volume.pgdata}/pg_tblspc/16999`
      fs.symlinkSync(`${volume.folder}/not-mounted`, link)
      return () => fs.unlinkSync(link)
    },
    tag: "StorageDamaged",
    message: /the tablespace 16999 is in .*\/not-mounted, which is not there/,
    hint: /mount what it lies on/
  }
]

describe("a start is refused, and nothing is changed, because of", () => {
  let one: Killed | null = null
  const open = Effect.runSync(Scope.make())
  afterAll(() => Effect.runPromise(Scope.close(open, Exit.void)))
  /** The same volume for all: whatever is undone leaves it as it was. */
  const prepared = Effect.suspend(() =>
    one === null
      ? Effect.tap(Effect.provideService(killed, Scope.Scope, open), (made) => Effect.sync(() => (one = made)))
      : Effect.succeed(one)
  )

  it.live.each(cases)("$what", ({ hint, message, mischief, options = {}, tag, timeline, unseen = false }) =>
    Effect.scoped(
      Effect.gen(function* () {
        const { middle, volume } = yield* prepared
        const undo = mischief({ middle, volume })
        const before = stateOf(volume.pgdata)
        const storage = yield* storageFor(volume, options)
        const found = yield* refused(volume, { storage, ...(timeline === undefined ? {} : { timeline }) })
        assert.strictEqual(found.tag, tag)
        assert.match(found.message, message)
        assert.match(found.hint, hint)
        assert.strictEqual(stateOf(volume.pgdata), before)
        if (!unseen) assert.include((yield* checkVolume(volume.pgdata)).lines[0] ?? "", "DAMAGED")
        undo()
        assert.deepInclude(yield* checkVolume(volume.pgdata), { isWhole: true })
      })
    )
  )

  it.live("data of another tenant", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { volume } = yield* prepared
        const other = { ...emptySpec, tenant: "3".repeat(32) as TenantId }
        const failure = yield* Effect.flip(volume.storage.claim(other, volume.pgdata))
        assert.strictEqual(failure._tag, "StorageForeign")
        assert.include(failure.message, `the spec is of tenant ${other.tenant}`)
      })
    )
  )

  it.live("a branch, before anything is made", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        const ancestor = { timeline: "9".repeat(32) as TimelineId, lsn: null }
        const { message, tag } = yield* refused(volume, { ancestor })
        assert.strictEqual(tag, "NotSupported")
        assert.match(message, /^ancestor_timeline_id is not supported: a volume has one copy of the data/)
        assert.isFalse(fs.existsSync(volume.ours))
      })
    )
  )

  it.live("files that were restored as another user", () =>
    asRoot(
      Effect.gen(function* () {
        const { volume } = yield* prepared
        const file = `${volume.pgdata}/global/pg_control`
        fs.chownSync(file, 0, 0)
        const { hint, message, tag } = yield* refused(volume)
        assert.strictEqual(tag, "FileFailed")
        assert.include(message, file)
        assert.strictEqual(hint, `give it to that user: chown -R ${runAs?.name} ${volume.pgdata}`)
        fs.chownSync(file, runAs?.uid ?? 0, runAs?.gid ?? 0)
      })
    )
  )

  it.live("nothing any more, once all of it is put right: every row is there", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { volume } = yield* prepared
        const started = yield* start(volume)
        assert.deepStrictEqual(yield* started.rows("select count(*) from kept"), [["3000"]])
        yield* started.crash()
      })
    )
  )
})
