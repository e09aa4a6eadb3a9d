/**
 * `--sync-safekeepers` at the start and at the end: the real Postgres behind a script that answers it in its place,
 * well, badly or never.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { NeonDeadlines } from "../../src/storage/neon/deadlines.ts"
import { atHand, installOf } from "../support/postgres.ts"
import { gone, launch, neonArguments, type Place, processesIn, rows } from "./harness.ts"
import { startInProcess } from "./inProcess.ts"
import { setUp, specOf, tenant, timeline } from "./neonPeers.ts"

/** `$1` is there as for Postgres; what it prints on stdout is the LSN. */
const standIn = (at: Place, sync: string): Effect.Effect<string> =>
  Effect.promise(async () => {
    const file = path.join(at.directory, "bin", "postgres")
    fs.mkdirSync(path.dirname(file), { recursive: true })
    const { postgres } = await atHand(installOf(17))
    fs.writeFileSync(file, `#!/bin/sh\nif [ "$1" = --sync-safekeepers ]; then\n${sync}\nfi\nexec ${postgres} "$@"\n`, {
      mode: 0o755
    })
    return file
  })

describe("--sync-safekeepers", () => {
  it.live(
    "syncs safekeepers that lag: the basebackup is of that LSN, and the end has one too",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { addresses, at, pageserver } = yield* setUp(["ok", "lag", "lag"])
          const postgres = yield* standIn(
            at,
            `cd "$PGDATA"; grep -q neon.safekeepers postgresql.conf || exit 3; echo 0/16B9200; exit 0`
          )
          const compute = yield* startInProcess([
            ...neonArguments(at, specOf(at, pageserver.url, addresses)),
            "-b",
            postgres
          ])
          assert.strictEqual((yield* pageserver.seen)[0]?.command, `basebackup ${tenant} ${timeline} 0/16B9200 --gzip`)
          assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
          const ended = yield* compute.end
          assert.isNull(ended.failure)
          assert.strictEqual((yield* compute.state.now).flushLsn, 0x16b9200n)
        })
      ),
    60_000
  )

  it.live(
    "is given up at its deadline when it hangs at the end, and leaves no process",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { addresses, at, pageserver } = yield* setUp(["ok"])
          const postgres = yield* standIn(at, "cd \"$PGDATA\"; trap '' TERM; while :; do sleep 0.1; done")
          const deadlines = { ...(yield* NeonDeadlines), finalSync: Duration.millis(500) }
          const compute = yield* startInProcess([
            ...neonArguments(at, specOf(at, pageserver.url, addresses)),
            "-b",
            postgres
          ]).pipe(Effect.provideService(NeonDeadlines, deadlines))
          const ended = yield* compute.end
          assert.strictEqual(ended.failure?._tag, "SyncSafekeepersFailed")
          assert.match((yield* compute.state.now).error ?? "", /cannot sync the safekeepers/)
          assert.isNull((yield* compute.state.now).flushLsn)
          assert.strictEqual((yield* compute.state.now).status, "terminated")
          yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
        })
      ),
    60_000
  )

  it.live(
    "is given up at a second signal when it hangs at the end, and whoever waits for the end is answered",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { addresses, at, pageserver } = yield* setUp(["ok"])
          const postgres = yield* standIn(at, 'cd "$PGDATA"; echo hangs >&2; while :; do sleep 0.1; done')
          const program = yield* launch(
            [...neonArguments(at, specOf(at, pageserver.url, addresses)), "-b", postgres],
            at.httpPort
          )
          yield* Effect.promise(() => program.reaches("running"))
          const waiter = program.http("/terminate?mode=immediate", { method: "POST" })
          yield* Effect.promise(() => program.prints(/PG:hangs/))
          program.signal("SIGTERM")
          yield* Effect.promise(() => program.prints(/received 15 termination signal/))
          program.signal("SIGINT")
          assert.strictEqual((yield* Effect.promise(() => waiter)).status, 200)
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
          yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
        })
      ),
    60_000
  )
})

describe("SIGTERM in the middle of a start", () => {
  for (const [what, modes, fault, sign] of [
    ["safekeepers are synced", ["lag", "hang", "hang"], {}, /PG:syncing/],
    ["the basebackup stalls", ["ok"], { fault: "stall" }, /already synced/],
    ["the pageserver hangs", ["ok"], { fault: "hang" }, /already synced/]
  ] as const) {
    it.live(
      `while ${what}: the program ends, and leaves no process`,
      () =>
        Effect.scoped(
          Effect.gen(function* () {
            const { addresses, at, pageserver } = yield* setUp(modes, fault)
            const postgres = yield* standIn(at, 'cd "$PGDATA"; echo syncing >&2; while :; do sleep 0.1; done')
            const program = yield* launch(
              [...neonArguments(at, specOf(at, pageserver.url, addresses)), "-b", postgres],
              at.httpPort
            )
            yield* Effect.promise(() => program.prints(sign))
            program.signal("SIGTERM")
            yield* Effect.promise(() => program.exit)
            assert.match(program.output(), /to terminated: Postgres is gone/)
            assert.deepStrictEqual(processesIn(`${at.directory}/pgdata`), [])
          })
        ),
      60_000
    )
  }
})
