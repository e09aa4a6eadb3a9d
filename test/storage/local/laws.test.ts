/**
 * Laws and tables of local storage's pure parts: names of segments, pg_control's checksum, labels, when a base is due.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import {
  controlFileWithSystemId,
  crc32c,
  parseControlFile,
  parseSegmentHeader
} from "../../../src/postgres/controlFile.ts"
import { coldBackupLabel, parseBackupLabel } from "../../../src/storage/local/backupLabel.ts"
import { baseDue, baseOverdue, contentRule, defaultBaseLimits, paceFor } from "../../../src/storage/local/basePolicy.ts"
import {
  firstMissing,
  parseWalFile,
  printWalFile,
  segmentNumberBefore,
  segmentNumberOf,
  segmentsBefore,
  segmentsFrom
} from "../../../src/storage/local/walSegments.ts"
import { baseRetries } from "../../../src/storage/local/walArchiver.ts"

const MiB = 1024 * 1024

describe("segment names", () => {
  it.prop(
    "say the same number again when read, for every segment size",
    {
      exponent: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 10 })),
      lsn: Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum: 0xffff_ffff_ffff_ffffn })),
      pgTimeline: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 0xffff_ffff }))
    },
    ({ exponent, lsn, pgTimeline }) => {
      const segmentBytes = MiB * 2 ** exponent
      const number = segmentNumberOf(lsn, segmentBytes)
      const name = printWalFile({ pgTimeline, number }, segmentBytes)
      assert.match(name, /^[0-9A-F]{24}$/)
      assert.deepStrictEqual(parseWalFile(name, segmentBytes), Option.some({ pgTimeline, number }))
    }
  )

  it.each([
    ["0/0", 0n, 16, "000000010000000000000000"],
    ["0/1500708", 0x1500708n, 16, "000000010000000000000001"],
    ["0/FF000000", 0xff000000n, 16, "0000000100000000000000FF"],
    ["1/0", 0x1_0000_0000n, 16, "000000010000000100000000"],
    ["1/0 in 1 MiB", 0x1_0000_0000n, 1, "000000010000000100000000"],
    ["0/FFFFFFFF in 1 MiB", 0xffff_ffffn, 1, "000000010000000000000FFF"],
    ["3/40000000 in 1 GiB", 0x3_4000_0000n, 1024, "000000010000000300000001"]
  ] as const)("are Postgres's own: %s", (_, lsn, mib, name) => {
    assert.strictEqual(printWalFile({ pgTimeline: 1, number: segmentNumberOf(lsn, mib * MiB) }, mib * MiB), name)
  })

  it.each([
    "000000010000000000000100",
    "00000001000000000000000",
    "00000002.history",
    "000000010000000000000001.partial",
    "xlogtemp.12"
  ])("%s is not a segment of 16 MiB", (name) => assert.isTrue(Option.isNone(parseWalFile(name, 16 * MiB))))

  it("an end at a border needs nothing of the next segment", () => {
    assert.strictEqual(segmentNumberBefore(BigInt(32 * MiB), 16 * MiB), 1n)
    assert.strictEqual(segmentNumberBefore(BigInt(32 * MiB) + 1n, 16 * MiB), 2n)
    assert.strictEqual(segmentNumberBefore(0n, 16 * MiB), 0n)
  })
})

const name = (number: number) => printWalFile({ pgTimeline: 1, number: BigInt(number) }, 16 * MiB)

describe("holes in the WAL", () => {
  const numbers = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40 }))).check(
    Schema.isMaxLength(30)
  )
  it.prop(
    "a start is allowed exactly when every segment from the first to the last known is there",
    {
      numbers,
      first: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 20 })),
      last: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40 }))
    },
    ({ first, last, numbers }) => {
      const missing = firstMissing(
        numbers.map(name),
        { pgTimeline: 1, first: BigInt(first), last: BigInt(last) },
        16 * MiB
      )
      const end = Math.max(last, ...numbers)
      const expected = Array.from({ length: Math.max(0, end - first + 1) }, (_, index) => first + index).find(
        (n) => !numbers.includes(n)
      )
      assert.deepStrictEqual(missing, expected === undefined ? Option.none() : Option.some(name(expected)))
    }
  )

  it("another Postgres timeline does not fill a hole", () => {
    const foreign = printWalFile({ pgTimeline: 2, number: 2n }, 16 * MiB)
    assert.deepStrictEqual(
      firstMissing([name(1), foreign, name(3)], { pgTimeline: 1, first: 1n, last: 1n }, 16 * MiB),
      Option.some(name(2))
    )
  })

  it.prop(
    "what may be removed and what is needed never overlap",
    { numbers, from: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40 })) },
    ({ from, numbers }) => {
      const names = [
        ...numbers.map(name),
        `${name(1)}.00000028.backup`,
        "00000002.history",
        "archive_status",
        "xlogtemp.7"
      ]
      const removed = segmentsBefore(names, BigInt(from), 16 * MiB)
      const needed = new Set(segmentsFrom(names, BigInt(from), 16 * MiB))
      for (const one of removed)
        assert.isFalse(needed.has(one) || !/^[0-9A-F]{24}/.test(one) || one.includes("history"))
      for (const one of numbers) assert.isTrue(removed.includes(name(one)) !== needed.has(name(one)))
    }
  )
})

/** As large and as laid out as Postgres 17's: the checksum follows 288 bytes of fields. */
const control = (crcOffset = 288) => {
  const bytes = Buffer.alloc(8192)
  bytes.writeBigUInt64LE(7_123_456_789_012_345_678n, 0)
  bytes.writeInt32LE(1, 16)
  bytes.writeBigUInt64LE(0x1500708n, 32)
  bytes.writeBigUInt64LE(0x1500700n, 40)
  bytes.writeUInt32LE(1, 48)
  for (let at = 60; at < crcOffset; at++) bytes[at] = (at * 7) % 251
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, crcOffset)), crcOffset)
  return bytes
}

describe("pg_control", () => {
  it("CRC-32C is the Castagnoli one", () => assert.strictEqual(crc32c(Buffer.from("123456789")), 0xe3069283))

  it.each([208, 288, 296])("is read wherever its checksum is (%s)", (crcOffset) => {
    const read = Result.getOrThrow(parseControlFile(control(crcOffset)))
    assert.deepStrictEqual(read, {
      systemId: 7_123_456_789_012_345_678n,
      shutDown: true,
      checkpoint: 0x1500708n,
      redo: 0x1500700n,
      pgTimeline: 1,
      crcOffset
    })
  })

  it.prop(
    "one wrong bit is noticed",
    {
      at: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 287 })),
      bit: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 7 }))
    },
    ({ at, bit }) => {
      const bytes = control()
      bytes[at] = (bytes[at] ?? 0) ^ (1 << bit)
      assert.isTrue(Result.isFailure(parseControlFile(bytes)))
    }
  )

  it.prop(
    "a new identity changes nothing else",
    { id: Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 1n, maximum: 0x7fff_ffff_ffff_ffffn })) },
    ({ id }) => {
      const patched = Result.getOrThrow(controlFileWithSystemId(control(), id))
      assert.deepStrictEqual(Result.getOrThrow(parseControlFile(patched)), {
        ...Result.getOrThrow(parseControlFile(control())),
        systemId: id
      })
      assert.deepStrictEqual(patched.subarray(8, 288), Uint8Array.from(control().subarray(8, 288)))
    }
  )

  it.each([
    ["a short page", Buffer.alloc(20)],
    ["zeros", Buffer.alloc(64)],
    ["a short header", Buffer.from([0x16, 0xd1, 1, 0, ...Array.from({ length: 60 }, () => 0)])]
  ])("%s is no segment", (_, bytes) => assert.isTrue(Result.isFailure(parseSegmentHeader(bytes))))
})

describe("backup_label", () => {
  it("a cold one says where to replay from, and that nothing ends the backup", () => {
    const text = coldBackupLabel(Result.getOrThrow(parseControlFile(control())), 16 * MiB)
    assert.include(
      text,
      "START WAL LOCATION: 0/1500700 (file 000000010000000000000001)\nCHECKPOINT LOCATION: 0/1500708\n"
    )
    assert.notInclude(text, "streamed")
    assert.deepStrictEqual(
      parseBackupLabel(text),
      Option.some({
        start: 0x1500700n,
        startFile: "000000010000000000000001",
        checkpoint: 0x1500708n,
        pgTimeline: 1
      })
    )
  })
  it.each(["", "START WAL LOCATION: 0/1 (file nonsense)", "START TIMELINE: 1"])("%j is none", (text) =>
    assert.isTrue(Option.isNone(parseBackupLabel(text)))
  )
})

describe("a new base", () => {
  const facts = { baseStart: 0n, baseBytes: 30 * MiB, walAt: 0n, transactions: 0, databases: 0, broken: false }
  it.each([
    ["nothing happened", {}, false],
    ["64 MiB is still allowed", { walAt: BigInt(64 * MiB) }, false],
    ["more is not", { walAt: BigInt(64 * MiB) + 1n }, true],
    ["a large cluster may gather an eighth", { walAt: BigInt(125 * MiB), baseBytes: 1000 * MiB }, false],
    ["and no more", { walAt: BigInt(126 * MiB), baseBytes: 1000 * MiB }, true],
    ["but not without end", { walAt: BigInt(600 * MiB), baseBytes: 1e6 * MiB }, true],
    ["many small transactions", { transactions: 100_001 }, true],
    ["many databases", { databases: 9 }, true],
    ["needed WAL is gone", { broken: true }, true]
  ] as const)("%s", (_, change, due) =>
    assert.strictEqual(baseDue({ ...facts, ...change }, defaultBaseLimits) !== null, due)
  )

  it.each([
    ["an eighth of it", 125, false],
    ["half of it", 500, false],
    ["more", 501, true]
  ] as const)("is overdue in a cluster of 1000 MiB after %s: %s MiB: %s", (_, walMiB, overdue) =>
    assert.strictEqual(baseOverdue(BigInt(walMiB * MiB), 1000 * MiB, defaultBaseLimits), overdue)
  )

  it.each([
    ["when it is due", 126, "background"],
    ["when twice as much WAL has gathered", 250, "background"],
    ["when more has", 251, "hurried"]
  ] as const)("of a cluster of 1000 MiB, and its spare, are made so %s: %s MiB: %s", (_, walMiB, pace) =>
    assert.strictEqual(paceFor(BigInt(walMiB * MiB), 1000 * MiB, defaultBaseLimits), pace)
  )

  it.effect("is tried again later and later", () =>
    Effect.gen(function* () {
      const step = yield* Schedule.toStep(baseRetries)
      const pauses = yield* Effect.replicateEffect(
        Effect.suspend(() => step(0, undefined)),
        9
      )
      assert.deepStrictEqual(
        pauses.map(([, pause]) => Duration.toSeconds(pause)),
        [10, 20, 40, 80, 160, 320, 600, 600, 600]
      )
    })
  )

  it.each([
    ["PG_VERSION", "file", "copy"],
    ["postgresql.auto.conf", "file", "skip"],
    ["postgresql.conf", "file", "skip"],
    ["postmaster.pid", "file", "skip"],
    ["backup_label", "file", "skip"],
    ["recovery.signal", "file", "skip"],
    ["server.key", "file", "skip"],
    ["base", "directory", "copy"],
    ["base/5/1259", "file", "copy"],
    ["base/5/t3_16384", "file", "skip"],
    ["base/5/pg_internal.init", "file", "skip"],
    ["base/pgsql_tmp", "directory", "skip"],
    ["pg_wal", "directory", "empty"],
    ["pg_replslot", "directory", "empty"],
    ["pg_xact", "directory", "copy"],
    ["log", "directory", "skip"]
  ] as const)("%s: %s → %s", (path, kind, rule) => assert.strictEqual(contentRule(path, kind), rule))
})
