/**
 * What a machine with containers does to a compute: namespaces in which processes cannot see each other, a root that
 * may not look into other users' processes, a PID 1 that reaps nobody.
 */
import * as Effect from "effect/Effect"
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import { codeOf } from "../../../src/errors/errno.ts"
import { commandLineOf } from "../../../src/platform/processes.ts"
import { killAll, launch, type Place, processesIn, type Program, rows, session } from "../../program/harness.ts"
import { apart, childrenOf } from "../../support/processes.ts"
import { startShipped } from "../../support/shipped.ts"

export { apart } from "../../support/processes.ts"

/** The same, where somebody else is PID 1: it outlives the compute, and reaps nobody. */
export const apartWithInit: ReadonlyArray<string> = [...apart, "sh", "-c", '"$@" & exec sleep 100000', "sh"]

/** Root as Docker makes it: every process may be signalled, and no other user's be looked into. */
export const withoutPtrace: ReadonlyArray<string> = [
  "setpriv",
  "--bounding-set=-sys_ptrace",
  "--inh-caps=-sys_ptrace",
  "--"
]

/** Runs the test where the machine can; elsewhere says so. */
export const where = <A, E, R>(program: ReadonlyArray<string>, test: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const [command, ...args] = program
    const tried = spawnSync(command ?? "", [...args, "true"], { encoding: "utf8" })
    if (tried.status === 0) return Effect.asVoid(test)
    const because = tried.error?.message ?? tried.stderr.trim()
    return Effect.sync(() => void process.stdout.write(`not tested on this machine: ${because}\n`))
  })

/** A process and all that it started, as far as they were not handed to another parent. */
const descendants = (pid: number): ReadonlyArray<number> => {
  return [pid, ...childrenOf(pid).flatMap(descendants)]
}

/** The process of `compute_ctl` itself, below whatever started it. */
export const computeOf = (program: Program): number => {
  const found = descendants(program.pid).find(
    // Whatever started it has the same words in its own command line, after others.
    (pid) => commandLineOf(pid)?.startsWith(`${startShipped.join(" ")} `) === true
  )
  if (found === undefined) throw new Error("the compute has left")
  return found
}

/** Enters the namespaces of a process. */
export const beside = (pid: number): ReadonlyArray<string> => ["nsenter", "-t", String(pid), "-p", "-m", "-i", "--"]

/** The PID 1 of the namespace that a program was started in. */
export const initOf = (program: Program): number => {
  const [init] = childrenOf(program.pid)
  if (init === undefined) throw new Error("the namespace is gone")
  return init
}

/** How many locks a process holds by inheritance; none, once it is gone. */
export const locksHeldBy = (pid: number): number => {
  try {
    return fs
      .readdirSync(`/proc/${pid}/fdinfo`)
      .filter((fd) => /^lock:.*FLOCK/m.test(fs.readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))).length
  } catch (cause) {
    if (["ENOENT", "ESRCH"].includes(codeOf(cause) ?? "")) return 0
    throw cause
  }
}

/** All files below a folder with size and time of their last change, without what locks may change. */
export const stateOf = (folder: string): string =>
  execFileSync("find", [folder, "-not", "-path", "*/lock*", "-type", "f", "-printf", "%P %s %T@\n"], {
    encoding: "utf8"
  })
    .split("\n")
    .sort()
    .join("\n")

/**
 * Inserts row after row; what came back is acknowledged. Ends with the connection; the last row may be there without
 * having been acknowledged.
 */
export const write = (at: Place, acknowledged: Array<number>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const wire = yield* session(at)
      for (;;) {
        const n = acknowledged.length
        yield* wire.simple(`insert into kept values (${n}) on conflict do nothing`)
        acknowledged.push(n)
      }
    })
  ).pipe(Effect.ignore)

export const makeTable = (at: Place) => rows(at, "create table kept (n int primary key)")

/** How many acknowledged rows are not there. */
export const lostOf = Effect.fnUntraced(function* (at: Place, acknowledged: ReadonlyArray<number>) {
  const there = new Set((yield* rows(at, "select n from kept")).map(([n]) => Number(n)))
  return acknowledged.filter((n) => !there.has(n)).length
})

/** Killed with the scope, with everything below whatever started it. */
export const start = (args: ReadonlyArray<string>, at: Place, under: ReadonlyArray<string> = []) =>
  Effect.tap(launch(args, at.httpPort, {}, "none", under), (program) =>
    Effect.addFinalizer(() => Effect.sync(() => killAll([...descendants(program.pid)].reverse(), "SIGKILL")))
  )

/** kill -9 of the compute alone: its Postgres goes on, and its children are nobody's. */
export const killCompute = (program: Program) => Effect.sync(() => killAll([computeOf(program)], "SIGKILL"))

export const postgresOf = (at: Place) => processesIn(`${at.directory}/pgdata`)
