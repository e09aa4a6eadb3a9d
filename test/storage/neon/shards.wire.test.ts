/**
 * The addresses of a sharded tenant in each way a spec can say them: the basebackup is fetched from shard 0, leases
 * from every shard, each by its own name. The peers are those that users get, as their layer.
 */
import { assert, describe, it } from "@effect/vitest"
import { makeFakePageserver, NeonPeers } from "compute-ctl/testing"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { unpack } from "../../../src/postgres/basebackup.ts"
import { parseSpec } from "../../../src/spec/parseSpec.ts"
import { NeonDeadlines } from "../../../src/storage/neon/deadlines.ts"
import { acquireLease, openBasebackup } from "../../../src/storage/neon/shards.ts"
import { temporaryFolder } from "../../support/postgres.ts"
import { gzipped, tarOf } from "../../support/tars.ts"

const archive = gzipped(tarOf([{ path: "PG_VERSION", body: "17\n" }]))
const tenant = "a".repeat(32)
const timeline = "b".repeat(32)
const token = "storage-token"

const setting = (name: string, value: string) => ({ name, value, vartype: "string" })
const common = { format_version: 1, mode: { Static: "0/10" }, storage_auth_token: token }
const ids = { tenant_id: tenant, timeline_id: timeline }

const spellings: Readonly<Record<string, (first: string, second: string) => unknown>> = {
  pageserver_connection_info: (first, second) => ({
    ...common,
    ...ids,
    cluster: { roles: [], databases: [] },
    pageserver_connection_info: {
      shard_count: 2,
      stripe_size: 32768,
      shards: { "0002": { pageservers: [{ libpq_url: first }] }, "0102": { pageservers: [{ libpq_url: second }] } }
    }
  }),
  pageserver_connstring: (first, second) => ({
    ...common,
    ...ids,
    cluster: { roles: [], databases: [] },
    pageserver_connstring: `${first},${second}`,
    shard_stripe_size: 32768
  }),
  settings: (first, second) => ({
    ...common,
    cluster: {
      roles: [],
      databases: [],
      settings: [
        setting("neon.tenant_id", tenant),
        setting("neon.timeline_id", timeline),
        setting("neon.pageserver_connstring", `${first},${second}`),
        setting("neon.stripe_size", "32768")
      ]
    }
  })
}

describe("a sharded tenant", () => {
  for (const [spelling, write] of Object.entries(spellings)) {
    it.live(`as ${spelling}`, () =>
      Effect.gen(function* () {
        const { pageserver: first } = yield* NeonPeers
        const second = yield* makeFakePageserver({ tenant, timeline, token, archive })
        const spec = Result.getOrThrow(parseSpec(write(first.url, second.url), { source: "test", storage: "neon" }))
        const neon = spec.neon ?? assert.fail("it has Neon's storage")
        const deadlines = yield* NeonDeadlines
        assert.strictEqual((yield* acquireLease(deadlines)(spec, neon, 0x10n))._tag, "Granted")
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { bytes } = yield* openBasebackup(spec, neon, 0x10n, deadlines)
            yield* unpack(bytes, yield* temporaryFolder, null)
          })
        )
        assert.deepStrictEqual(
          (yield* first.seen).map(({ command }) => command),
          [`lease lsn ${tenant}-0002 ${timeline} 0/10 `, `basebackup ${tenant} ${timeline} 0/10 --gzip --replica`]
        )
        assert.deepStrictEqual(
          (yield* second.seen).map(({ command }) => command),
          [`lease lsn ${tenant}-0102 ${timeline} 0/10 `]
        )
      }).pipe(Effect.provide(NeonPeers.layer({ archive })))
    )
  }
})

describe("imitation storage as a layer", () => {
  it.live("has the fields of a spec, whose quorum agrees", () =>
    Effect.gen(function* () {
      const { pageserver, safekeepers, storageFields } = yield* NeonPeers
      assert.lengthOf(safekeepers, 3)
      assert.strictEqual(storageFields.pageserver_connstring, pageserver.url)
      assert.isTrue(
        Result.isSuccess(
          parseSpec(
            { format_version: 1, cluster: { roles: [], databases: [] }, ...storageFields },
            { source: "test", storage: "neon" }
          )
        )
      )
    }).pipe(Effect.provide(NeonPeers.layer({ archive })))
  )
})
