/**
 * The program on Neon's storage, over the wire: imitation safekeepers and pageserver serve a real cluster, and the
 * program really starts on it. Stock Postgres has no `--sync-safekeepers`, so where the full sync is needed it fails
 * here as it does for somebody who pairs Neon's storage with the wrong Postgres.
 */
import { assert, describe, it } from "@effect/vitest"
import { makeFakePageService } from "compute-ctl/testing"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { gone, launch, neonArguments, rows } from "./harness.ts"
import { endsWithoutLastSync, setUp, specOf, tenant, timeline, token } from "./neonPeers.ts"

/** The same without a field: only settings, the way docker-compose has it. */
const asSettings = ({
  cluster,
  pageserver_connstring,
  safekeeper_connstrings,
  tenant_id,
  timeline_id,
  ...rest
}: ReturnType<typeof specOf>) => ({
  ...rest,
  cluster: {
    ...cluster,
    settings: [
      ...cluster.settings,
      { name: "neon.pageserver_connstring", value: pageserver_connstring, vartype: "string" },
      { name: "neon.safekeepers", value: safekeeper_connstrings.join(","), vartype: "string" },
      { name: "neon.tenant_id", value: tenant_id, vartype: "string" },
      { name: "neon.timeline_id", value: timeline_id, vartype: "string" }
    ]
  }
})

describe("on Neon's storage", () => {
  for (const [how, write] of [
    ["fields", (spec: ReturnType<typeof specOf>): unknown => spec],
    ["settings alone", asSettings]
  ] as const) {
    it.live(`starts on the basebackup of a quorum that agrees, addresses as ${how}, and ends when asked`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { addresses, at, pageserver } = yield* setUp(["ok", "ok", "hang"])
          const urls = addresses.map((address) => `postgresql://postgres:@${address}`)
          const program = yield* launch(neonArguments(at, write(specOf(at, pageserver.url, urls))), at.httpPort)
          yield* Effect.promise(() => program.reaches("running"))
          const conf = fs.readFileSync(`${at.directory}/pgdata/postgresql.conf`, "utf8")
          assert.include(conf.replaceAll(" = ", "="), `neon.safekeepers='${urls.join(",")}'`)
          assert.include(program.output(), "safekeepers synced at LSN 0/16B9188")
          assert.match(program.output(), /getting basebackup@0\/16B9188 from pageserver 127\.0\.0\.1:\d+/)
          assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
          assert.deepStrictEqual(yield* rows(at, "select 1", "shop"), [["1"]])
          const [asked] = yield* pageserver.seen
          assert.strictEqual(asked?.command, `basebackup ${tenant} ${timeline} 0/16B9188 --gzip`)
          assert.strictEqual(asked?.password, token)

          const ended = yield* Effect.promise(() => program.http("/terminate?mode=immediate", { method: "POST" }))
          assert.strictEqual(ended.status, 200)
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 1)
          assert.match(program.output(), /the last sync failed: .*sync-safekeepers/)
          assert.notInclude(program.output(), token)
          yield* Effect.promise(() => gone(`${at.directory}/pgdata`))
        })
      )
    )
  }

  it.live(
    "a lagging and two silent safekeepers need the full sync, which a stock Postgres says at once it cannot do",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { addresses, at, pageserver } = yield* setUp(["lag", "hang", "hang"])
          const program = yield* launch(neonArguments(at, specOf(at, pageserver.url, addresses)), at.httpPort)
          const failed = yield* Effect.promise(() => program.reaches("failed"))
          assert.include(program.output(), "starting safekeepers syncing")
          const error = failed.error ?? ""
          assert.match(error, /cannot sync the safekeepers \(1 attempts\).* a stock Postgres .* without a walproposer/)
          assert.include(error, `${addresses[0]} flushed 0/16B9088`)
          for (const silent of addresses.slice(1)) assert.include(error, `${silent}: no answer within 500 ms`)
          assert.deepStrictEqual(yield* pageserver.seen, [], "no basebackup without an LSN that was agreed on")
          program.signal("SIGTERM")
          assert.strictEqual((yield* Effect.promise(() => program.exit)).code, 1)
        })
      )
  )

  for (const fault of ["cut", "error after the end", "reset", "corrupt gzip", "truncated tar"] as const) {
    it.live(`a basebackup that fails twice (${fault}) is fetched again into a clean PGDATA`, () =>
      Effect.scoped(
        Effect.gen(function* () {
          const { addresses, at, pageserver } = yield* setUp(["ok"], { fault, failFirst: 2 })
          const program = yield* launch(neonArguments(at, specOf(at, pageserver.url, addresses)), at.httpPort)
          yield* Effect.promise(() => program.reaches("running"))
          assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
          assert.lengthOf(yield* pageserver.seen, 3)
          yield* endsWithoutLastSync(program)
        })
      )
    )
  }

  it.live("a pageserver that takes no token fails the start at once, without the token in its log", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { addresses, at, pageserver } = yield* setUp(["ok"], { token: "an0ther" })
        const program = yield* launch(neonArguments(at, specOf(at, pageserver.url, addresses)), at.httpPort)
        const failed = yield* Effect.promise(() => program.reaches("failed"))
        assert.match(
          failed.error ?? "",
          /failed to get basebackup@0\/16B9188 \(1 attempts?\): the pageserver at .* JWT authentication error/
        )
        assert.notInclude(program.output(), token)
        program.signal("SIGTERM")
        yield* Effect.promise(() => program.exit)
      })
    )
  )

  const overGrpc = (spec: ReturnType<typeof specOf>, url: string) => {
    const { pageserver_connstring: _, ...rest } = spec
    const shards = { "0000": { pageservers: [{ grpc_url: url }] } }
    return { ...rest, pageserver_connection_info: { shard_count: 0, prefer_protocol: "grpc", shards } }
  }

  it.live("over gRPC a basebackup that breaks is fetched again; the compute starts on it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { addresses, archive, at } = yield* setUp(["ok"])
        const service = yield* makeFakePageService({
          tenant,
          timeline,
          token,
          archive,
          fault: "error after the end",
          failFirst: 1
        })
        const program = yield* launch(neonArguments(at, overGrpc(specOf(at, "", addresses), service.url)), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        assert.deepStrictEqual(yield* rows(at, "select count(*) from kept"), [["1000"]])
        assert.lengthOf(yield* service.seen, 2)
        yield* endsWithoutLastSync(program)
      })
    )
  )

  it.live("over gRPC a refused token fails the start at once, and is not repeated", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const { addresses, archive, at } = yield* setUp(["ok"])
        const service = yield* makeFakePageService({ tenant, timeline, token: "an0ther", archive })
        const program = yield* launch(neonArguments(at, overGrpc(specOf(at, "", addresses), service.url)), at.httpPort)
        const failed = yield* Effect.promise(() => program.reaches("failed"))
        assert.match(
          failed.error ?? "",
          /failed to get basebackup@0\/16B9188 \(1 attempts\): the pageserver at .* \(INVALID_ARGUMENT\)/
        )
        assert.lengthOf(yield* service.seen, 1)
        assert.notInclude(program.output(), token)
        program.signal("SIGTERM")
        yield* Effect.promise(() => program.exit)
      })
    )
  )
})
