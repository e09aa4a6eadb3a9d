/**
 * The vm-monitor's arithmetic, decisions and messages: the contract's vectors, and laws for everything else.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { checkCgroupName, commandInCgroup, readAnonymous } from "../../src/autoscaling/Cgroup.ts"
import {
  addSample,
  cacheLimitMib,
  cacheSizeOf,
  grantedStatus,
  decideDownscale,
  MiB,
  noSamples,
  printMib,
  type Samples,
  targetOf,
  thresholdOf,
  untilNextSample,
  usableOf,
  wantsMore,
  type MemoryWatch
} from "../../src/autoscaling/decisions.ts"
import { vmFamilies, zeroCounts } from "../../src/autoscaling/metrics.ts"
import { maxMessageBytes, negotiate, printGreeting, printMessage, readMessage } from "../../src/autoscaling/protocol.ts"
import { printFamilies } from "../../src/telemetry/prometheus.ts"

/** MiB; usable MiB, threshold, its text, cache MiB of a message; threshold, its text, cache MiB of a kernel's total. */
const vectors: ReadonlyArray<readonly [number, number, number, string, number, number, string, number]> = [
  [100, 0, 0, "0", 0, 89128960, "85", 0],
  [256, 156, 139041177, "132.6", 0, 228170137, "217.6", 0],
  [356, 256, 228170137, "217.6", 0, 317299097, "302.6", 90],
  [357, 257, 229061427, "218.45", 0, 318190387, "303.45", 91],
  [512, 412, 367211315, "350.2", 141, 456340275, "435.2", 232],
  [1024, 924, 823551590, "785.4", 607, 912680550, "870.4", 698],
  [1562, 1462, 1303065395, "1242.7", 1096, 1392194355, "1327.7", 1171],
  [2048, 1948, 1736232140, "1655.8", 1461, 1825361100, "1740.8", 1536],
  [4096, 3996, 3561593241, "3396.6", 2997, 3650722201, "3481.6", 3072],
  [8192, 8092, 7212315443, "6878.2", 6069, 7301444403, "6963.2", 6144],
  [65536, 65436, 58322426265, "55620.6", 49077, 58411555225, "55705.6", 49152]
]

const bytes = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 44 }))

describe("memory", () => {
  it.each(vectors)("of %i MiB", (mib, usable, threshold, text, cache, rawThreshold, rawText, rawCache) => {
    const total = mib * MiB
    assert.strictEqual(usableOf(total), usable * MiB)
    assert.strictEqual(thresholdOf(usableOf(total)), threshold)
    assert.strictEqual(printMib(threshold), text)
    assert.strictEqual(cacheSizeOf(usableOf(total)), cache * MiB)
    assert.strictEqual(thresholdOf(total), rawThreshold)
    assert.strictEqual(printMib(rawThreshold), rawText)
    assert.strictEqual(cacheSizeOf(total), rawCache * MiB)
  })

  it("prints 32-bit floats by their shortest name", () => {
    assert.strictEqual(printMib(100 * MiB), "100")
    assert.strictEqual(printMib(730_000_000), "696.18225")
    assert.strictEqual(printMib(123_456_789_012), "117737.57")
    assert.deepStrictEqual([0, 1, 3].map(printMib), ["0", "0.0000009536743", "0.000002861023"])
  })

  it.prop("the text of a size is read back as the same float", { bytes }, ({ bytes }) => {
    const text = printMib(bytes)
    assert.match(text, /^\d+(\.\d+)?$/)
    assert.strictEqual(Math.fround(Number(text)), Math.fround(Math.fround(bytes) / MiB))
  })

  it.prop(
    "the cache is whole MiB, leaves room, and never shrinks when memory grows",
    { bytes, more: bytes },
    ({ bytes, more }) => {
      const size = cacheSizeOf(bytes)
      assert.strictEqual(size % MiB, 0)
      assert.isTrue(size === 0 || size <= bytes * 0.75)
      assert.isTrue(size === 0 || bytes - size >= 256 * MiB)
      assert.isAtLeast(cacheSizeOf(bytes + more), size)
      assert.isAtLeast(thresholdOf(bytes + more), thresholdOf(bytes))
    }
  )

  it.prop("what is set is within the cap", { bytes, cap: bytes }, ({ bytes, cap }) => {
    const mib = cacheLimitMib(bytes, cap)
    assert.isTrue(Number.isInteger(mib) && mib * MiB <= cap && mib * MiB <= bytes)
  })

  it("the mean is of the last five samples, rounded down", () => {
    const means: Array<number> = []
    let samples: Samples = noSamples(0)
    for (const [index, bytes] of [1, 2, 4, 8, 16, 32, 64].entries()) {
      samples = addSample(samples, bytes, index)
      means.push(samples.mean)
    }
    assert.deepStrictEqual(means, [1, 1, 2, 3, 6, 12, 24])
    assert.deepStrictEqual(samples, { recent: [4, 8, 16, 32, 64], mean: 24, at: 6 })
  })

  it("a late tick is left out", () => {
    assert.deepStrictEqual(
      [1000, 1001, 1099, 1100, 1250].map((now) => untilNextSample(1000, now)),
      [100, 99, 1, 100, 50]
    )
  })

  it("counts anonymous pages, and a key that is missing is not zero", () => {
    const stat = "anon 7\nfile 8\ninactive_anon 20\nactive_anon 100\nworkingset_refault_anon 3\n"
    assert.deepStrictEqual(readAnonymous(stat), Result.succeed(120))
    assert.deepStrictEqual(
      readAnonymous(stat.replace("\nactive_anon 100", "")),
      Result.fail("its memory.stat has no active_anon")
    )
    assert.deepStrictEqual(readAnonymous("active_anon 1\n"), Result.fail("its memory.stat has no inactive_anon"))
    assert.isTrue(Result.isFailure(readAnonymous("")))
  })
})

const seen = (mean: number, samples = 5, threshold = thresholdOf(2048 * MiB), at = 10_000): MemoryWatch => ({
  _tag: "Watched",
  threshold,
  samples: { recent: Array.from({ length: samples }, () => mean), mean, at }
})

describe("downscale decisions", () => {
  const mib = 1024 * MiB
  it("with nothing managed a downscale is granted and nothing is done", () => {
    assert.deepStrictEqual(decideDownscale(mib, { _tag: "Off" }, false, 0), {
      _tag: "Idle",
      status: "monitor is not managing cgroup or file cache"
    })
  })

  it("with too few samples a downscale is denied", () => {
    for (const count of [0, 1]) {
      assert.deepStrictEqual(decideDownscale(mib, seen(0, count), true, 10_000), {
        _tag: "Deny",
        status: "haven't received enough cgroup memory stats yet"
      })
    }
    assert.strictEqual(decideDownscale(mib, seen(0, 2), true, 10_000)._tag, "Grant")
  })

  it("with samples older than five seconds there is no decision, also when there never was a sample", () => {
    assert.strictEqual(decideDownscale(mib, seen(0), false, 15_000)._tag, "Grant")
    assert.strictEqual(decideDownscale(mib, seen(0), false, 15_001)._tag, "Unknown")
    assert.strictEqual(decideDownscale(mib, seen(0, 0), false, 15_001)._tag, "Unknown")
  })

  it("exactly the buffer between mean and threshold is enough for a grant", () => {
    assert.strictEqual(decideDownscale(mib, seen(718_693_990), false, 10_000)._tag, "Grant")
    assert.deepStrictEqual(decideDownscale(mib, seen(718_693_991), false, 10_000)._tag, "Deny")
    assert.deepStrictEqual(decideDownscale(mib, seen(700 * MiB), false, 10_000), {
      _tag: "Deny",
      status:
        "calculated memory threshold too low: 785.4 MiB (new threshold) < 700 (current usage) + 100 (downscale buffer)"
    })
  })

  it("with a cgroup that cannot be watched a downscale is denied, with the reason", () => {
    assert.deepStrictEqual(decideDownscale(mib, { _tag: "Unwatchable", because: "there is no such cgroup" }, true, 0), {
      _tag: "Deny",
      status: "the cgroup cannot be watched: there is no such cgroup"
    })
  })

  it("a grant's status names what was set, file cache first", () => {
    const both = targetOf(mib, seen(0), true)
    assert.strictEqual(
      grantedStatus(both, 607 * MiB, thresholdOf(usableOf(2048 * MiB))),
      "set file cache size to 607 MiB; set cgroup memory threshold from 1655.8 MiB to 785.4 MiB, of new total 924 MiB"
    )
    assert.strictEqual(
      grantedStatus(targetOf(mib, { _tag: "Off" }, true), 607 * MiB, null),
      "set file cache size to 607 MiB"
    )
    assert.strictEqual(
      grantedStatus(targetOf(mib, seen(0), false), null, 0),
      "set cgroup memory threshold from 0 MiB to 785.4 MiB, of new total 924 MiB"
    )
  })

  it.prop("a grant leaves the buffer free, without exception", { nominal: bytes, mean: bytes }, ({ mean, nominal }) => {
    const decision = decideDownscale(nominal, seen(mean), false, 10_000)
    if (decision._tag === "Grant") assert.isAtLeast(decision.target.threshold ?? -1, mean + 100 * MiB)
    else assert.isBelow(thresholdOf(usableOf(nominal)), mean + 100 * MiB)
  })

  it("more is asked for at the threshold, a second after the greeting, then once a second", () => {
    const at = (now: number, askedAt: number | null, mean = 10) =>
      wantsMore({ mean, threshold: 10, greetedAt: 1000, now, askedAt })
    const asks = [at(1999, null), at(2000, null), at(2999, 2000), at(3000, 2000), at(3000, 2000, 9)]
    assert.deepStrictEqual(asks, [false, true, false, true, false])
  })
})

describe("the handshake", () => {
  it.each([
    [1, 1],
    [0, 5],
    [1, 9],
    [0, 1]
  ])("%i to %i is version 1", (min, max) => {
    assert.strictEqual(printGreeting(negotiate(`{"min":${min},"max":${max},"more":[]}\n`)), `{"version":1}`)
  })

  it.each([
    [`{"min":0,"max":0}`, "Received protocol version range <invalid: zero> which does not overlap with v1.0"],
    [`{"min":2,"max":2}`, "Received protocol version range <unknown: 2> which does not overlap with v1.0"],
    [
      `{"min":2,"max":3}`,
      "Received protocol version range <unknown: 2> to <unknown: 3> which does not overlap with v1.0"
    ],
    [`{"min":2,"max":1}`, "Received protocol version range <unknown: 2> to v1.0 whose ends are the wrong way round"]
  ])("%s is refused", (text, error) => {
    assert.strictEqual(printGreeting(negotiate(text)), JSON.stringify({ error }))
  })

  it.each([
    "",
    "{}",
    "null",
    "[1,1]",
    `{"min":1`,
    `{"min":1}`,
    `{"min":-1,"max":1}`,
    `{"min":0.5,"max":1}`,
    `{"min":1,"max":256}`,
    `{"min":"1","max":1}`
  ])("%s is no range", (text) =>
    assert.match(printGreeting(negotiate(text)), /^\{"error":"Received no protocol version range/)
  )
})

describe("messages", () => {
  it("of the agent, as Go prints them", () => {
    assert.deepStrictEqual(
      [
        `{"content":{"granted":{"cpu":0.5,"mem":2147483648}},"type":"UpscaleNotification","id":2}\n`,
        `{"content":{"target":{"cpu":2.3000000000000003,"mem":1073741824}},"type":"DownscaleRequest","id":4}\n`,
        `{"content":{},"type":"HealthCheck","id":6}\n`,
        `{"content":{"error":"Received message of unknown type: \\"Foo\\" \\u003c"},"type":"InvalidMessage","id":7}\n`,
        `{"id":8,"extra":1,"type":"InternalError","content":{"error":"some text","more":{}}}`
      ].map(readMessage),
      [
        { _tag: "UpscaleNotification", id: 2, mem: 2147483648 },
        { _tag: "DownscaleRequest", id: 4, mem: 1073741824 },
        { _tag: "HealthCheck", id: 6 },
        { _tag: "AgentError", id: 7, kind: "InvalidMessage", error: 'Received message of unknown type: "Foo" <' },
        { _tag: "AgentError", id: 8, kind: "InternalError", error: "some text" }
      ]
    )
  })

  it("hold 64-bit integers: an id comes back as it was", () => {
    for (const id of ["9007199254740993", "18446744073709551615"]) {
      const message = readMessage(`{"type":"HealthCheck","content":{},"id":${id}}`)
      assert.strictEqual(printMessage({ type: "HealthCheck", id: message.id }), `{"type":"HealthCheck","id":${id}}`)
    }
    const large = '{"type":"UpscaleNotification","content":{"granted":{"cpu":9007199254740993,"mem":MEM}},"id":2}'
    assert.deepStrictEqual(readMessage(large.replace("MEM", "18446744073709551615")), {
      _tag: "UpscaleNotification",
      id: 2,
      mem: 2 ** 64
    })
    assert.deepInclude(readMessage(large.replace("MEM", "18446744073709551616")), { _tag: "Unusable", id: 2 })
    assert.strictEqual(printMib(2 ** 64), "17592186000000")
  })

  it.each([
    ["", 0],
    ["[]", 0],
    [`{"type":"HealthCheck","content":{},"id":18446744073709551616}`, 0],
    ["12", 0],
    [`{"type":"HealthCheck","content":{}}`, 0],
    [`{"type":"HealthCheck","content":{},"id":-2}`, 0],
    [`{"type":"HealthCheck","content":{},"id":"2"}`, 0],
    [`{"type":"HealthCheck","id":2}`, 2],
    [`{"content":{},"id":2}`, 2],
    [`{"type":"Foo","content":{},"id":2}`, 2],
    [`{"type":"healthCheck","content":{},"id":2}`, 2],
    [`{"type":"UpscaleNotification","content":{"granted":{"mem":1}},"id":2}`, 2],
    [`{"type":"UpscaleNotification","content":{"target":{"cpu":1,"mem":1}},"id":2}`, 2],
    [`{"type":"DownscaleRequest","content":{"target":{"cpu":1,"mem":1.5}},"id":2}`, 2],
    [`{"type":"DownscaleRequest","content":{"target":{"cpu":1,"mem":"1Gi"}},"id":2}`, 2]
  ])("%s is unusable", (text, id) => assert.deepInclude(readMessage(text), { _tag: "Unusable", id }))

  it("of ours have their fields on top, and the id last", () => {
    assert.deepStrictEqual(
      [
        printMessage({ type: "UpscaleRequest", id: 3 }),
        printMessage({ type: "UpscaleConfirmation", id: 2 }),
        printMessage({ type: "DownscaleResult", Ok: false, Status: "no", id: 4 }),
        printMessage({ type: "HealthCheck", id: 6 }),
        printMessage({ type: "InternalError", error: "failed to downscale", id: 4 }),
        printMessage({ type: "InvalidMessage", error: "…", id: 4 })
      ],
      [
        `{"type":"UpscaleRequest","id":3}`,
        `{"type":"UpscaleConfirmation","id":2}`,
        `{"type":"DownscaleResult","Ok":false,"Status":"no","id":4}`,
        `{"type":"HealthCheck","id":6}`,
        `{"type":"InternalError","error":"failed to downscale","id":4}`,
        `{"type":"InvalidMessage","error":"…","id":4}`
      ]
    )
  })

  const texts = { text: Schema.String, long: Schema.Int }
  it.prop("any text is read, and any text of ours stays below the agent's limit", texts, ({ long, text }) => {
    assert.isString(readMessage(text)._tag)
    const error = text.repeat(Math.abs(long) % 5000) + "\0".repeat(40_000)
    for (const sent of [printMessage({ type: "InvalidMessage", error, id: 2 }), printGreeting(Result.fail(error))]) {
      assert.isBelow(Buffer.byteLength(sent), maxMessageBytes)
      assert.doesNotThrow(() => JSON.parse(sent))
    }
  })
})

describe("names and commands", () => {
  it("a cgroup's name stays below its root", () => {
    for (const name of ["neon-postgres", "a/b/c.slice", "..a"])
      assert.isTrue(Result.isSuccess(checkCgroupName(name)), name)
    for (const name of ["", "/", "/abs", "a//b", "..", "a/../b", "./a", "a/", "a\0"]) {
      assert.isTrue(Result.isFailure(checkCgroupName(name)), name)
    }
  })

  it("a program enters a cgroup by the shell, else by cgexec, else not; nothing of it is quoted", () => {
    const program = { command: "/pg bin/postgres", args: ["-D", "/a '$(b)"] }
    const at = (tools: Parameters<typeof commandInCgroup>[3]) =>
      commandInCgroup(program, "/cg/x/cgroup.procs", "x", tools)
    const bySh = Option.getOrThrow(at({ procsWritable: true, shell: "/bin/sh", cgexec: "/usr/bin/cgexec" }))
    assert.strictEqual(bySh.command, "/bin/sh")
    assert.deepStrictEqual(bySh.args.slice(2), ["/pg bin/postgres", "/cg/x/cgroup.procs", "-D", "/a '$(b)"])
    assert.deepStrictEqual(
      at({ procsWritable: false, shell: "/bin/sh", cgexec: "/usr/bin/cgexec" }),
      Option.some({
        command: "/usr/bin/cgexec",
        args: ["-g", "memory:x", "/pg bin/postgres", "-D", "/a '$(b)"]
      })
    )
    assert.isTrue(Option.isNone(at({ procsWritable: false, shell: "/bin/sh", cgexec: null })))
    assert.isTrue(Option.isNone(at({ procsWritable: true, shell: null, cgexec: null })))
  })

  it("metrics leave out what is not known", () => {
    const text = printFamilies(vmFamilies({ ...zeroCounts, downscalesDenied: 2, meanBytes: 5 }))
    assert.include(text, `compute_vm_downscales_total{outcome="denied"} 2\n`)
    assert.include(text, "compute_vm_memory_mean_bytes 5\n")
    assert.notInclude(text, "compute_vm_file_cache_limit_bytes")
  })
})
