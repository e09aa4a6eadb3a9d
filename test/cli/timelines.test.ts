/**
 * `compute_ctl branch` and `compute_ctl timelines`: their words, what they print, and how they end.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { parseArguments } from "../../src/cli/arguments.ts"
import { branchCommand, printTree, timelinesCommand } from "../../src/cli/timelines.ts"
import type { TenantId, TimelineId } from "../../src/spec/identifiers.ts"
import type { TimelineInfo } from "../../src/storage/local/timelines.ts"
import { id, makeTree, quiet, temporary, tenant } from "../storage/local/branchTree.ts"

const [one, two, three] = [id(1), id(2), id(3)]
const local = ["--storage", "local:/s"]

describe("the words", () => {
  it("are read into what is to be done", () => {
    const parse = (argv: ReadonlyArray<string>) => Result.getOrThrow(parseArguments(argv, {}))
    const from = { tenant: null, timeline: one }
    const settings = { directory: "/s", from, to: two, at: null }
    assert.deepStrictEqual(parse(["branch", one, two, ...local]), { _tag: "Branch", settings })
    assert.deepStrictEqual(parse(["branch", one, two.toUpperCase(), "--at", "0/1A2B", ...local]), {
      _tag: "Branch",
      settings: { ...settings, at: 0x1a2bn }
    })
    assert.deepStrictEqual(parse(["branch", `${tenant}/${one}`, `${tenant}/${two}`, ...local]), {
      _tag: "Branch",
      settings: { ...settings, from: { tenant, timeline: one } }
    })
    const list = { directory: "/s", json: false, remove: null }
    assert.deepStrictEqual(parse(["timelines", ...local]), { _tag: "Timelines", settings: list })
    assert.deepStrictEqual(parse(["timelines", "--json", ...local]), {
      _tag: "Timelines",
      settings: { ...list, json: true }
    })
    assert.deepStrictEqual(parse(["timelines", "rm", one, ...local]), {
      _tag: "Timelines",
      settings: { ...list, remove: from }
    })
  })

  it.each([
    [["branch", one, ...local], "branch takes two timelines: the one to branch, and the one to make of it"],
    [["branch", one, two, three, ...local], "branch takes two timelines: the one to branch, and the one to make of it"],
    [["branch", one, two], "branch needs --storage local:DIR"],
    [["branch", one, two, "--storage", "local"], "branch needs --storage local:DIR"],
    [["branch", one, two, "--at", "late", ...local], "--at expects an LSN, such as 0/1A2B3C4"],
    [["branch", one, "main", ...local], "a timeline is 32 hexadecimal digits, or TENANT/TIMELINE with 32 each"],
    [["branch", one, `a/${two}`, ...local], "a timeline is 32 hexadecimal digits, or TENANT/TIMELINE with 32 each"],
    [
      ["branch", one, `${tenant}/${two}`, ...local],
      "a branch belongs to the tenant of the timeline that it is a branch of"
    ],
    [["timelines", "ls", ...local], "timelines takes no words, or rm and the timeline to remove"],
    [["timelines", "rm", ...local], "timelines takes no words, or rm and the timeline to remove"],
    [["timelines", "rm", one, two, ...local], "timelines takes no words, or rm and the timeline to remove"],
    [["timelines", "--storage", "volume"], "timelines needs --storage local:DIR"]
  ] as const)("%j are a usage error", (argv, message) => {
    const parsed = parseArguments(argv, {})
    assert.isTrue(Result.isFailure(parsed))
    if (Result.isFailure(parsed)) assert.strictEqual(parsed.failure.message, message)
  })
})

const info = (n: number, of: number | null, more: Partial<TimelineInfo> = {}): TimelineInfo => ({
  tenant,
  timeline: id(n),
  ancestor: of === null ? null : { timeline: id(of), lsn: `0/${n}00`, made: "2026-01-01T00:00:00.000Z" },
  bytes: 64_000_000,
  ownBytes: 16_400,
  usedAt: Date.UTC(2026, 0, 2, 3, 4, 5),
  holder: null,
  ...more
})

describe("the tree", () => {
  it("has each branch below what it is a branch of, and one whose ancestor is gone for itself", () => {
    const other = "c".repeat(32) as TenantId
    const text = printTree([
      info(1, null, { holder: "pid 7" }),
      info(2, 1),
      info(3, 2, { usedAt: null }),
      info(4, 1, { bytes: 1_500_000_000, ownBytes: 999_900 }),
      info(5, 9),
      info(2, null, { tenant: other })
    ])
    const short = (timeline: TimelineId) => `${timeline.slice(0, 2)}${timeline.slice(-2)}`
    assert.strictEqual(
      text.replaceAll(/[0-9a-f]{32}/g, (long) => short(long as TimelineId)),
      `tenant aaaa
  0001                  64 MB   own 16 kB   2026-01-02 03:04:05Z  running (pid 7)
  ├─ 0002     at 0/200  64 MB   own 16 kB   2026-01-02 03:04:05Z
  │  └─ 0003  at 0/300  64 MB   own 16 kB   never used
  └─ 0004     at 0/400  1.5 GB  own 1.0 MB  2026-01-02 03:04:05Z
  0005        at 0/500  64 MB   own 16 kB   2026-01-02 03:04:05Z
tenant cccc
  0002                  64 MB   own 16 kB   2026-01-02 03:04:05Z
`
    )
  })
})

describe("the commands", () => {
  it.live("say what was made and removed, and end with 1 and a hint when they do not", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const directory = yield* temporary
        const tree = makeTree(directory, 1)
        yield* tree.begin
        let said = ""
        const print = (text: string) => void (said += text)
        const from = { tenant: null, timeline: one }
        const branch = branchCommand({ directory, from, to: two, at: null }, print, print)
        assert.strictEqual(yield* branch, 0)
        assert.match(said, new RegExp(`^${tenant}/${two} is a branch of ${one} at 0/[0-9A-F]+\n$`))
        said = ""
        assert.strictEqual(yield* branch, 1)
        assert.match(said, /^no branch was made: there is something in .* already \(hint: choose another timeline/)
        said = ""
        assert.strictEqual(yield* timelinesCommand({ directory, json: true, remove: null }, print, print), 0)
        const listed = JSON.parse(said) as ReadonlyArray<Record<string, unknown>>
        assert.deepStrictEqual(
          listed.map(({ ancestor_timeline_id, timeline_id }) => [timeline_id, ancestor_timeline_id]),
          [
            [one, null],
            [two, one]
          ]
        )
        said = ""
        assert.strictEqual(yield* timelinesCommand({ directory, json: false, remove: from }, print, print), 0)
        assert.strictEqual(said, `${tenant}/${one} is removed\n`)
        said = ""
        assert.strictEqual(yield* timelinesCommand({ directory, json: false, remove: from }, print, print), 1)
        assert.match(said, /no tenant has a timeline 0+1 \(hint: compute_ctl timelines says which there are\)/)
      })
    ).pipe(Effect.provide(quiet))
  )
})
