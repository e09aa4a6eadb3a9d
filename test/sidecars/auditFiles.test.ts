/**
 * The audit sweeper on a real folder: old files go, the rest is measured, and a missing folder is logged once.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import { TestClock } from "effect/testing"
import * as fs from "node:fs"
import * as path from "node:path"
import { auditSweeper, sweepAuditFiles } from "../../src/sidecars/auditFiles.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { passes } from "../support/virtualTime.ts"

describe("the audit sweeper", () => {
  it.effect("removes old files and measures what is left", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const now = Date.UTC(2026, 0, 1)
      yield* TestClock.setTime(now)
      const put = (name: string, bytes: number, minutes: number) => {
        fs.writeFileSync(path.join(folder, name), "x".repeat(bytes))
        fs.utimesSync(path.join(folder, name), now / 1000 - minutes * 60, now / 1000 - minutes * 60)
      }
      put("audit-old.log", 100, 20)
      put("audit-new.log", 10, 5)
      put("postgresql.log", 1, 60)
      put("notes.txt", 1000, 60)
      fs.mkdirSync(path.join(folder, "audit-folder.log"))
      assert.strictEqual(yield* sweepAuditFiles(folder), 11)
      assert.deepStrictEqual(fs.readdirSync(folder).sort(), [
        "audit-folder.log",
        "audit-new.log",
        "notes.txt",
        "postgresql.log"
      ])
    })
  )

  it.effect("goes on without the folder, and logs that once", () => {
    const lines: Array<string> = []
    return Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const log = path.join(folder, "log")
      const measured = yield* Deferred.make<number>()
      yield* Effect.forkChild(auditSweeper(log, (bytes) => Effect.asVoid(Deferred.succeed(measured, bytes))).run, {
        startImmediately: true
      })
      yield* passes("the measurement", () => {
        if (lines.length > 0 && !fs.existsSync(log)) {
          fs.mkdirSync(log)
          fs.writeFileSync(path.join(log, "a.log"), "12345")
        }
        return Deferred.isDoneUnsafe(measured)
      })
      assert.strictEqual(yield* Deferred.await(measured), 5)
      assert.lengthOf(lines, 1)
    }).pipe(Effect.provide(Logger.layer([Logger.make((options) => void lines.push(String(options.message)))])))
  })
})
