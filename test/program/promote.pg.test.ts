/**
 * A replica that becomes a primary, on real Postgres: the program runs in this process, so that promotions can be
 * ordered directly. Stock Postgres has no walproposer, so the specs say themselves that no standby is waited for.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import { promotedSpec } from "../../src/compute/promotion.ts"
import { isRaised } from "../../src/compute/snapshot.ts"
import { parseSpec } from "../../src/spec/parseSpec.ts"
import { emptySpec } from "../support/specs.ts"
import { neonArguments, rows } from "./harness.ts"
import { startInProcess } from "./inProcess.ts"
import { setUp, specOf } from "./neonPeers.ts"

const parsed = (spec: unknown) => Result.getOrThrow(parseSpec(spec, { source: "test", storage: "neon" }))

const withSettings = (spec: ReturnType<typeof specOf>, settings: Readonly<Record<string, string>>) => ({
  ...spec,
  cluster: {
    ...spec.cluster,
    settings: [
      ...spec.cluster.settings,
      ...Object.entries(settings).map(([name, value]) => ({ name, value, vartype: "string" }))
    ]
  }
})

describe("a promotion", () => {
  it.live(
    "waits for the WAL, writes files and not auto.conf, makes a primary with its spec, and is answered again",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { addresses, at, pageserver } = yield* setUp(["ok"])
          const spec = withSettings(specOf(at, pageserver.url, addresses), {
            synchronous_standby_names: "",
            "neon.safekeepers": addresses.join(",")
          })
          const { end, promotions, state } = yield* startInProcess(neonArguments(at, { ...spec, mode: "Replica" }))
          assert.deepStrictEqual(yield* rows(at, "select pg_is_in_recovery()"), [["t"]])

          const request = { spec: parsed(spec), flushLsn: 1n }
          const impatient = yield* Effect.forkChild(promotions.promote(request), { startImmediately: true })
          const patient = yield* Effect.forkChild(promotions.promote(request), { startImmediately: true })
          yield* Fiber.interrupt(impatient)
          const outcome = yield* Fiber.join(patient)
          if (outcome._tag !== "Completed") return assert.fail(JSON.stringify(outcome))
          assert.isAbove(outcome.promote, 0)
          assert.deepStrictEqual(yield* rows(at, "select pg_is_in_recovery()"), [["f"]])
          yield* rows(at, "insert into kept values (1001)")
          assert.deepStrictEqual(
            yield* rows(at, "select pg_get_userbyid(datdba) from pg_database where datname = 'shop'"),
            [["web"]]
          )

          const auto = fs.readFileSync(`${at.directory}/pgdata/postgresql.auto.conf`, "utf8")
          assert.notMatch(auto, /safekeepers|synchronous_standby_names/)
          assert.include(fs.readFileSync(`${at.directory}/pgdata/postgresql.conf`, "utf8"), "neon.safekeepers")
          const now = yield* state.now
          assert.deepStrictEqual(
            [now.status, now.spec?.mode._tag, now.promotion._tag],
            ["running", "Primary", "Completed"]
          )
          assert.deepStrictEqual(yield* promotions.promote(request), outcome, "asked again, it is not done again")
          yield* state.changes.pipe(
            Stream.filter(({ degraded, replica }) => replica === null && !isRaised(degraded, "replica_not_following")),
            Stream.runHead
          )

          const ended = yield* end
          assert.strictEqual(ended.failure?._tag, "SyncSafekeepersFailed")
          assert.isNull(
            (yield* state.now).flushLsn,
            "stock Postgres cannot sync safekeepers, so the sync at the end fails, and the compute ends all the same"
          )
        })
      ),
    60_000
  )

  it.live(
    "that fails leaves the replica a replica, and one that only lacks its spec is finished by the next attempt",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { addresses, at, pageserver } = yield* setUp(["ok"])
          const spec = withSettings(specOf(at, pageserver.url, addresses), { synchronous_standby_names: "" })
          const { end, promotions, state } = yield* startInProcess(neonArguments(at, { ...spec, mode: "Replica" }))
          const conf = () => fs.readFileSync(`${at.directory}/pgdata/postgresql.conf`, "utf8")
          const before = conf()

          const spoiled = yield* promotions.promote({
            spec: parsed(withSettings(spec, { work_mem: "a lot" })),
            flushLsn: 1n
          })
          if (spoiled._tag !== "Failed") return assert.fail("Postgres does not take this file")
          assert.match(spoiled.error, /work_mem: setting could not be applied/)
          assert.strictEqual(conf(), before)
          assert.deepStrictEqual(yield* rows(at, "select pg_is_in_recovery()"), [["t"]])
          assert.strictEqual((yield* state.now).status, "running")

          const orphan = {
            ...spec,
            cluster: { ...spec.cluster, databases: [{ name: "shop", owner: "nobody-at-all" }] }
          }
          const halfway = yield* promotions.promote({ spec: parsed(orphan), flushLsn: 1n })
          assert.deepInclude(halfway, { _tag: "Failed", at: "applying the spec" })
          assert.deepStrictEqual(yield* rows(at, "select pg_is_in_recovery()"), [["f"]])
          const outcome = yield* promotions.promote({ spec: parsed(spec), flushLsn: 1n })
          if (outcome._tag !== "Completed") return assert.fail(JSON.stringify(outcome))
          assert.strictEqual(outcome.promote, 0, "Postgres had been promoted already")
          assert.deepStrictEqual(yield* rows(at, "select count(*) from pg_database where datname = 'shop'"), [["1"]])
          yield* end
        })
      ),
    60_000
  )

  it.live(
    "of a primary is refused; one that waits for WAL ends with the compute",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { addresses, at, pageserver } = yield* setUp(["ok"])
          const spec = withSettings(specOf(at, pageserver.url, addresses), { synchronous_standby_names: "" })
          const primary = yield* startInProcess(neonArguments(at, spec))
          const refused = yield* primary.promotions.promote({ spec: parsed(spec), flushLsn: 1n })
          assert.deepInclude(refused, {
            _tag: "Failed",
            error: 'the replica was not promoted: compute mode "Primary" is not replica'
          })
          yield* primary.end

          const replica = yield* startInProcess(neonArguments(at, { ...spec, mode: "Replica" }))
          const asked = yield* Effect.forkChild(
            replica.promotions.promote({ spec: parsed(spec), flushLsn: 0xffff_0000_0000n }),
            { startImmediately: true }
          )

          yield* replica.end
          assert.deepInclude(yield* Fiber.join(asked), { _tag: "Failed", error: "the compute is ending" })
        })
      ),
    60_000
  )

  it("adds the walproposer as the synchronous standby, unless the spec says otherwise", () => {
    const neon = parsed({
      ...specOf({ directory: "/x", port: 5432, httpPort: 1 }, "postgresql://p", ["s:1"]),
      mode: "Primary"
    })
    assert.deepInclude(promotedSpec(neon).settings ?? [], {
      name: "synchronous_standby_names",
      value: "walproposer",
      quoted: true
    })
    const own = { ...neon, settings: [{ name: "Synchronous_Standby_Names", value: "", quoted: true }] }
    assert.deepStrictEqual(promotedSpec(own).settings, own.settings)
    assert.isNull(promotedSpec(emptySpec).settings)
  })
})
