/**
 * Random specs with deltas, one after the other on a real server: the catalog is what the plan predicted.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type { Catalog } from "../../src/catalog/Catalog.ts"
import { observe } from "../../src/catalog/observe.ts"
import { planApply } from "../../src/catalog/planApply.ts"
import { newSqlStatistics, openSession } from "../../src/catalog/sessions.ts"
import type { DeltaOperation, ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { installs, startPostgres, type TestPostgres } from "../support/postgres.ts"
import {
  adminOf,
  applyOn,
  assertSettled,
  database,
  noPassword,
  role,
  scram,
  specOf,
  unmanaged,
  verifier
} from "./fixture.ts"
import { options as planOptions, simulate } from "./scenario.ts"

const names = ["a", "b'", 'c"$x$', "web_access", "e\\%\n"]
const passwords = [
  unmanaged,
  noPassword,
  verifier(scram("one")),
  verifier(scram("two")),
  verifier(`md5${"ab".repeat(16)}`)
]

/** Numbers that look random and are the same every time. */
const dice =
  (seed: number) =>
  (sides: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0
    return (seed >>> 8) % sides
  }

const randomSpec = (roll: (sides: number) => number): ParsedSpec => {
  const name = () => names[roll(names.length)] ?? "a"
  const roles = new Set(Array.from({ length: 1 + roll(4) }, name))
  const owner = () => [...roles][roll(roles.size)] ?? "a"
  const deltas = Array.from({ length: roll(3) }, (): DeltaOperation => {
    const from = name()
    const to = `${name()}${roll(5)}`
    const kinds: ReadonlyArray<DeltaOperation> = [
      { _tag: "DropDatabase", name: from },
      { _tag: "RenameDatabase", name: from, to },
      { _tag: "DropRole", name: from },
      { _tag: "RenameRole", name: from, to }
    ]
    return kinds[roll(4)] ?? { _tag: "DropRole", name: from }
  })
  const options = [
    [],
    [{ name: "CONNECTION LIMIT", value: "4", quoted: false }],
    [{ name: "NOCREATEDB", value: null, quoted: false }]
  ]
  return specOf({
    roles: [...roles].map((one) => role(one, passwords[roll(passwords.length)], options[roll(3)])),
    databases: [...new Set(Array.from({ length: roll(4) }, name))].map((one) => database(one, owner())),
    deltas
  })
}

const seen = (postgres: TestPostgres, spec: ParsedSpec) =>
  Effect.provide(
    Effect.scoped(
      Effect.gen(function* () {
        const session = yield* openSession(newSqlStatistics(), "apply_config", null)
        return yield* observe(session, spec, planOptions)
      })
    ),
    adminOf(postgres)
  )

const plain = (catalog: Catalog) => ({
  roles: [...catalog.roles.values()]
    .map((one) => ({
      ...one,
      verifier: Redacted.isRedacted(one.verifier) ? Redacted.value(one.verifier) : one.verifier
    }))
    .sort((a, b) => (a.name < b.name ? -1 : 1)),
  databases: [...catalog.databases.values()].sort((a, b) => (a.name < b.name ? -1 : 1)),
  schemas: [...catalog.schemas].sort(),
  healthCheck: catalog.healthCheck
})

const lines = (value: ReturnType<typeof plain>) => JSON.stringify(value).replaceAll("},{", "},\n{")

describe("applies of random specs in a row", () => {
  for (const { major } of installs) {
    it.live(`each leaves what its plan predicted (Postgres ${major})`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const postgres = yield* startPostgres({ major })
          const roll = dice(major)
          for (let round = 0; round < 6; round++) {
            const spec = randomSpec(roll)
            const before = yield* seen(postgres, spec)
            const plan = planApply(spec, before, planOptions)
            const applyReport = yield* applyOn(postgres, spec)
            const failed = applyReport.operations.filter(({ outcome }) => outcome === "failed")
            assert.deepStrictEqual(
              failed.map(({ object, reason }) => `${object}: ${reason}`),
              []
            )
            const [actual, expected] = [plain(yield* seen(postgres, spec)), plain(simulate(before, plan.operations))]
            assert.strictEqual(lines(actual), lines(expected))
            yield* assertSettled(postgres, spec)
          }
        })
      )
    )
  }
})
