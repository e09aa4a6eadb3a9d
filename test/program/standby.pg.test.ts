/**
 * Computes that only read, as processes on imitation storage that serves a real cluster: a replica and a static compute
 * start as hot standbys without asking a safekeeper, apply no catalog, and keep their lease. A replica follows a real
 * primary that is frozen, killed and brought back.
 */
import { assert, describe, it } from "@effect/vitest"
import { basebackupOf, makeFakePageserver, makeFakePageService } from "compute-ctl/testing"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { connect } from "../../src/pgwire/Wire.ts"
import { configOf, makeCluster, startCluster, superuser } from "../support/postgres.ts"
import { eventually, gone, killAll, launch, neonArguments, place, processesIn, rows } from "./harness.ts"
import { setUp, specOf, tenant, timeline, token } from "./neonPeers.ts"

describe("a replica", () => {
  it.live(
    "is running once it takes connections; it reads, writes nothing, asks no safekeeper and ends without a sync",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { at, pageserver } = yield* setUp([])
          const spec = { ...specOf(at, pageserver.url, ["127.0.0.1:1"]), mode: "Replica" }
          const program = yield* launch(neonArguments(at, spec), at.httpPort)
          yield* Effect.promise(() => program.reaches("running"))
          assert.deepStrictEqual(yield* rows(at, "select count(*), pg_is_in_recovery() from kept"), [["1000", "t"]])
          assert.deepStrictEqual(
            yield* rows(at, "select count(*) from pg_roles where rolname = 'web'"),
            [["0"]],
            "no catalog is applied"
          )
          assert.isTrue(fs.existsSync(`${at.directory}/pgdata/standby.signal`))
          const conf = fs.readFileSync(`${at.directory}/pgdata/postgresql.conf`, "utf8")
          assert.match(conf, /^neon\.compute_mode=replica$|^hot_standby=on$/m)
          assert.deepStrictEqual(
            (yield* pageserver.seen).map(({ command }) => command),
            [`basebackup ${tenant} ${timeline} --gzip --replica`]
          )

          const send = (spec: unknown) =>
            Effect.promise(() =>
              program.http("/configure", {
                method: "POST",
                headers: { "content-type": "application/json" },
                body: JSON.stringify({ spec })
              })
            )
          for (const [path, refused] of [
            ["spec.mode", { ...spec, mode: "Primary" }],
            ["spec.timeline_id", { ...spec, timeline_id: tenant }]
          ] as const) {
            const answer = yield* send(refused)
            assert.deepStrictEqual(
              [answer.status, JSON.parse(answer.text).problems?.map((problem: { path: string }) => problem.path)],
              [409, [path]],
              answer.text
            )
          }
          assert.strictEqual((yield* Effect.promise(() => program.status())).status, "running")
          assert.strictEqual(fs.readFileSync(`${at.directory}/pgdata/postgresql.conf`, "utf8"), conf)
          const changed = yield* send({
            ...spec,
            cluster: {
              ...spec.cluster,
              settings: [...spec.cluster.settings, { name: "work_mem", value: "7MB", vartype: "string" }]
            }
          })
          assert.strictEqual(changed.status, 200, changed.text)
          yield* Effect.promise(() => program.prints(/parameter "work_mem" changed to "7MB"/))

          const ended = yield* Effect.promise(() => program.http("/terminate?mode=immediate", { method: "POST" }))
          assert.strictEqual(ended.status, 200)
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
          assert.notInclude(program.output(), "sync-safekeepers")
          yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
        })
      ),
    60_000
  )
})

/** A real primary, and a replica of it whose bound on lag is one second. */
const replicaOfReal = Effect.gen(function* () {
  const at = yield* place
  const primary = yield* makeCluster()
  yield* Effect.scoped(
    Effect.gen(function* () {
      yield* startCluster(primary)
      const wire = yield* connect(configOf(primary)())
      yield* wire.simple("create table kept as select g from generate_series(1, 1000) g")
    })
  )
  const archive = yield* basebackupOf(primary.pgdata)
  const pageserver = yield* makeFakePageserver({ tenant, timeline, token, archive })
  const spec = specOf(at, pageserver.url, [])
  const follows = {
    primary_conninfo: `host=127.0.0.1 port=${primary.port} user=${superuser}`,
    wal_receiver_timeout: "1s",
    wal_retrieve_retry_interval: "200ms"
  }
  const settings = Object.entries(follows).map(([name, value]) => ({ name, value, vartype: "string" }))
  const replica = {
    ...spec,
    mode: "Replica",
    cluster: { ...spec.cluster, settings: [...spec.cluster.settings, ...settings] }
  }
  const program = yield* launch([...neonArguments(at, replica), "--replica-max-lag", "1"], at.httpPort)
  yield* Effect.promise(() => program.reaches("running"))
  return { at, primary, program }
})

describe("a replica of a real primary", () => {
  it.live(
    "is ready while it follows, not while its primary is dead, frozen or too far ahead, and again when that is over",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { at, primary, program } = yield* replicaOfReal
          const told = async () => {
            const { degraded, replica } = JSON.parse((await program.http("/conditions")).text)
            const condition = degraded.find(({ code }: { code: string }) => code === "replica_not_following")
            return { ready: (await program.http("/readyz")).status === 200, because: condition?.message, replica }
          }
          /** `null`: ready, and without the condition. */
          const becomes = (what: string, because: RegExp | null) =>
            eventually(what, told, (now) =>
              because === null
                ? now.ready && now.because === undefined && now.replica.receiver === "streaming"
                : !now.ready && because.test(now.because ?? "")
            )
          const metric = async (name: string) =>
            new RegExp(`^compute_ctl_replica_${name} (.*)$`, "m").exec((await program.http("/metrics")).text)?.[1]

          const orphan = yield* becomes(
            "a replica whose primary never answered",
            /it has never heard from its primary in more than 1 s/
          )
          assert.deepInclude(orphan.replica, { receiver: null, last_heard: null, max_lag_seconds: 1 })
          assert.match((yield* Effect.promise(() => program.http("/readyz"))).text, /never heard from its primary/)
          assert.strictEqual(yield* Effect.promise(() => metric('receiver{status="none"}')), "1")
          assert.strictEqual((yield* Effect.promise(() => program.status())).status, "running")

          yield* Effect.scoped(
            Effect.gen(function* () {
              yield* startCluster(primary)
              const wire = yield* connect(configOf(primary)())
              const following = yield* becomes("a replica that follows", null)
              assert.isNotNull(following.replica.last_heard)

              yield* rows(at, "select pg_wal_replay_pause()")
              yield* wire.simple("insert into kept select generate_series(1, 10000)")
              const behind = yield* becomes(
                "a replica that replays nothing",
                /it has not replayed WAL that it has known of for more than 1 s/
              )
              assert.isAbove(behind.replica.lag_bytes, 100_000)
              assert.isAbove(behind.replica.lag_seconds, 0)
              assert.isAbove(Number(yield* Effect.promise(() => metric("lag_bytes"))), 100_000)
              yield* rows(at, "select pg_wal_replay_resume()")
              yield* becomes("a replica that has caught up", null)
              assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["11000"]])

              const frozen = processesIn(primary.pgdata)
              yield* Effect.acquireUseRelease(
                Effect.sync(() => killAll(frozen, "SIGSTOP")),
                () => becomes("a replica whose primary is frozen", /has heard nothing from it for more than \d s/),
                () => Effect.sync(() => killAll(frozen, "SIGCONT"))
              )
              yield* becomes("a replica whose primary goes on", null)

              killAll(processesIn(primary.pgdata), "SIGKILL")
              yield* becomes(
                "a replica whose primary was killed",
                /it has no connection to its primary, and has heard nothing/
              )
            })
          )
          yield* startCluster(primary)
          yield* becomes("a replica whose primary is back", null)
          assert.isAtLeast((program.output().match(/WARN .*this replica is not ready/g) ?? []).length, 4)
          program.signal("SIGTERM")
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
        })
      ),
    120_000
  )
})

describe("a static compute", () => {
  const staticSpec = (spec: ReturnType<typeof specOf>) => ({ ...spec, mode: { Static: "0/16B9188" } })

  it.live(
    "asks for its LSN, holds a lease on it, renews it, and goes on with it at a new address",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { archive, at, pageserver } = yield* setUp([], { lease: 2_000 })
          const other = yield* makeFakePageserver({ tenant, timeline, token, archive })
          const program = yield* launch(neonArguments(at, staticSpec(specOf(at, pageserver.url, []))), at.httpPort)
          yield* Effect.promise(() => program.reaches("running"))
          assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
          assert.match(
            fs.readFileSync(`${at.directory}/pgdata/postgresql.conf`, "utf8"),
            /^recovery_target_lsn='0\/16B9188'$/m
          )
          const commands = Effect.map(pageserver.seen, (seen) => seen.map(({ command }) => command))
          assert.deepStrictEqual((yield* commands).slice(0, 2), [
            `lease lsn ${tenant} ${timeline} 0/16B9188 `,
            `basebackup ${tenant} ${timeline} 0/16B9188 --gzip --replica`
          ])
          yield* Effect.promise(() =>
            program.prints(/lsn_lease_bg_task.*Request succeeded.*\n(.*\n)*.*lsn_lease_bg_task.*Request succeeded/)
          )

          const moved = yield* Effect.promise(() =>
            program.http("/configure", {
              method: "POST",
              headers: { "content-type": "application/json" },
              body: JSON.stringify({ spec: staticSpec(specOf(at, other.url, [])) })
            })
          )
          assert.strictEqual(moved.status, 200, moved.text)
          yield* eventually(
            "a request to the other pageserver",
            () => Effect.runPromise(other.seen),
            (seen) => seen.length > 0
          )
          assert.strictEqual((yield* other.seen)[0]?.command, `lease lsn ${tenant} ${timeline} 0/16B9188 `)
          program.signal("SIGTERM")
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
          assert.notInclude(program.output(), token)
        })
      ),
    60_000
  )

  it.live(
    "that is refused a lease logs one error, and serves",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { at, pageserver } = yield* setUp([], { lease: "refused" })
          const program = yield* launch(neonArguments(at, staticSpec(specOf(at, pageserver.url, []))), at.httpPort)
          yield* Effect.promise(() => program.reaches("running"))
          assert.match(
            program.output(),
            /ERROR .*lsn_lease_bg_task: Permanent error: lease could not be obtained, LSN 0\/16B9188 is behind the GC/
          )
          assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
          program.signal("SIGTERM")
          yield* Effect.promise(() => program.exit)
          assert.strictEqual(program.output().split("Permanent error").length, 2)
        })
      ),
    60_000
  )

  it.live(
    "of two shards, over gRPC: the basebackup comes from shard 0, leases from both",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { archive, at } = yield* setUp([])
          const first = yield* makeFakePageService({ tenant, timeline, token, archive, shard: "0002" })
          const second = yield* makeFakePageService({ tenant, timeline, token, archive, shard: "0102" })
          const { pageserver_connstring: _, ...rest } = specOf(at, "", [])
          const spec = {
            ...rest,
            mode: { Static: "0/16B9188" },
            pageserver_connection_info: {
              shard_count: 2,
              stripe_size: 32768,
              prefer_protocol: "grpc",
              shards: {
                "0002": { pageservers: [{ grpc_url: first.url }] },
                "0102": { pageservers: [{ grpc_url: second.url }] }
              }
            }
          }
          const program = yield* launch(neonArguments(at, spec), at.httpPort)
          yield* Effect.promise(() => program.reaches("running"))
          assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
          assert.deepStrictEqual(
            (yield* first.seen).map(({ method }) => method),
            ["LeaseLsn", "GetBaseBackup"]
          )
          assert.deepStrictEqual(
            (yield* second.seen).map(({ method }) => method),
            ["LeaseLsn"]
          )
          program.signal("SIGTERM")
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 0)
        })
      ),
    60_000
  )
})
