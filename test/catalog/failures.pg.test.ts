/**
 * Some operations fail: exactly those are reported, what rests on them is skipped, all else is done.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import { Applier } from "../../src/catalog/Applier.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { policyOf } from "../../src/errors/policy.ts"
import { startPostgres } from "../support/postgres.ts"
import { adminOf, applyOn, database, options, role, scram, specOf, verifier } from "./fixture.ts"

const of = (name: string, value: string) => ({ name, value, quoted: true })

describe("an apply of which something fails", () => {
  it.live("k of n fail: k are reported, what rests on them is skipped, n - k are done", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const spec = specOf({
          roles: [
            role("good", verifier(scram("x"))),
            role("bad until", verifier(scram("x")), [of("VALID UNTIL", "the 32nd")]),
            role("bad verifier", verifier("SCRAM-SHA-256$swordfish")),
            role("also good", verifier(scram("x")))
          ],
          databases: [
            database("fine", "good"),
            database("bad locale", "good", [of("LC_COLLATE", "no such locale")]),
            database("no owner", "nobody here"),
            database("owner failed", "bad until"),
            database("fine too", "also good")
          ]
        })
        const applyReport = yield* applyOn(postgres, spec)
        const by = (outcome: string) =>
          applyReport.operations
            .filter((one) => one.outcome === outcome && one.action === "create" && /^(role|database)/.test(one.object))
            .map(({ object }) => object)
            .sort()
        assert.deepStrictEqual(by("failed"), [
          'database "bad locale"',
          'database "no owner"',
          'role "bad until"',
          'role "bad verifier"'
        ])
        assert.deepStrictEqual(by("skipped"), ['database "owner failed"'])
        assert.includeMembers(by("done"), ['database "fine"', 'database "fine too"', 'role "also good"', 'role "good"'])
        const states = Object.fromEntries(
          applyReport.operations.filter(({ action }) => action === "create").map((one) => [one.object, one.sqlState])
        )
        assert.strictEqual(states['role "bad until"'], "22007")
        assert.strictEqual(states['database "no owner"'], "42704")
        assert.notInclude(JSON.stringify(applyReport), "swordfish")
        const visits = yield* postgres.rows(
          "select datname from pg_database d join pg_shdescription v on v.objoid = d.oid " +
            "where v.classoid = 'pg_shdescription'::regclass order by 1"
        )
        assert.deepStrictEqual(visits, [["fine"], ["fine too"]])
      })
    )
  )

  it.live("the applier answers with all failures, keeps the report, and takes the next apply", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        yield* Effect.gen(function* () {
          const applier = yield* Applier
          const state = yield* ComputeState
          const running = yield* Effect.forkChild(applier.actor.run)
          const bad = specOf({ roles: [role("pg_mine"), role("fine")], databases: [database("d", "missing")] })
          const failure = yield* Effect.flip(applier.apply({ kind: "start", spec: bad }))
          assert.strictEqual(failure._tag, "ApplyFailed")
          assert.strictEqual(policyOf(failure).whileRunning, "stay")
          if (failure._tag === "ApplyFailed") assert.strictEqual(failure.failures.length, 2)
          assert.strictEqual((yield* state.now).applyReport?.outcome, "failed")
          // Many at once: one at a time, each answered.
          const good = specOf({ roles: [role("fine")], databases: [database("d", "fine")] })
          const reports = yield* Effect.forEach(
            Array.from({ length: 5 }),
            () => applier.apply({ kind: "reconfigure", spec: good }),
            {
              concurrency: "unbounded"
            }
          )
          assert.strictEqual(
            reports.filter((one) => one.operations.some(({ outcome }) => outcome === "done")).length,
            1
          )
          assert.strictEqual((yield* state.now).applyReport?.kind, "reconfigure")
          // An apply that waits is abandoned when the actor ends.
          const rival = yield* postgres.connect()
          yield* rival.simple("begin")
          yield* rival.simple("alter role fine connection limit 7")
          const changed = specOf({ roles: [role("fine", verifier(scram("new")))] })
          const waiting = yield* Effect.forkChild(applier.apply({ kind: "reconfigure", spec: changed }))
          yield* Effect.repeat(postgres.rows("select 1 from pg_locks where not granted"), {
            until: (rows) => rows.length > 0,
            times: 2000
          })
          yield* Fiber.interrupt(running)
          const exit = yield* Fiber.await(waiting)
          assert.isTrue(Exit.isFailure(exit) && String(exit.cause).includes("Abandoned"))
        }).pipe(
          Effect.provide(Layer.provideMerge(Applier.layer(options), Layer.merge(adminOf(postgres), ComputeState.layer)))
        )
      })
    )
  )

  it.live("a statement that conflicts with another session on one row is tried again", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const spec = specOf({ roles: [role("r")] })
        yield* applyOn(postgres, spec)
        yield* postgres.rows("alter role r nologin")
        const rival = yield* postgres.connect()
        yield* rival.simple("begin")
        yield* rival.simple("alter role r connection limit 7")
        const applying = yield* Effect.forkChild(applyOn(postgres, spec))
        const waiting = postgres.rows(
          "select 1 from pg_stat_activity where application_name like 'compute_ctl:%' and wait_event_type = 'Lock'"
        )
        yield* Effect.repeat(waiting, { until: (rows) => rows.length > 0, times: 2000 })
        yield* rival.simple("commit")
        const applyReport = yield* Fiber.join(applying)
        assert.deepStrictEqual(
          applyReport.operations.filter(({ outcome }) => outcome === "failed"),
          []
        )
        assert.strictEqual(applyReport.operations.find(({ object }) => object === 'role "r"')?.attempts, 2)
        assert.deepStrictEqual(yield* postgres.rows("select rolcanlogin from pg_roles where rolname = 'r'"), [["t"]])
      })
    )
  )

  it.live("a reconfigure with a concurrency of 0 is done all the same", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const postgres = yield* startPostgres({ major: 17 })
        const spec = specOf({
          reconfigureConcurrency: 0,
          settings: [{ name: "superuser_reserved_connections", value: "0", quoted: false }],
          roles: [role("r")],
          databases: [database("d", "r"), database("e", "r")]
        })
        const applyReport = yield* applyOn(postgres, spec, options, "reconfigure")
        assert.strictEqual(applyReport.outcome, "done")
        assert.strictEqual(applyReport.kind, "reconfigure")
      })
    )
  )
})
