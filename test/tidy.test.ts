/**
 * Properties of the code itself: floors, purity, size, headers, banned words.
 */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as path from "node:path"

const root = path.resolve(import.meta.dirname, "..")
const src = path.join(root, "src")
const files = fs.readdirSync(src, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts")).sort()
const read = (file: string) => fs.readFileSync(path.join(src, file), "utf8")
const imports = (text: string) => [...text.matchAll(/(?:from|import) "([^"]+)"/g)].map((match) => match[1] ?? "")
const room = (file: string) => file.includes("/") ? file.slice(0, file.indexOf("/")) : file

/** Imports go down a floor, or stay in the room; rooms on one floor are strangers. Adding a room is a line here. */
const floor: Record<string, number> = {
  domain: 0,
  lifecycle: 1,
  plan: 2,
  "ComputeState.ts": 3,
  "Supervisor.ts": 3,
  "PgdataSource.ts": 3,
  pg: 3.5,
  host: 3.5,
  "Operations.ts": 3.4,
  "Orders.ts": 3.5,
  "Promotions.ts": 3.5,
  "advance.ts": 3.5,
  storage: 4,
  pgdata: 4,
  postmaster: 4,
  sql: 4,
  monitor: 4,
  http: 4,
  vm: 4,
  controlplane: 4,
  extensions: 4,
  sidecars: 4,
  tls: 4,
  telemetry: 4,
  lfc: 4,
  inventory: 4,
  cli: 4,
  "Compute.ts": 5,
  "Vm.ts": 5,
  "Outfit.ts": 3.8,
  "Outfitting.ts": 5,
  "Reconfigure.ts": 4.5,
  "Promote.ts": 4.6,
  "Prewarm.ts": 5,
  "Program.ts": 6,
  "Run.ts": 7,
  "PlanCommand.ts": 7.5,
  "version.ts": 0,
  "index.ts": 7,
  testing: 6.5,
  "main.ts": 8
}
const pure = new Set(["domain", "lifecycle", "plan"])
const impure = /^(node:|@effect\/|effect\/(Effect|Layer|Stream|Ref|SubscriptionRef|Scope|Fiber|Schedule|FileSystem|Queue|Deferred|process|http|sql|socket))/
/** Files that are the door to the outside may read the environment; see their headers. */
const doors = new Set(["main.ts"])
const banned: ReadonlyArray<readonly [RegExp, string]> = [
  [/\bDate\.now\(|new Date\(/, "use DateTime or Clock"],
  [/\bMath\.random\(/, "use Random"],
  [/(?<!\.)\b(setTimeout|setInterval)\(/, "use Effect.sleep or Schedule"],
  [/\bconsole\./, "use Effect.log"],
  [/\bas any\b|: any\b|<any>/, "say the type"],
  [/@ts-(ignore|expect-error|nocheck)/, "say the type"],
  [/\bTODO\b|\bFIXME\b|\bXXX\b/, "finish it or file it"],
  [/from "(effect|@effect\/platform-node|@effect\/sql-pg)"/, "import by file, never a barrel"]
]

describe("tidy", () => {
  for (const file of files) {
    it(file, () => {
      const text = read(file)
      const lines = text.split("\n")
      assert.isAtMost(lines.length, 300, "one screenful of ideas per file")
      for (const [index, line] of lines.entries()) assert.isAtMost(line.length, 140, `${file}:${index + 1} is too wide`)
      assert.isTrue(text.replace(/^#!.*\n/, "").startsWith("/**\n * "), "open with one sentence saying what this is")
      for (const [pattern, remedy] of banned) assert.notMatch(text, pattern, remedy)
      if (!doors.has(room(file))) assert.notMatch(text, /\bprocess\.env\b/, "the environment arrives as a value")
      for (const target of imports(text)) {
        if (target.startsWith(".")) {
          const other = path.relative(src, path.resolve(src, path.dirname(file), target))
          const here = floor[room(file)] ?? assert.fail(`${room(file)} has no floor`)
          const there = floor[room(other)] ?? assert.fail(`${room(other)} has no floor`)
          assert.isTrue(room(file) === room(other) || there < here, `${file} must not know ${other}`)
        } else if (pure.has(room(file))) {
          assert.notMatch(target, impure, `${room(file)} is pure`)
        }
      }
    })
  }

  it("rooms are named for what they keep", () => {
    for (const file of files) assert.notMatch(file, /(^|\/)(utils?|common|helpers?|misc|services?|layers?|types)(\/|\.ts$)/i)
  })

  it("no test is skipped, focused, or waits by sleeping", () => {
    const tests = fs.readdirSync(path.join(root, "test"), { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts") && !file.endsWith("tidy.test.ts"))
    for (const file of tests) {
      const text = fs.readFileSync(path.join(root, "test", file), "utf8")
      assert.notMatch(text, /\.(skip|only|todo|skipIf|runIf)\(|\bskip: true/, file)
    }
  })
})
