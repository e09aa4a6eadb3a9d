/**
 * The lock, taken by real programs that are really killed.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { PgdataBusy } from "../../src/errors/Failure.ts"
import { isHopeless } from "../../src/platform/flock.ts"
import { holdLock, liveHolder } from "../../src/platform/lock.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { eventually } from "../support/waiting.ts"

const hold = (lock: string) =>
  holdLock({
    lock,
    owner: null,
    user: null,
    allowUnfenced: false,
    busy: (holder) => new PgdataBusy({ directory: lock, holder }),
    prove: () => Effect.void
  })

const program = (lock: string) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const child = spawn(process.execPath, [path.join(import.meta.dirname, "lockHolder.ts"), lock], {
        stdio: ["pipe", "pipe", "inherit"]
      })
      const exited = once(child, "exit")
      const lines: Array<string> = []
      let waiting = () => {}
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        lines.push(...text.split("\n").filter((line) => line !== ""))
        waiting()
      })
      const line = async () => {
        while (lines.length === 0) await new Promise<void>((resolve) => (waiting = resolve))
        return lines.shift() ?? ""
      }
      assert.strictEqual(await line(), "ready")
      return {
        pid: child.pid ?? 0,
        begin: () => void child.stdin.write("go\n"),
        line,
        end: async () => {
          child.stdin.end()
          await exited
        },
        kill: async () => {
          child.kill("SIGKILL")
          await exited
        }
      }
    }),
    (running) => Effect.promise(running.kill)
  )

describe("the lock between programs", () => {
  it.live("keeps a second program out and names the holder; ends with it, however it ends", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const lock = path.join(yield* temporaryFolder, "lock")
        for (const way of ["end", "kill", "kill"] as const) {
          const holder = yield* program(lock)
          holder.begin()
          assert.strictEqual(yield* Effect.promise(holder.line), "held")
          assert.strictEqual(yield* liveHolder(lock), `pid ${holder.pid}`)
          const busy = yield* Effect.flip(Effect.scoped(hold(lock)))
          assert.strictEqual(busy._tag, "PgdataBusy")
          assert.include(busy.message, `pid ${holder.pid}`)
          yield* Effect.promise(holder[way])
          assert.isNull(yield* liveHolder(lock))
        }
        yield* Effect.scoped(hold(lock))
        // What the killed left behind is swept: one claim, marked as released.
        assert.lengthOf(
          fs.readdirSync(lock).filter((name) => name !== "flock"),
          1
        )
      })
    )
  )

  it.live("over a dead holder, exactly one of many wins", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const lock = path.join(yield* temporaryFolder, "lock")
        for (let round = 0; round < 3; round++) {
          const dead = yield* program(lock)
          dead.begin()
          assert.strictEqual(yield* Effect.promise(dead.line), "held")
          const racers = yield* Effect.all(
            Array.from({ length: 4 }, () => program(lock)),
            { concurrency: "unbounded" }
          )
          yield* Effect.promise(dead.kill)
          for (const racer of racers) racer.begin()
          const lines = yield* Effect.promise(() => Promise.all(racers.map((racer) => racer.line())))
          assert.lengthOf(
            lines.filter((line) => line === "held"),
            1,
            lines.join("\n")
          )
          const winner = racers[lines.indexOf("held")]
          for (const line of lines) assert.isTrue(line === "held" || line.includes(`pid ${winner?.pid}`), line)
          for (const racer of racers) yield* Effect.promise(racer.kill)
        }
      })
    )
  )

  it.live("two claims within one program are two claimers", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const lock = path.join(yield* temporaryFolder, "lock")
        const both = yield* Effect.all([Effect.exit(hold(lock)), Effect.exit(hold(lock))], {
          concurrency: 2
        })
        assert.deepStrictEqual(both.map(({ _tag }) => _tag).sort(), ["Failure", "Success"])
      })
    )
  )

  it.live("a copy of it, or of the folder around it, is held by nobody; the original stays held", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const folder = yield* temporaryFolder
        const [lock, copy] = [path.join(folder, "lock"), path.join(folder, "copy")]
        yield* hold(lock)
        execFileSync("cp", ["-a", lock, copy])
        assert.isNull(yield* liveHolder(copy))
        yield* hold(copy)
        assert.strictEqual((yield* Effect.flip(hold(lock)))._tag, "PgdataBusy")
        assert.strictEqual((yield* Effect.flip(hold(copy)))._tag, "PgdataBusy")
      })
    )
  )

  it.live("a holder in another container, whose pid says nothing here, is known by its socket", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const lock = path.join(yield* temporaryFolder, "lock")
        const holder = yield* program(lock)
        holder.begin()
        yield* Effect.promise(holder.line)
        const record = JSON.parse(fs.readFileSync(path.join(lock, "1"), "utf8")) as object
        fs.writeFileSync(path.join(lock, "1"), JSON.stringify({ ...record, pid: 4_194_303 }))
        assert.strictEqual((yield* Effect.flip(Effect.scoped(hold(lock))))._tag, "PgdataBusy")
        yield* Effect.promise(holder.kill)
        yield* Effect.scoped(hold(lock))
      })
    )
  )

  it.live("a stopped holder whose socket takes nobody any more is alive; a zombie is not", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const lock = path.join(yield* temporaryFolder, "lock")
        const holder = yield* program(lock)
        holder.begin()
        yield* Effect.promise(holder.line)
        process.kill(holder.pid, "SIGSTOP")
        const name = fs.readdirSync(lock).find((one) => one.endsWith(".sock")) ?? ""
        const sockets: Array<net.Socket> = []
        const refused = async (): Promise<string> => {
          for (;;) {
            const socket = net.connect({ path: path.join(lock, name) })
            sockets.push(socket)
            const failure = await new Promise<string | null>((resolve) => {
              socket.once("connect", () => resolve(null))
              socket.once("error", (cause) => resolve("code" in cause ? String(cause.code) : cause.message))
            })
            if (failure !== null) return failure
          }
        }
        assert.strictEqual(yield* Effect.promise(refused), "EAGAIN")
        const record = JSON.parse(fs.readFileSync(path.join(lock, "1"), "utf8")) as object
        fs.writeFileSync(path.join(lock, "1"), JSON.stringify({ ...record, pid: 4_194_303 }))
        assert.isNotNull(yield* liveHolder(lock))
        for (const socket of sockets) socket.destroy()
        yield* Effect.promise(holder.kill)
        assert.isNull(yield* liveHolder(lock))

        // Its parent reaps nobody.
        const parent = yield* Effect.acquireRelease(
          Effect.sync(() =>
            spawn("sh", ["-c", "sleep 0.2 & echo $!; exec sleep 1000"], { stdio: ["ignore", "pipe", "ignore"] })
          ),
          (child) => Effect.sync(() => child.kill("SIGKILL"))
        )
        const [line] = (yield* Effect.promise(() => once(parent.stdout, "data"))) as [Buffer]
        const zombie = Number(line.toString())
        const stat = () => fs.readFileSync(`/proc/${zombie}/stat`, "utf8")
        yield* eventually("a zombie", () => stat().includes(") Z "))
        const startTime = stat().split(") ")[1]?.split(" ")[19] ?? null
        fs.writeFileSync(path.join(lock, "1"), JSON.stringify({ ...record, socket: null, pid: zombie, startTime }))
        assert.isNull(yield* liveHolder(lock))
        yield* Effect.scoped(hold(lock))
      })
    )
  )

  it.live("a holder from before the machine started again is dead, even if its pid lives", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const lock = path.join(yield* temporaryFolder, "lock")
        yield* Effect.scoped(hold(lock))
        const record = JSON.parse(fs.readFileSync(path.join(lock, "1"), "utf8")) as object
        const alive = { ...record, released: false }
        fs.writeFileSync(path.join(lock, "1"), JSON.stringify(alive))
        assert.isNotNull(yield* liveHolder(lock))
        fs.writeFileSync(path.join(lock, "1"), JSON.stringify({ ...alive, bootId: "another" }))
        yield* Effect.scoped(hold(lock))
        // A power cut can leave a claim without content.
        const last = path.join(
          lock,
          fs
            .readdirSync(lock)
            .filter((name) => /^\d+$/.test(name))
            .sort((a, b) => Number(a) - Number(b))
            .at(-1) ?? ""
        )
        fs.writeFileSync(last, "")
        yield* Effect.scoped(hold(lock))
      })
    )
  )
})

describe("a lock that others still hold", () => {
  it("is given up two seconds after a leftover of a dead compute was seen last, not after the first try", () => {
    assert.isFalse(isHopeless("may be ended", { total: 9000, unseen: 0 }))
    assert.isFalse(isHopeless("none seen", { total: 9000, unseen: 300 }))
    assert.isTrue(isHopeless("none seen", { total: 9000, unseen: 2100 }))
    assert.isTrue(isHopeless("none seen", { total: 2100, unseen: 2100 }))
  })

  it("is given up after two seconds when somebody else's processes hold it", () => {
    assert.isFalse(isHopeless("others", { total: 1900, unseen: 0 }))
    assert.isTrue(isHopeless("others", { total: 2100, unseen: 0 }))
  })
})
