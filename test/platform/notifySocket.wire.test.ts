/**
 * Messages to a service manager over a real datagram socket, by each helper that this machine has.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { notify } from "../../src/platform/notifySocket.ts"
import { notifySocket } from "../support/notifySocket.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { eventually } from "../support/waiting.ts"

/** The program itself, where a wrapper may stand in its place; `null`: it is not installed. */
const programOf = (name: string): string | null => {
  const { status, stdout } =
    name === "python3"
      ? spawnSync(name, ["-c", "import sys; print(sys.executable)"], { encoding: "utf8" })
      : spawnSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" })
  return status === 0 ? stdout.trim() : null
}

/** For the scope, no program is found but these. */
const onlyWith = (folder: string, programs: ReadonlyArray<readonly [name: string, path: string]>) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      for (const [name, path] of programs) fs.symlinkSync(path, `${folder}/${name}`)
      const before = process.env["PATH"]
      process.env["PATH"] = folder
      return before
    }),
    (before) => Effect.sync(() => void (process.env["PATH"] = before))
  )

describe("a message to the service manager", () => {
  for (const name of ["systemd-notify", "perl", "python3"] as const) {
    const program = programOf(name)
    it.live(`is sent by ${name}, whole and each assignment on its line, to both kinds of sockets`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          if (program === null) return console.info(`${name} is not installed here: nothing is sent by it`)
          const folder = yield* temporaryFolder
          for (const socket of [`${folder}/notify`, `@compute-ctl-test-${process.pid}-${name}`]) {
            const messages = yield* notifySocket(socket)
            yield* Effect.scoped(
              Effect.andThen(
                onlyWith(fs.mkdtempSync(`${folder}/bin`), [[name, program]]),
                notify(socket, ["READY=1", 'STATUS=50 % of "x"\nREADY=0'])
              )
            )
            const [message] = yield* eventually("a message", () => messages().length > 0 && messages())
            assert.strictEqual(message, 'READY=1 STATUS=50 % of "x" READY=0')
          }
        })
      )
    )
  }

  it.live("is a failure where there is no helper, and where there is no socket", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const folder = yield* temporaryFolder
        const nobody = yield* Effect.flip(notify(`${folder}/notify`, ["READY=1"]))
        assert.notStrictEqual(nobody._tag, "SpawnFailed")
        yield* onlyWith(folder, [])
        assert.strictEqual((yield* Effect.flip(notify(`${folder}/notify`, ["READY=1"])))._tag, "SpawnFailed")
      })
    )
  )
})
