/**
 * The units of `packaging/systemd` against the program that they start, and against systemd where there is one.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Result from "effect/Result"
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll } from "vitest"
import { parseArguments } from "../../src/cli/arguments.ts"
import { usageError } from "../../src/errors/policy.ts"
import { shutdownStages } from "../../src/platform/shutdownStages.ts"

const folder = path.resolve(import.meta.dirname, "../../packaging/systemd")

/** The directives of a unit, `Section.Name` each, with every value that it is given. */
const read = (name: string): ReadonlyMap<string, ReadonlyArray<string>> => {
  const found = new Map<string, Array<string>>()
  let section = ""
  const text = fs.readFileSync(path.join(folder, name), "utf8").replaceAll(/\\\n\s*/g, "")
  for (const line of text.split("\n").filter((one) => one !== "" && !one.startsWith("#"))) {
    const [, header] = /^\[(\w+)\]$/.exec(line) ?? []
    const [, key = "", value = ""] = /^(\w+)=(.*)$/.exec(line) ?? []
    if (header !== undefined) section = header
    else found.set(`${section}.${key}`, [...(found.get(`${section}.${key}`) ?? []), value])
  }
  return found
}

const compute = read("compute_ctl.service")
const dropIn = read("scale-to-zero.conf")
const socket = read("compute_ctl-proxy.socket")
const proxy = read("compute_ctl-proxy.service")

const one = (unit: typeof compute, name: string): string => unit.get(name)?.at(-1) ?? assert.fail(`no ${name}`)

const variables = (...units: ReadonlyArray<typeof compute>): Readonly<Record<string, string>> =>
  Object.fromEntries(
    units.flatMap((unit) => unit.get("Service.Environment") ?? []).map((line) => line.split("=") as [string, string])
  )

/** What the program makes of the command line of the unit with these variables. */
const settingsWith = (environment: Readonly<Record<string, string>>) => {
  const words = one(compute, "Service.ExecStart")
    .replaceAll(/\$\{?(\w+)\}?/g, (_, name: string) => environment[name] ?? "")
    .split(" ")
    .filter((word) => word !== "")
  const parsed = parseArguments(words.slice(1), {})
  if (Result.isFailure(parsed) || parsed.success._tag !== "Run") return assert.fail(JSON.stringify(parsed))
  return parsed.success.settings
}

describe("the unit of a compute", () => {
  it("starts a compute on local storage on the port that users expect", () => {
    const { connstr, exitWhenIdle, pgdata, spec, storage } = settingsWith(variables(compute))
    const state = `/var/lib/${one(compute, "Service.StateDirectory")}`
    assert.deepInclude(storage, { _tag: "Local", directory: `${state}/storage` })
    assert.strictEqual(pgdata, `${state}/pgdata`)
    assert.deepStrictEqual(spec, { _tag: "File", path: "/etc/compute-ctl/spec.json" })
    assert.strictEqual(connstr?.port, 5432)
    assert.isFalse(exitWhenIdle)
  })

  it("waits for the program's messages, takes them from its helpers, and reloads it by SIGHUP", () => {
    assert.strictEqual(one(compute, "Service.Type"), "notify")
    assert.strictEqual(one(compute, "Service.NotifyAccess"), "all")
    assert.strictEqual(one(compute, "Service.ExecReload"), "/bin/kill -HUP $MAINPID")
  })

  it("grants a stop all of its stages, and the last base", () => {
    const stages = shutdownStages.reduce((sum, { grace }) => sum + Duration.toSeconds(grace), 0)
    assert.isAbove(
      Number(one(compute, "Service.TimeoutStopSec")),
      stages + settingsWith(variables(compute)).stopBudgetSeconds
    )
  })

  it("is started again after a failure, and not after a wrong command line or an end in order", () => {
    assert.strictEqual(one(compute, "Service.Restart"), "on-failure")
    assert.strictEqual(one(compute, "Service.RestartPreventExitStatus"), String(usageError))
  })

  it("may be started as often as it is woken", () => {
    assert.strictEqual(one(compute, "Unit.StartLimitIntervalSec"), "0")
  })
})

describe("the units of scale to zero", () => {
  const { connstr, exitWhenIdle } = settingsWith(variables(compute, dropIn))

  it("have the compute end when it is idle, and listen where its clients come", () => {
    assert.isTrue(exitWhenIdle)
    assert.strictEqual(one(socket, "Socket.ListenStream"), "5432")
  })

  it("pass connections on to the compute's own port, once it is ready and only as long as it lives", () => {
    assert.match(one(proxy, "Service.ExecStart"), new RegExp(` 127\\.0\\.0\\.1:${connstr?.port}$`))
    assert.include(proxy.get("Unit.BindsTo") ?? [], "compute_ctl.service")
    assert.include(proxy.get("Unit.After") ?? [], "compute_ctl.service")
  })

  it("let the proxy leave before an idle compute does, so that who comes then waits in the socket", () => {
    const [, seconds] = /--exit-idle-time=(\d+)s /.exec(one(proxy, "Service.ExecStart")) ?? []
    assert.isAtMost(Number(seconds), 30)
  })
})

const analyze = "systemd-analyze"
const hasAnalyze = spawnSync(analyze, ["--version"]).status === 0
if (!hasAnalyze) console.info("systemd-analyze is not installed here: the units are compared with the program alone")

describe("systemd-analyze", () => {
  const at = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-units-"))
  afterAll(() => fs.rmSync(at, { recursive: true, force: true }))
  const units = fs.readdirSync(folder).filter((name) => name.startsWith("compute_ctl"))
  // What they start is not installed here.
  for (const name of units) {
    const text = fs.readFileSync(path.join(folder, name), "utf8")
    fs.writeFileSync(path.join(at, name), text.replace(/^ExecStart=\S+/m, "ExecStart=/bin/true"))
  }

  it("finds nothing wrong with the units, where it is installed", () => {
    if (!hasAnalyze) return
    const { status, stderr } = spawnSync(analyze, ["verify", "--man=no", ...units.map((name) => path.join(at, name))], {
      encoding: "utf8",
      env: { ...process.env, SYSTEMD_UNIT_PATH: `${at}:` }
    })
    const ours = stderr.split("\n").filter((line) => line.includes("compute_ctl"))
    assert.deepStrictEqual([status, ours], [0, []], stderr)
  })

  it("calls the exposure of each service small, where it is installed", () => {
    if (!hasAnalyze) return
    for (const name of units.filter((unit) => unit.endsWith(".service"))) {
      const text = execFileSync(analyze, ["security", "--offline=yes", "--threshold=20", path.join(at, name)], {
        encoding: "utf8"
      })
      assert.match(text, /Overall exposure level for .*: [01]\.\d OK/)
    }
  })
})
