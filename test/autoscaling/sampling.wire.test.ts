/**
 * Agents and a cgroup made of files, in real time: requests for more, grants and denials, and a cgroup that cannot be
 * read.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { thresholdOf } from "../../src/autoscaling/decisions.ts"
import type { VmMonitorOptions } from "../../src/autoscaling/VmMonitor.ts"
import {
  type Agent,
  connectAgent,
  dial,
  fakeCgroup,
  type FakeCgroup,
  GiB,
  type RunningMonitor,
  MiB,
  startMonitor
} from "./scriptedAgent.ts"

const watched = Effect.fnUntraced(function* (options: Partial<VmMonitorOptions> = {}) {
  const cgroup = yield* fakeCgroup
  const monitor = yield* startMonitor({ cgroup: "neon-postgres", cgroupRoot: cgroup.root, ...options })
  return { cgroup, monitor }
})

/** Every sample of the mean is of what is in use now. */
const settled = ({ until }: RunningMonitor, bytes: number) => until(({ meanBytes }) => meanBytes === bytes)

const downscale = Effect.fnUntraced(function* (agent: Agent, id: number, mem: number) {
  yield* agent.send("DownscaleRequest", id, { target: { cpu: 0.25, mem } })
  return yield* agent.answer
})

const everything = ({ root }: FakeCgroup) =>
  fs
    .readdirSync(root, { recursive: true, encoding: "utf8" })
    .sort()
    .map((name) => {
      const stat = fs.statSync(path.join(root, name))
      return [name, stat.size, stat.mtimeMs, stat.mode]
    })

describe("the monitor asks for more memory", () => {
  it.live("not in the first second, then once a second, with odd ids, for as long as it is needed", () =>
    Effect.gen(function* () {
      const { cgroup, monitor } = yield* watched()
      cgroup.use(thresholdOf(2 * GiB))
      // Counted from before the connection: a request that is received late makes the gap to the next one short.
      const began = yield* Clock.currentTimeMillis
      const agent = yield* connectAgent(monitor.port)
      for (const [index, id] of [3, 5, 7].entries()) {
        assert.deepStrictEqual(yield* agent.next, { type: "UpscaleRequest", id })
        assert.isAtLeast((yield* Clock.currentTimeMillis) - began, 950 * (index + 1))
      }
      assert.strictEqual((yield* monitor.counts).upscaleRequests, 3)
      // One byte less in the mean is below the threshold.
      cgroup.use(thresholdOf(2 * GiB) - 1)
      const { upscaleRequests } = yield* settled(monitor, thresholdOf(2 * GiB) - 1)
      const { samples } = yield* monitor.counts
      yield* monitor.until((counts) => counts.samples > samples + 15)
      assert.strictEqual((yield* monitor.counts).upscaleRequests, upscaleRequests)
    })
  )

  it.live("stops when more was given, and every agent's ids start again", () =>
    Effect.gen(function* () {
      const { cgroup, monitor } = yield* watched()
      cgroup.use(2 * GiB)
      const first = yield* connectAgent(monitor.port)
      assert.deepStrictEqual(yield* first.next, { type: "UpscaleRequest", id: 3 })
      yield* first.send("UpscaleNotification", 2, { granted: { cpu: 1, mem: 4 * GiB } })
      assert.deepStrictEqual(yield* first.answer, { type: "UpscaleConfirmation", id: 2 })
      const { samples, thresholdBytes, upscaleRequests } = yield* monitor.counts
      assert.strictEqual(thresholdBytes, 3561593241)
      yield* monitor.until((counts) => counts.samples > samples + 15)
      assert.strictEqual((yield* monitor.counts).upscaleRequests, upscaleRequests)
      // What was granted is forgotten with the connection: the kernel's total counts again.
      const second = yield* connectAgent(monitor.port)
      assert.deepStrictEqual(yield* second.next, { type: "UpscaleRequest", id: 3 })
    })
  )

  it.live("a notification of almost nothing makes it ask at once", () =>
    Effect.gen(function* () {
      const { monitor } = yield* watched()
      const agent = yield* connectAgent(monitor.port)
      yield* agent.send("UpscaleNotification", 2, { granted: { cpu: 1, mem: 50 * MiB } })
      assert.deepStrictEqual(yield* agent.next, { type: "UpscaleConfirmation", id: 2 })
      assert.deepStrictEqual(yield* agent.next, { type: "UpscaleRequest", id: 3 })
      assert.strictEqual((yield* monitor.counts).thresholdBytes, 0)
    })
  )
})

describe("giving back", () => {
  it.live("is denied before there are two samples", () =>
    Effect.gen(function* () {
      const { monitor } = yield* watched()
      const agent = yield* dial(monitor.port)
      // In one go, so that the request is there before the second sample is.
      yield* agent.sendRaw(`{"min":1,"max":1}`)
      yield* agent.send("DownscaleRequest", 2, { target: { cpu: 1, mem: GiB } })
      assert.deepStrictEqual(yield* agent.next, { version: 1 })
      assert.deepStrictEqual(yield* agent.next, {
        type: "DownscaleResult",
        Ok: false,
        Status: "haven't received enough cgroup memory stats yet",
        id: 2
      })
    })
  )

  it.live("is granted up to the boundary, and then the threshold is lower", () =>
    Effect.gen(function* () {
      const { cgroup, monitor } = yield* watched()
      cgroup.use(718_693_991)
      const agent = yield* connectAgent(monitor.port)
      yield* settled(monitor, 718_693_991)
      yield* monitor.until(({ samples }) => samples >= 5)
      assert.deepStrictEqual(yield* downscale(agent, 2, GiB), {
        type: "DownscaleResult",
        Ok: false,
        Status:
          "calculated memory threshold too low: 785.4 MiB (new threshold) < " +
          "685.4 (current usage) + 100 (downscale buffer)",
        id: 2
      })
      cgroup.use(718_693_990)
      yield* settled(monitor, 718_693_990)
      assert.deepStrictEqual(yield* downscale(agent, 4, GiB), {
        type: "DownscaleResult",
        Ok: true,
        Status: "set cgroup memory threshold from 1740.8 MiB to 785.4 MiB, of new total 924 MiB",
        id: 4
      })
      assert.deepInclude(yield* monitor.counts, {
        downscalesGranted: 1,
        downscalesDenied: 1,
        thresholdBytes: 823551590
      })
      cgroup.use(823551590)
      assert.deepStrictEqual(yield* agent.next, { type: "UpscaleRequest", id: 3 })
    })
  )

  it.live("has no answer when samples stopped five seconds ago; the connection lives, and so it does afterwards", () =>
    Effect.gen(function* () {
      const { cgroup, monitor } = yield* watched()
      const agent = yield* connectAgent(monitor.port)
      yield* monitor.until(({ samples }) => samples >= 5)
      cgroup.write("file 5\n")
      yield* monitor.until(({ sampleFailures }) => sampleFailures > 3)
      assert.deepInclude(yield* downscale(agent, 2, GiB), { Ok: true })
      cgroup.write(null)
      yield* monitor.until(({ sampleFailures }) => sampleFailures > 52)
      assert.deepStrictEqual(yield* downscale(agent, 4, GiB), {
        type: "InternalError",
        error: "failed to downscale",
        id: 4
      })
      yield* agent.send("HealthCheck", 6)
      assert.deepStrictEqual(yield* agent.next, { type: "HealthCheck", id: 6 })
      cgroup.use(5000)
      yield* settled(monitor, 5000)
      assert.deepInclude(yield* downscale(agent, 8, GiB), { Ok: true, id: 8 })
      assert.deepInclude(yield* monitor.counts, { downscalesFailed: 1, connections: 1 })
    })
  )

  it.live("nothing is ever written under the cgroup", () =>
    Effect.gen(function* () {
      const { cgroup, monitor } = yield* watched()
      const before = everything(cgroup)
      const agent = yield* connectAgent(monitor.port)
      yield* monitor.until(({ samples }) => samples >= 5)
      assert.deepInclude(yield* downscale(agent, 2, GiB), { Ok: true })
      yield* agent.send("UpscaleNotification", 4, { granted: { cpu: 1, mem: 4 * GiB } })
      assert.deepInclude(yield* agent.next, { type: "UpscaleConfirmation" })
      assert.deepStrictEqual(everything(cgroup), before)
    })
  )
})

describe("a cgroup that cannot be watched", () => {
  const cases: ReadonlyArray<readonly [string, (cgroup: FakeCgroup) => Partial<VmMonitorOptions>, string]> = [
    ["is not there", () => ({ cgroup: "other" }), "there is no such cgroup"],
    [
      "is of version 1",
      ({ root }) => {
        fs.rmSync(path.join(root, "cgroup.controllers"))
        return {}
      },
      "is not the root of a cgroup v2 hierarchy"
    ],
    [
      "has no memory controller",
      ({ write }) => {
        write(null)
        return {}
      },
      "its memory.stat cannot be read; is the memory controller on?"
    ],
    [
      "counts no anonymous memory",
      ({ write }) => {
        write("file 1\nactive_anon 5\n")
        return {}
      },
      "its memory.stat has no inactive_anon"
    ],
    [
      "is outside of the root",
      () => ({ cgroup: "../x" }),
      "its name must be a path below the root, such as neon-postgres"
    ]
  ]
  const withPolicy = Effect.fnUntraced(function* (
    spoil: (typeof cases)[number][1],
    policy?: VmMonitorOptions["policy"]
  ) {
    const cgroup = yield* fakeCgroup
    const options = { cgroup: "neon-postgres", cgroupRoot: cgroup.root, ...spoil(cgroup) }
    return yield* startMonitor(policy === undefined ? options : { ...options, policy })
  })

  it.live.each(cases)("because it %s: the agent is refused, with the reason", ([, spoil, detail]) =>
    Effect.gen(function* () {
      const { port } = yield* withPolicy(spoil)
      const agent = yield* dial(port)
      yield* agent.sendRaw(`{"min":1,"max":1}`)
      const { error } = yield* agent.next
      assert.include(error, "the cgroup ")
      assert.include(error, detail)
      assert.deepInclude(yield* agent.closed, { code: 1011 })
    })
  )

  it.live.each(cases)("because it %s: downscales are denied with the reason, all else goes on", ([, spoil, detail]) =>
    Effect.gen(function* () {
      const { port } = yield* withPolicy(spoil, "deny-downscales")
      const agent = yield* connectAgent(port)
      const { Ok, Status } = yield* downscale(agent, 2, GiB)
      assert.isFalse(Ok)
      assert.include(Status, "the cgroup cannot be watched: ")
      assert.include(Status, detail)
      yield* agent.send("UpscaleNotification", 4, { granted: { cpu: 1, mem: 4 * GiB } })
      assert.deepStrictEqual(yield* agent.next, { type: "UpscaleConfirmation", id: 4 })
    })
  )

  it.live("is done without, if that is wanted", () =>
    Effect.gen(function* () {
      const { port } = yield* withPolicy(() => ({ cgroup: "other" }), "run-without")
      const agent = yield* connectAgent(port)
      assert.deepInclude(yield* downscale(agent, 2, GiB), {
        Ok: true,
        Status: "monitor is not managing cgroup or file cache"
      })
    })
  )

  it.live("is watched by the first agent after it has come", () =>
    Effect.gen(function* () {
      const { cgroup, monitor } = yield* watched({ policy: "refuse" })
      cgroup.write(null)
      const refused = yield* dial(monitor.port)
      yield* refused.sendRaw(`{"min":1,"max":1}`)
      assert.property(yield* refused.next, "error")
      cgroup.use(7000)
      yield* connectAgent(monitor.port)
      yield* settled(monitor, 7000)
    })
  )
})
