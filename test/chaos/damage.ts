/**
 * Bits that flip in what the storage keeps, while nothing runs. A start either refuses it by name, or it was in
 * nobody's way and everything is there; the kit puts its own copy back, and the next start finds everything.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as fs from "node:fs"
import * as path from "node:path"
import { type Lsn, parseLsn } from "../../src/spec/identifiers.ts"
import { outcomeOf } from "./compute.ts"
import { rows } from "./ledger.ts"
import {
  acknowledged,
  count,
  type Fault,
  killEverything,
  live,
  requireWhole,
  type Run,
  startCompute,
  notesOf
} from "./run.ts"
import { chance, type Found, found, oneOf, someMoment } from "./waiting.ts"

const segmentBytes = 16 * 1024 * 1024

interface Flip {
  readonly file: string
  readonly inode: number
  readonly offset: number
  readonly before: number
  readonly after: number
}

/** On the disk at once: a later power cut must bring back neither the damage nor what was before it. */
const writeByte = (file: string, offset: number, byte: number): void => {
  const descriptor = fs.openSync(file, "r+")
  fs.writeSync(descriptor, Buffer.of(byte), 0, 1, offset)
  fs.fsyncSync(descriptor)
  fs.closeSync(descriptor)
}

const byteAt = (file: string, offset: number): number => {
  const byte = Buffer.alloc(1)
  const descriptor = fs.openSync(file, "r")
  fs.readSync(descriptor, byte, 0, 1, offset)
  fs.closeSync(descriptor)
  return byte[0] ?? 0
}

const flip = (file: string, offset: number, bit: number): Flip => {
  const before = byteAt(file, offset)
  const after = before ^ (1 << bit)
  writeByte(file, offset, after)
  return { file, inode: fs.statSync(file).ino, offset, before, after }
}

/** From the kit's own copy, if the damage is still there: a start may have replaced the file. */
const putBack = ({ after, before, file, inode, offset }: Flip): void => {
  const there = fs.statSync(file, { throwIfNoEntry: false })
  if (there?.ino === inode && byteAt(file, offset) === after) writeByte(file, offset, before)
}

/** A start with the damage, which is then mended. */
const flipped = Effect.fnUntraced(function* (run: Run, file: string, offset: number) {
  const damage = flip(file, offset, yield* Random.nextIntBetween(0, 8, { halfOpen: true }))
  const compute = startCompute(run)
  const outcome = yield* outcomeOf(compute)
  // A start reads what it needs: of a base, for instance, what PGDATA does not hold already.
  if (outcome === "running") yield* requireWhole(run, compute)
  else if (!/the (\w+ )?storage in \S+ cannot be used: /.test(compute.output())) {
    return yield* found("damage", `byte ${offset} of ${file} is damaged, and the start failed without its name`)
  }
  count(run, outcome === "running" ? "damages that were in nobody's way" : "damages refused")
  yield* killEverything(run)
  putBack(damage)
})

const walAt = (run: Run): Effect.Effect<Lsn, Found> =>
  rows(run.place, "select pg_current_wal_flush_lsn()").pipe(
    Effect.map((answer) => Option.getOrElse(parseLsn(answer[0]?.[0] ?? ""), () => 0n)),
    Effect.catch((failure) => found("failed start", `it does not say where its WAL is: ${failure.message}`))
  )

export const flippedWal: Fault = {
  name: "a bit flipped in the WAL",
  weight: 1.5,
  cycle: Effect.fnUntraced(function* (run) {
    const compute = yield* live(run)
    const from = yield* walAt(run)
    yield* acknowledged(run, compute, 100)
    const to = yield* walAt(run)
    // What comes later proves that there was more.
    yield* acknowledged(run, compute, 200)
    yield* killEverything(run)
    const at = from + BigInt(Math.floor((yield* Random.next) * Number(to - from)))
    const number = Number(at / BigInt(segmentBytes))
    const [log, segment] = [Math.floor(number / 256), number % 256]
    const name = ["00000001", ...[log, segment].map((part) => part.toString(16).toUpperCase().padStart(8, "0"))].join(
      ""
    )
    yield* flipped(run, path.join(run.storage.wal(run.arena.disk), name), Number(at % BigInt(segmentBytes)))
  })
}

/** Ended in one way or the other, so that nothing runs. */
const atRest = Effect.fnUntraced(function* (run: Run) {
  yield* live(run)
  yield* someMoment(300)
  yield* killEverything(run)
})

const anyByteOf = (file: string) => Random.nextIntBetween(0, Math.max(1, fs.statSync(file).size), { halfOpen: true })

export const flippedBase: Fault = {
  name: "a bit flipped in the base",
  weight: 1,
  needs: "bases",
  cycle: Effect.fnUntraced(function* (run) {
    yield* atRest(run)
    const timeline = notesOf(run)
    // With a spare nobody would read the base.
    fs.rmSync(path.join(timeline, "spare.id"), { force: true })
    const { folder } = JSON.parse(fs.readFileSync(path.join(timeline, "current.json"), "utf8")) as { folder: string }
    const files = fs
      .readdirSync(path.join(timeline, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => path.join(entry.parentPath, entry.name))
      .filter((file) => fs.statSync(file).size > 0)
      .sort()
    const file = yield* oneOf(files)
    yield* flipped(run, file, yield* anyByteOf(file))
  })
}

export const flippedNote: Fault = {
  name: "a bit flipped in a small file of the storage",
  weight: 1,
  cycle: Effect.fnUntraced(function* (run) {
    yield* atRest(run)
    const timeline = notesOf(run)
    if (yield* chance(0.3)) fs.rmSync(path.join(timeline, "spare.id"), { force: true })
    const files = fs
      .readdirSync(timeline, { withFileTypes: true })
      .filter((entry) => entry.isFile() && !entry.name.startsWith("reserve-"))
      .map((entry) => path.join(timeline, entry.name))
      .filter((file) => fs.statSync(file).size > 0)
      .sort()
    const file = yield* oneOf(files)
    yield* flipped(run, file, yield* anyByteOf(file))
  })
}
