/**
 * The limit on core dumps that the program gives its Postgres.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { parsePidFile, readPidFile } from "../../src/postgres/pidFile.ts"
import { least } from "../support/fixtures.ts"
import { launch, localArguments, place } from "./harness.ts"

/** The soft limit of this process, and so of the programs it starts from now on. */
const limitCores = (soft: string) =>
  execFileSync("prlimit", ["--pid", String(process.pid), `--core=${soft}:`], { stdio: "ignore" })

describe("the core limit", () => {
  it.live("of Postgres is as high as it may be, whatever we were started with", () =>
    Effect.gen(function* () {
      if (!fs.existsSync("/proc/self/limits")) return
      yield* Effect.acquireRelease(
        Effect.sync(() => limitCores("0")),
        () => Effect.sync(() => limitCores("0"))
      )
      const at = yield* place
      const program = yield* launch(localArguments(at, least), at.httpPort)
      yield* Effect.promise(() => program.reaches("running"))
      const pid = parsePidFile(readPidFile(path.join(at.directory, "pgdata")))?.pid
      const [, soft, hard] =
        /^Max core file size\s+(\S+)\s+(\S+)/m.exec(fs.readFileSync(`/proc/${pid}/limits`, "utf8")) ?? []
      assert.isDefined(soft)
      assert.strictEqual(soft, hard)
    })
  )
})
