/**
 * The first start on an empty volume: wherever it is cut short, the next one makes a cluster that works, and nothing of
 * the attempt is left.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { crashAt } from "../crashAt.ts"
import { makeVolume, refused, seedDirectory, start, storageFor, type Volume } from "./volumes.ts"

const record = (volume: Volume): { readonly systemId: string } =>
  JSON.parse(fs.readFileSync(`${volume.ours}/volume.json`, "utf8"))

/** What a first start has left behind for ever. */
const left = (volume: Volume) =>
  fs
    .readdirSync(volume.ours)
    .filter((name) => !["lock", "postmaster", "reached", "volume.json"].includes(name))
    .sort()

describe("a crash of the first start", () => {
  it.live.each([
    "first-marked",
    "first-wal",
    "first-copied",
    "first-moved-half",
    "first-moved",
    "first-recorded",
    "volume-cleaned"
  ] as const)("at %s leaves a volume that starts", (step) =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        yield* Effect.flatMap(crashAt(step, start(volume)), ({ interrupt }) => interrupt)
        const started = yield* start(volume)
        assert.deepStrictEqual(yield* started.rows("select count(*) > 0 from pg_class"), [["t"]])
        assert.deepStrictEqual(left(volume), [])
        assert.deepStrictEqual(yield* started.rows("select system_identifier from pg_control_system()"), [
          [BigInt.asIntN(64, BigInt(record(volume).systemId)).toString()]
        ])
        yield* started.crash()
      })
    )
  )
})

describe("a first start", () => {
  it.live("makes a cluster of its own with data checksums, from a seed that the next volume uses, too", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const [one, two] = [yield* makeVolume(), yield* makeVolume()]
        const first = yield* start(one)
        const templates = () => fs.globSync(`${seedDirectory()}/*/templates`).map((at) => fs.statSync(at).mtimeMs)
        const before = templates()
        assert.lengthOf(before, 1)
        const second = yield* start(two)
        assert.deepStrictEqual(templates(), before)
        assert.notStrictEqual(record(one).systemId, record(two).systemId)
        for (const [started, volume] of [
          [first, one],
          [second, two]
        ] as const) {
          assert.deepStrictEqual(yield* started.rows("show data_checksums"), [["on"]])
          assert.deepStrictEqual(yield* started.rows("select system_identifier from pg_control_system()"), [
            [BigInt.asIntN(64, BigInt(record(volume).systemId)).toString()]
          ])
          yield* started.crash()
        }
      })
    )
  )

  it.live.each([16, 18])("and the next one after kill -9 work with Postgres %i", (major) =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume({ major })
        const first = yield* start(volume)
        yield* first.rows("create table t (n int)")
        yield* first.rows("insert into t values (1)")
        yield* first.crash()
        const second = yield* start(volume)
        assert.deepStrictEqual(yield* second.rows("select n, current_setting('data_checksums') from t"), [["1", "on"]])
        yield* second.crash()
      })
    )
  )

  it.live("succeeds where no seed can be kept for the next volume, and on a mount point with root's lost+found", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        fs.mkdirSync(volume.pgdata, { mode: 0o700 })
        fs.mkdirSync(`${volume.pgdata}/lost+found`)
        const file = `${volume.folder}/no-folder`
        fs.writeFileSync(file, "")
        const storage = yield* storageFor(volume, { seedDirectory: `${file}/seeds` })
        const first = yield* start(volume, { storage })
        assert.deepStrictEqual(left(volume), [])
        assert.isTrue(fs.existsSync(`${volume.pgdata}/lost+found`))
        yield* first.crash()
      })
    )
  )

  it.live("is refused with --require-existing, and nothing is made", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const volume = yield* makeVolume()
        const storage = yield* storageFor(volume, { requireExisting: true })
        const { hint, message, tag } = yield* refused(volume, { storage })
        assert.strictEqual(tag, "StorageMissing")
        assert.include(message, `the storage in ${volume.pgdata} is not there: there is no such folder`)
        assert.include(hint, "mount the volume")
        assert.isFalse(fs.existsSync(volume.pgdata))
      })
    )
  )
})
