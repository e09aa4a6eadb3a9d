/**
 * Neon's storage in imitation, all of it, as one layer: a pageserver and safekeepers that serve one timeline, and the
 * fields of a spec that lead there. Real sockets; gone with the layer.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { create } from "tar/create"
import * as fs from "node:fs/promises"
import { FileFailed, type ListenFailed } from "../../errors/Failure.ts"
import type { Lsn } from "../../spec/identifiers.ts"
import { type FakePageserver, makeFakePageserver, type PageserverOptions } from "./FakePageserver.ts"
import { type FakeSafekeeper, makeFakeSafekeeper, type SafekeeperMode } from "./FakeSafekeeper.ts"

/**
 * The gzipped tar a pageserver would send, made from a real PGDATA whose Postgres was shut down in order.
 *
 * Like the pageserver's it has no postgresql.conf and nothing of a running postmaster. Unlike it, it holds the
 * relation files, so that a stock Postgres can start from it. Held in memory: for small test clusters only.
 */
const leftOut = new Set(["postgresql.conf", "postmaster.pid", "postmaster.opts"])

/**
 * The gzipped tar that a pageserver would send, made of the PGDATA of a Postgres that was stopped in order.
 *
 * @example
 * ```ts
 * const archive = yield* basebackupOf("/var/lib/postgresql/17/main")
 * ```
 */
export const basebackupOf = (pgdata: string): Effect.Effect<Uint8Array, FileFailed> =>
  Effect.tryPromise({
    try: async () => {
      const names = (await fs.readdir(pgdata)).filter((name) => !leftOut.has(name)).sort()
      const pieces: Array<Uint8Array> = []
      // A link to a folder, as pg_wal may be one, is sent as what it leads to.
      for await (const piece of create({ cwd: pgdata, gzip: { level: 1 }, portable: true, follow: true }, names))
        pieces.push(piece)
      return Buffer.concat(pieces)
    },
    catch: (cause) => new FileFailed({ operation: "archive", path: pgdata, cause })
  })

export interface NeonPeersOptions {
  /** A gzipped tar, such as `basebackupOf` makes. */
  readonly archive: Uint8Array
  /** What goes wrong at the pageserver, where, and how often. */
  readonly pageserver?: Omit<PageserverOptions, "tenant" | "timeline" | "token" | "archive">
  /** One each. Default: three that agree. */
  readonly safekeepers?: ReadonlyArray<SafekeeperMode>
  /** What the safekeepers flushLsn and committed. */
  readonly flush?: Lsn
  readonly tenant?: string
  readonly timeline?: string
  readonly token?: string
}

/**
 * A pageserver and its safekeepers for one timeline.
 *
 * @example
 * ```ts
 * const storage = Effect.map(NeonPeers, ({ storageFields }) => storageFields)
 * const fields = storage.pipe(Effect.provide(NeonPeers.layer({ archive: new Uint8Array() })), Effect.scoped)
 * ```
 */
export class NeonPeers extends Context.Service<
  NeonPeers,
  {
    readonly pageserver: FakePageserver
    readonly safekeepers: ReadonlyArray<FakeSafekeeper>
    /** For a spec, next to its `cluster`. */
    readonly storageFields: {
      readonly tenant_id: string
      readonly timeline_id: string
      readonly pageserver_connstring: string
      readonly safekeeper_connstrings: ReadonlyArray<string>
      readonly storage_auth_token: string
    }
  }
>()("compute/testing/NeonPeers") {
  static readonly layer = (options: NeonPeersOptions): Layer.Layer<NeonPeers, ListenFailed> =>
    Layer.effect(
      NeonPeers,
      Effect.gen(function* () {
        const {
          tenant = "a".repeat(32),
          timeline = "b".repeat(32),
          token = "storage-token",
          flush = 0x16b9188n
        } = options
        const mine = { tenant, timeline, token }
        const pageserver = yield* makeFakePageserver({ ...options.pageserver, ...mine, archive: options.archive })
        const modes: ReadonlyArray<SafekeeperMode> = options.safekeepers ?? ["ok", "ok", "ok"]
        const safekeepers = yield* Effect.forEach(modes, (mode) => makeFakeSafekeeper({ ...mine, flush, mode }))
        return NeonPeers.of({
          pageserver,
          safekeepers,
          storageFields: {
            tenant_id: tenant,
            timeline_id: timeline,
            pageserver_connstring: pageserver.url,
            safekeeper_connstrings: safekeepers.map(({ address }) => address),
            storage_auth_token: token
          }
        })
      })
    )
}
