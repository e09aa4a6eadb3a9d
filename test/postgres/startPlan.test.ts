/**
 * What the plan decides besides the text of postgresql.conf, and what it warns of.
 */
import { assert, describe, it } from "@effect/vitest"
import { auditLines } from "../../src/postgres/postgresqlConf.ts"
import { openFiles, planWarnings, startPlan } from "../../src/postgres/startPlan.ts"
import { emptySpec } from "../support/specs.ts"
import { cases, cloudSpec, neonFacts, option, osFacts, processFacts } from "./cases.ts"

describe("startPlan", () => {
  it("appends the one line that control planes know, byte for byte", () => {
    assert.deepStrictEqual(startPlan(cloudSpec, neonFacts).appended, [
      { name: "pg_hba.conf", line: "host\tall\t\tall\t\tall\t\tmd5" }
    ])
    assert.deepStrictEqual(startPlan(cloudSpec, osFacts).appended, [])
  })

  it("applies the catalog on a primary that was not told to leave it alone", () => {
    assert.isTrue(startPlan(cloudSpec, neonFacts).applyCatalog)
    assert.isFalse(startPlan({ ...cloudSpec, skipCatalogUpdates: true }, neonFacts).applyCatalog)
    assert.isFalse(startPlan({ ...cloudSpec, mode: { _tag: "Replica" } }, neonFacts).applyCatalog)
    assert.isFalse(startPlan({ ...cloudSpec, mode: { _tag: "Static", lsn: 1n } }, neonFacts).applyCatalog)
  })

  it("lifts the size limit only where Neon's Postgres has one and something is applied", () => {
    assert.strictEqual(startPlan(cloudSpec, neonFacts).override, "neon.max_cluster_size=-1")
    assert.isNull(startPlan({ ...cloudSpec, skipCatalogUpdates: true }, neonFacts).override)
    assert.isNull(startPlan(cloudSpec, osFacts).override)
  })

  it("signals a standby for both kinds of reader", () => {
    assert.deepStrictEqual(startPlan({ ...cloudSpec, mode: { _tag: "Replica" } }, neonFacts).signalFiles, [
      "standby.signal"
    ])
    assert.deepStrictEqual(startPlan({ ...cloudSpec, mode: { _tag: "Static", lsn: 1n } }, neonFacts).signalFiles, [
      "standby.signal"
    ])
    assert.deepStrictEqual(startPlan(cloudSpec, neonFacts).signalFiles, [])
  })

  it("links shared memory files only for Neon's storage on Linux", () => {
    assert.isTrue(startPlan(cloudSpec, neonFacts).linkDynshmem)
    assert.isFalse(startPlan(cloudSpec, { ...neonFacts, platform: "darwin" }).linkDynshmem)
    assert.isFalse(startPlan(cloudSpec, osFacts).linkDynshmem)
  })

  it("wakes subscriptions once they are dropped, and only then", () => {
    const drop = { ...cloudSpec, dropSubscriptions: true }
    const subscribers = (content: string | undefined) =>
      /neon.disable_logical_replication_subscribers=(\w+)/.exec(content ?? "")?.[1]
    assert.strictEqual(subscribers(startPlan(drop, neonFacts).starting[0]?.content), "true")
    assert.strictEqual(subscribers(openFiles(startPlan(drop, neonFacts))[0]?.content), "false")
    const left = { ...drop, skipCatalogUpdates: true }
    assert.strictEqual(subscribers(openFiles(startPlan(left, neonFacts))[0]?.content), "true")
    assert.deepStrictEqual(startPlan(cloudSpec, neonFacts).opening, [])
  })

  it("lets users into local storage after the start, and turns fsync on where the machine may crash", () => {
    assert.deepStrictEqual(
      startPlan(emptySpec, osFacts).opening.map(({ name }) => name),
      ["postgresql.conf", "pg_hba.conf"]
    )
    assert.deepStrictEqual(
      startPlan(emptySpec, processFacts).opening.map(({ name }) => name),
      ["pg_hba.conf"]
    )
  })

  it("names each file once, and opens only files that it started with", () => {
    for (const [, spec, inputs] of cases) {
      const plan = startPlan(spec, inputs)
      const names = plan.starting.map(({ name }) => name)
      assert.strictEqual(new Set(names).size, names.length)
      for (const { name } of plan.opening) assert.include(names, name)
      assert.deepStrictEqual(
        openFiles(plan).map(({ name }) => name),
        names
      )
    }
  })
})

describe("auditLines", () => {
  it("adds each library by its whole name", () => {
    const preload = (libraries: string | null) => auditLines("Full", libraries, "neon").at(-1)
    assert.strictEqual(preload("a,pgauditlogtofile"), "shared_preload_libraries='a,pgauditlogtofile,pgaudit'")
    assert.strictEqual(preload("pgaudit, pgauditlogtofile"), "shared_preload_libraries='pgaudit, pgauditlogtofile'")
    assert.strictEqual(preload(null), "shared_preload_libraries='neon,pgaudit,pgauditlogtofile'")
    assert.strictEqual(preload(""), "shared_preload_libraries='pgaudit,pgauditlogtofile'")
  })

  it("says nothing when auditing is off", () => assert.deepStrictEqual(auditLines("Disabled", "a", "neon"), []))
})

describe("planWarnings", () => {
  it("has none for a plain spec", () => {
    assert.deepStrictEqual(planWarnings(emptySpec, osFacts), [])
    assert.deepStrictEqual(planWarnings(cloudSpec, neonFacts), [])
  })

  it("names what local storage overrides and leaves out, in one sentence each", () => {
    const text = planWarnings(cloudSpec, osFacts).join("\n")
    for (const name of ["fsync", "port", "shared_preload_libraries", "synchronous_standby_names"]) {
      assert.match(text, new RegExp(`^setting "${name}" is overridden: `, "m"))
    }
    assert.match(text, /^setting "max_replication_write_lag" is left out: /m)
    assert.notInclude(text, "restart_after_crash", "what the spec and the storage agree on needs no warning")
    assert.notInclude(text, "55433", "values stay out of it")
  })

  it("finds them in the head text too", () => {
    const head = "FSYNC = off\nmax_replication_apply_lag=1GB\ninclude 'x'"
    const text = planWarnings({ ...emptySpec, postgresqlConf: head }, osFacts).join("\n")
    assert.include(text, '"fsync" is overridden')
    assert.include(text, '"max_replication_apply_lag" is left out')
    assert.notInclude(text, '"include"')
  })

  it("knows several words for on and off", () => {
    const settings = [option("fsync", "true"), option("full_page_writes", "1")]
    assert.deepStrictEqual(planWarnings({ ...emptySpec, settings }, osFacts), [])
  })

  it("warns of commits that may be lost", () => {
    assert.lengthOf(planWarnings({ ...emptySpec, settings: [option("synchronous_commit", "off")] }, osFacts), 1)
    assert.lengthOf(planWarnings({ ...emptySpec, settings: [option("synchronous_commit", "off")] }, neonFacts), 0)
  })

  it("warns of settings that cannot be written, for any storage", () => {
    const spec = { ...emptySpec, settings: [option("a b", "1"), option("name", null), option("include", "x", true)] }
    assert.lengthOf(planWarnings(spec, neonFacts), 2)
    assert.lengthOf(planWarnings(spec, osFacts), 3)
  })
})
