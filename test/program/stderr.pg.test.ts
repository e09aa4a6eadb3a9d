/**
 * A standard error that nobody reads: Postgres goes on, what is lost is counted, and the end is as quick as ever.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import { least } from "../support/fixtures.ts"
import { compiledOnce } from "../support/runFolder.ts"
import { startShipped } from "../support/shipped.ts"
import { eventually, gone, localArguments, type Place, place, runFolderOf, session } from "./harness.ts"

const spec = {
  ...least,
  cluster: { roles: [], databases: [], settings: [{ name: "log_statement", value: "all", vartype: "string" }] }
}

/** The program with its stderr in a pipe whose reader is `cat`, into a file. */
const launchUnderCat = Effect.fnUntraced(function* (at: Place, more: ReadonlyArray<string> = []) {
  const [fifo, file] = [`${at.directory}/stderr`, `${at.directory}/log`]
  execFileSync("mkfifo", [fifo])
  const cat = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const fd = fs.openSync(file, "w")
      const child = spawn("cat", [fifo], { stdio: ["ignore", fd, "ignore"] })
      fs.closeSync(fd)
      return child
    }),
    (child) => Effect.sync(() => void child.kill("SIGKILL"))
  )
  const program = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const fd = fs.openSync(fifo, "w")
      const [command, ...rest] = startShipped
      const child = spawn(command, [...rest, ...localArguments(at, spec, more)], {
        stdio: ["ignore", "ignore", fd],
        env: { ...process.env, ...compiledOnce() }
      })
      fs.closeSync(fd)
      return child
    }),
    (child) => Effect.sync(() => void child.kill("SIGKILL"))
  )
  const exited = once(program, "exit")
  const http = async (route: string) => {
    const response = await fetch(`http://127.0.0.1:${at.httpPort}${route}`)
    return { status: response.status, text: await response.text() }
  }
  yield* eventually(
    "a running compute",
    () => http("/status"),
    ({ text }) => text.includes('"running"')
  )
  return { cat, program, exited, http, log: () => fs.readFileSync(file, "utf8") }
})

/** Each statement is a record of 64 KiB: 24 MiB in all. */
const flood = (at: Place) =>
  Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* session(at)
      const text = "x".repeat(64 * 1024)
      for (let statement = 0; statement < 384; statement++) yield* wire.simple(`select length('${text}')`)
    })
  )

const dropped = (metrics: string) => Number(/^compute_ctl_log_records_dropped_total (\d+)$/m.exec(metrics)?.[1])

describe("a standard error that nobody reads", () => {
  it.live("costs log records and neither sessions nor the end; the condition says so", () =>
    Effect.gen(function* () {
      const at = yield* place
      const { cat, exited, http, program } = yield* launchUnderCat(at)
      assert.strictEqual(dropped((yield* Effect.promise(() => http("/metrics"))).text), 0)
      cat.kill("SIGSTOP")
      yield* flood(at)
      yield* eventually(
        "the condition",
        () => http("/conditions"),
        ({ text }) => text.includes("log_dropped")
      )
      assert.isAbove(dropped((yield* Effect.promise(() => http("/metrics"))).text), 100)
      assert.strictEqual((yield* Effect.promise(() => http("/readyz"))).status, 200)
      program.kill("SIGTERM")
      assert.deepStrictEqual(yield* Effect.promise(() => exited), [0, null])
      yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
    })
  )

  for (const [format, more] of [
    ["text", []],
    ["JSON", ["--log-format", "json"]]
  ] as const) {
    it.live(`and is read again: one line of ${format} says how many records are missing, and the condition ends`, () =>
      Effect.gen(function* () {
        const at = yield* place
        const { cat, exited, http, log, program } = yield* launchUnderCat(at, more)
        cat.kill("SIGSTOP")
        yield* flood(at)
        yield* eventually(
          "the condition",
          () => http("/conditions"),
          ({ text }) => text.includes("log_dropped")
        )
        cat.kill("SIGCONT")
        yield* eventually(
          "no condition",
          () => http("/conditions"),
          ({ text }) => !text.includes("log_dropped")
        )
        const lost = dropped((yield* Effect.promise(() => http("/metrics"))).text)
        program.kill("SIGTERM")
        assert.deepStrictEqual(yield* Effect.promise(() => exited), [0, null])
        yield* eventually("the last line", log, (text) => text.includes("terminated"))
        assert.include(log(), `${lost} records of Postgres's log were dropped because nobody read standard error`)
        const kept = log().match(/statement: select length/g)?.length ?? 0
        assert.isAtLeast(kept + lost, 384)
        if (format === "JSON") for (const one of log().trimEnd().split("\n")) JSON.parse(one)
      })
    )
  }

  it.live("nor anybody else: a pipe whose reader is gone costs the log alone", () =>
    Effect.gen(function* () {
      const at = yield* place
      const { cat, exited, http, program } = yield* launchUnderCat(at)
      cat.kill("SIGKILL")
      yield* flood(at)
      assert.strictEqual((yield* Effect.promise(() => http("/readyz"))).status, 200)
      program.kill("SIGTERM")
      assert.deepStrictEqual(yield* Effect.promise(() => exited), [0, null])
    })
  )
})

describe("a standard error that is a terminal", () => {
  it.live("gets a line per step and the banner last, on the next port that is free, and what Ctrl-C saved", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        // Whoever has the port that nobody asked for: we, or somebody else.
        const usual = net.createServer().on("error", () => {})
        yield* Effect.acquireRelease(
          Effect.promise(
            () =>
              new Promise<void>((resolve) => {
                usual.once("error", () => resolve()).listen(3080, resolve)
              })
          ),
          () => Effect.sync(() => void usual.close())
        )
        const args = localArguments(at, spec)
        const portFlag = args.indexOf("--http-port")
        const line = [...startShipped, ...args.toSpliced(portFlag, 2)].map((word) => `'${word}'`)
        const terminal = yield* Effect.acquireRelease(
          Effect.sync(() =>
            spawn("script", ["-qec", `exec ${line.join(" ")}`, "/dev/null"], {
              stdio: ["pipe", "pipe", "inherit"],
              env: { ...process.env, ...compiledOnce(), RUNTIME_DIRECTORY: runFolderOf(at.httpPort) }
            })
          ),
          (child) => Effect.sync(() => void child.kill("SIGKILL"))
        )
        let text = ""
        terminal.stdout.on("data", (chunk: Buffer) => void (text += chunk.toString()))
        const exited = once(terminal, "exit")
        yield* eventually(
          "the banner",
          () => text,
          (shown) => /Stop +Ctrl-C\r\n/.test(shown)
        )
        const start = text.replaceAll(/\p{Cc}\[\d*m/gu, "")
        assert.match(start, /^warning: port 3080 is taken, so HTTP will listen on (\d+)\r$/m)
        const port = /so HTTP will listen on (\d+)/.exec(start)?.[1]
        assert.match(start, new RegExp(`ready, in all +\\S+ m?s\r\n[^]*:${port}/status\r\n +Stop +Ctrl-C\r\n$`))
        for (const step of ["claim the timeline", "build PGDATA", "start Postgres", "apply the spec"])
          assert.match(start, new RegExp(`^✓ ${step} +\\S+ m?s\r$`, "m"))
        assert.notMatch(start, /INFO|PG:|checkpoint|migration/i)
        assert.include(text, "\x1b[33mwarning:")
        terminal.stdin.write("\x03")
        assert.deepStrictEqual(yield* Effect.promise(() => exited), [0, null], text)
        assert.match(
          text.slice(start.length),
          /Stopping in order; .*\r\n(.*\r\n)*Stopped in order: all that was committed is in \S+\/storage\b.*\r\n$/
        )
        yield* Effect.promise(() => gone(at.directory))
      })
    )
  )
})
