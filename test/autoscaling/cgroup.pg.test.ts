/**
 * The way into a cgroup: by files that look like one, and, where this machine lets us make a real one, with a real
 * Postgres in it. Where it does not, what is asserted is that we say so.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as path from "node:path"
import { cgroupCommand, openCgroup } from "../../src/autoscaling/Cgroup.ts"
import { CgroupUnusable } from "../../src/errors/Failure.ts"
import { connect } from "../../src/pgwire/Wire.ts"
import { runCommand } from "../../src/platform/processes.ts"
import { helperStages, shutdownStages } from "../../src/platform/shutdownStages.ts"
import { type RunAs, Spawn, type SpawnRequest } from "../../src/platform/Spawn.ts"
import { cleanEnvironment, configOf, makeCluster, runAs } from "../support/postgres.ts"
import { fakeCgroup } from "./scriptedAgent.ts"

const request = (command: string, args: ReadonlyArray<string>, as: RunAs | null = null): SpawnRequest => ({
  command,
  args,
  runAs: as,
  cwd: "/",
  stages: helperStages
})

const mayBeWritten = (file: string, by: RunAs | null) => {
  fs.chmodSync(file, 0o644)
  if (by !== null) fs.chownSync(file, by.uid, by.gid)
  for (let at = path.dirname(file); at.includes("compute-ctl-cgroup-"); at = path.dirname(at)) fs.chmodSync(at, 0o755)
}

describe("a program that enters a cgroup", () => {
  it.live("the program's own pid is written before it begins, and its arguments arrive as they were", () =>
    Effect.gen(function* () {
      const { folder, root } = yield* fakeCgroup
      const procs = path.join(folder, "cgroup.procs")
      mayBeWritten(procs, runAs)
      const args = ["-c", `echo "$$|$0|$1|$2"`, "a b", "$(touch x)", "'\"\\"]
      const enteringCgroup = yield* cgroupCommand(
        { root, name: "neon-postgres", policy: "refuse", path: undefined },
        request("/bin/sh", args, runAs)
      )
      const { stdout } = yield* runCommand(enteringCgroup, "10 seconds")
      assert.strictEqual(stdout, `${fs.readFileSync(procs, "utf8").trim()}|a b|$(touch x)|'"\\\n`)
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("is in the group by which it may enter, when we are root; else the error says what it takes", () =>
    Effect.gen(function* () {
      const { folder, root } = yield* fakeCgroup
      const procs = path.join(folder, "cgroup.procs")
      mayBeWritten(procs, null)
      const users = 54_322
      const at = {
        root,
        name: "neon-postgres",
        policy: "refuse",
        path: process.env["PATH"],
        groupsOf: () => [users]
      } as const
      const somebody: RunAs = { name: "somebody", uid: 54_321, gid: 54_321 }
      if (process.getuid?.() !== 0) {
        const closed = yield* Effect.flip(cgroupCommand(at, request("/bin/sh", [], somebody)))
        assert.include(closed.message, "may not write its cgroup.procs")
        return
      }
      fs.chownSync(procs, 0, users)
      fs.chmodSync(procs, 0o664)
      const asked = request("/bin/sh", ["-c", "echo $$; id -u; id -g; id -G; pwd"], somebody)
      const { stdout } = yield* runCommand(yield* cgroupCommand(at, asked), "10 seconds")
      const [pid, ...who] = stdout.trim().split("\n")
      assert.strictEqual(fs.readFileSync(procs, "utf8").trim(), pid)
      assert.deepStrictEqual(who, ["54321", "54321", "54321 54322", "/"])
      const without = yield* Effect.flip(cgroupCommand({ ...at, path: "/nowhere" }, asked))
      assert.include(without.message, "somebody may write its cgroup.procs only as one of a group, which needs setpriv")
      fs.chmodSync(procs, 0o646)
      const kept = yield* Effect.flip(cgroupCommand(at, asked))
      assert.include(kept.message, "may not write", "the group's bits count before everybody's")
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("that turns out to be closed ends the program before it begins, with a reason", () =>
    Effect.gen(function* () {
      const { folder, root } = yield* fakeCgroup
      const procs = path.join(folder, "cgroup.procs")
      mayBeWritten(procs, null)
      const at = { root, name: "neon-postgres", policy: "refuse", path: undefined } as const
      const enteringCgroup = yield* cgroupCommand(at, request("/bin/echo", ["began"]))
      fs.rmSync(folder, { recursive: true })
      const failure = yield* Effect.flip(runCommand(enteringCgroup, "10 seconds"))
      assert.strictEqual(failure._tag, "CommandFailed")
      assert.include(failure.message, "126")
      assert.include(failure.message, `cannot enter the cgroup through ${procs}`)
    }).pipe(Effect.provide(Spawn.layer))
  )

  it.live("that is missing or not ours is refused, or done without", () =>
    Effect.gen(function* () {
      const { folder, root } = yield* fakeCgroup
      const somebody: RunAs = { name: "somebody", uid: 54_321, gid: 54_321 }
      const asked = request("/bin/echo", [], somebody)
      const enter = (name: string, policy: "refuse" | "deny-downscales" | "run-without", PATH = "/nowhere") =>
        cgroupCommand({ root, name, policy, path: PATH }, asked)
      const missing = yield* Effect.flip(enter("other", "refuse"))
      assert.instanceOf(missing, CgroupUnusable)
      assert.strictEqual(missing.message, `the cgroup ${root}/other cannot be used: there is no such cgroup`)
      fs.chmodSync(path.join(folder, "cgroup.procs"), 0o644)
      const closed = yield* Effect.flip(enter("neon-postgres", "refuse"))
      assert.strictEqual(
        closed.message,
        `the cgroup ${folder} cannot be used: somebody may not write its cgroup.procs, and there is no cgexec`
      )
      for (const policy of ["deny-downscales", "run-without"] as const) {
        assert.strictEqual(yield* enter("neon-postgres", policy), asked)
        assert.strictEqual(yield* enter("../x", policy), asked)
      }
      const bin = path.join(root, "bin")
      fs.mkdirSync(bin)
      fs.writeFileSync(path.join(bin, "cgexec"), "#!/bin/sh\n", { mode: 0o755 })
      assert.deepInclude(yield* enter("neon-postgres", "refuse", `/nowhere:${bin}`), {
        command: path.join(bin, "cgexec"),
        args: ["-g", "memory:neon-postgres", "/bin/echo"]
      })
    })
  )
})

/** Where cgroup v2 is mounted here, if it is. */
const mount = (): string | undefined =>
  fs.existsSync("/proc/self/mounts")
    ? fs
        .readFileSync("/proc/self/mounts", "utf8")
        .split("\n")
        .map((line) => line.split(" "))
        .find(([, , type]) => type === "cgroup2")?.[1]
    : undefined

const attempt = (action: () => void): boolean => {
  try {
    action()
    return true
  } catch {
    return false
  }
}

/**
 * A group of the run-as user with two groups below it, because the kernel lets a process move only between groups
 * whose common ancestor its user may write. `null` when this machine does not let us.
 */
const delegated = Effect.acquireRelease(
  Effect.sync(() => {
    const root = mount()
    if (root === undefined) return null
    const group = path.join(root, `compute-ctl-test-${process.pid}`)
    if (!attempt(() => fs.mkdirSync(group))) return null
    // Without a memory controller to give, there will be no memory.stat; the test recognises these machines.
    attempt(() => fs.writeFileSync(path.join(group, "cgroup.subtree_control"), "+memory"))
    for (const name of ["from", "postgres"]) fs.mkdirSync(path.join(group, name))
    for (const name of [".", "from", "postgres"]) {
      if (runAs !== null) fs.chownSync(path.join(group, name, "cgroup.procs"), runAs.uid, runAs.gid)
    }
    return { root, group, name: path.basename(group) }
  }),
  (made) =>
    made === null
      ? Effect.void
      : Effect.forEach(
          ["postgres", "from", "."],
          (name) => {
            const folder = path.join(made.group, name)
            return Effect.repeat(
              Effect.sync(() => attempt(() => fs.rmdirSync(folder))),
              { until: (gone) => gone }
            ).pipe(Effect.timeout("10 seconds"), Effect.orDie)
          },
          { discard: true }
        )
)

describe("a real cgroup", () => {
  it.live("holds a real Postgres, all of it, from its first instruction; or the error says why it cannot", () =>
    Effect.gen(function* () {
      const made = yield* delegated
      if (made === null) {
        const at = { root: mount() ?? "/sys/fs/cgroup", name: "compute-ctl-test-none" }
        assert.instanceOf(yield* Effect.flip(openCgroup(at)), CgroupUnusable)
        const refused = yield* Effect.flip(
          cgroupCommand({ ...at, policy: "refuse", path: undefined }, request("/bin/true", []))
        )
        assert.match(refused.message, /there is no such cgroup|is not the root of a cgroup v2 hierarchy/)
        return
      }
      const { group, name, root } = made
      const cluster = yield* makeCluster()
      const entered = yield* cgroupCommand(
        { root, name: `${name}/postgres`, policy: "refuse", path: undefined },
        request(cluster.install.postgres, ["-D", cluster.pgdata], runAs)
      )
      // The move is made by the run-as user, from a group of theirs.
      const drop = runAs === null ? [] : ["setpriv", `--reuid=${runAs.uid}`, `--regid=${runAs.gid}`, "--clear-groups"]
      const { spawn } = yield* Spawn
      const child = yield* spawn({
        command: "/bin/sh",
        args: [
          "-c",
          `echo "$$" > "$0" && exec "$@"`,
          `${group}/from/cgroup.procs`,
          ...drop,
          entered.command,
          ...entered.args
        ],
        runAs: null,
        cwd: "/",
        env: Object.fromEntries(Object.keys(process.env).map((key) => [key, cleanEnvironment()[key]])),
        stages: shutdownStages
      })
      yield* Effect.forkScoped(Stream.runDrain(child.stderr))
      yield* Effect.forkScoped(Stream.runDrain(child.stdout))
      const config = { ...configOf(cluster)(), connectWithin: Duration.seconds(2) }
      const wire = yield* Effect.retry(connect(config), Schedule.spaced("20 millis")).pipe(Effect.timeout("30 seconds"))
      const pids = fs.readFileSync(`${group}/postgres/cgroup.procs`, "utf8").trim().split("\n").map(Number)
      assert.include(pids, child.pid)
      assert.include(pids, wire.backendPid)
      const [pid] = fs.readFileSync(path.join(cluster.pgdata, "postmaster.pid"), "utf8").split("\n")
      assert.strictEqual(Number(pid), child.pid)

      if (!fs.existsSync(`${group}/postgres/memory.stat`)) {
        const blind = yield* Effect.flip(openCgroup({ root, name: `${name}/postgres` }))
        assert.match(blind.message, /its memory.stat cannot be read; is the memory controller on\?$/)
        return
      }
      const { anonymous } = yield* openCgroup({ root, name: `${name}/postgres` })
      const before = yield* anonymous
      assert.isAbove(before, 0)
      yield* wire.simple("set work_mem = '256MB'")
      yield* wire.simple(
        "begin; declare c cursor for select g from generate_series(1, 2000000) g order by -g; fetch 1 from c"
      )
      const after = yield* anonymous
      assert.isAbove(after - before, 32 * 1024 * 1024)
    }).pipe(Effect.provide(Spawn.layer))
  )
})
