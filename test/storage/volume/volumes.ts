/**
 * As much of a compute's lifecycle as a volume needs, with the real storage and a real Postgres, as
 * `../local/computes.ts` has it for local storage.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { afterAll } from "vitest"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { ComputeState } from "../../../src/compute/ComputeState.ts"
import type { Failure } from "../../../src/errors/Failure.ts"
import { hintOf } from "../../../src/errors/policy.ts"
import { Admin } from "../../../src/pgwire/Admin.ts"
import { Spawn } from "../../../src/platform/Spawn.ts"
import { PostgresInstall } from "../../../src/postgres/PostgresInstall.ts"
import { Storage } from "../../../src/storage/Storage.ts"
import { VolumeStorage, type VolumeStorageOptions } from "../../../src/storage/volume/VolumeStorage.ts"
import { runAs, superuser } from "../../support/postgres.ts"
import * as computes from "../local/computes.ts"

/** initdb takes a second or two: once per test file. */
let seeds: string | null = null
afterAll(() => {
  if (seeds !== null) fs.rmSync(seeds, { recursive: true, force: true })
  seeds = null
})

export const seedDirectory = (): string => {
  if (seeds !== null) return seeds
  seeds = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-seeds-"))
  fs.chmodSync(seeds, 0o755)
  return seeds
}

export interface VolumeOptions extends Partial<VolumeStorageOptions> {
  readonly major?: number
}

export interface Volume extends computes.World {
  /** Our folder in PGDATA. */
  readonly ours: string
}

export const storageFor = (
  world: Pick<computes.World, "install" | "port">,
  options: VolumeOptions = {}
): Effect.Effect<Storage["Service"], never, Scope.Scope> => {
  const { major = world.install.major, ...storage } = options
  const install = PostgresInstall.of({
    postgres: world.install.postgres,
    initdb: world.install.initdb,
    pgDump: null,
    major,
    version: `${major}.test`,
    runAs
  } as PostgresInstall["Service"])
  const admin = Admin.layer({
    host: "127.0.0.1",
    port: world.port,
    user: superuser,
    password: null,
    database: "postgres",
    options: null,
    applicationName: null
  })
  const layer = VolumeStorage.layer({ seedDirectory: seedDirectory(), ...storage })
  return Effect.map(
    Layer.build(
      Layer.provide(
        layer,
        Layer.mergeAll(Layer.succeed(PostgresInstall, install), admin, Spawn.layer, ComputeState.layer)
      )
    ),
    (context) => Effect.runSync(Effect.provide(Storage, context))
  )
}

export const makeVolume = Effect.fnUntraced(function* (options: VolumeOptions = {}) {
  const { major = 17, ...storage } = options
  const world = yield* computes.makeWorld({ major, bare: true })
  return {
    ...world,
    storage: yield* storageFor(world, storage),
    ours: `${world.pgdata}/compute_ctl`
  } satisfies Volume
})

/** Nothing of what local storage asks for. */
const settings = "fsync = on\nwal_keep_size = 0\n"

export const start = (volume: Volume, options: computes.StartOptions = {}) =>
  computes.start(volume, { ...options, settings: `${settings}${options.settings ?? ""}` })

/** A start that must fail: as what, and what a person is told. */
export const refused = (volume: Volume, options: computes.StartOptions = {}) =>
  Effect.map(Effect.flip(start(volume, options)), (cause) => {
    const failure = cause as Failure
    return { tag: failure._tag, message: failure.message, hint: hintOf(failure) }
  })

/**
 * Every file with size, owner and time of its last change, but for what locks and looks may change; and the
 * postmaster.pid of the dead, which goes with the proof that they are.
 */
export const stateOf = (folder: string): string => {
  const others = ["-not", "-path", "*/compute_ctl/lock*", "-not", "-name", "reached", "-not", "-name", "postmaster.pid"]
  return execFileSync("find", [folder, ...others, "-type", "f", "-printf", "%P %s %u %T@\n"], { encoding: "utf8" })
    .split("\n")
    .sort()
    .join("\n")
}

/** A file in PGDATA, Postgres's own as all of them. */
export const put = (volume: Volume, name: string, content: string | Uint8Array): void => {
  const at = path.join(volume.pgdata, name)
  const made = fs.mkdirSync(path.dirname(at), { recursive: true })
  fs.writeFileSync(at, content, { mode: 0o600 })
  for (const one of runAs === null ? [] : [at, made ?? at]) fs.chownSync(one, runAs?.uid ?? 0, runAs?.gid ?? 0)
}
