/**
 * A real HTTP store of extensions that misbehaves as message, and the service around `RemoteExtensions` for its tests.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { createHash } from "node:crypto"
import { once } from "node:events"
import * as fs from "node:fs"
import * as http from "node:http"
import * as path from "node:path"
import { zstdCompressSync } from "node:zlib"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { defaultLimits, type DownloadLimits, RemoteExtensions } from "../../src/extensions/RemoteExtensions.ts"
import { Spawn } from "../../src/platform/Spawn.ts"
import { PostgresInstall } from "../../src/postgres/PostgresInstall.ts"
import type { ParsedSpec, RemoteExtensionList } from "../../src/spec/ParsedSpec.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { emptySpec } from "../support/specs.ts"
import { type Entry, tarOf } from "../support/tars.ts"

export const zst = (entries: ReadonlyArray<Entry>): Buffer => zstdCompressSync(tarOf(entries))
export const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex")

export type Answer = (request: http.IncomingMessage, response: http.ServerResponse) => void

export const complete =
  (bytes: Uint8Array): Answer =>
  (_, response) =>
    void response.writeHead(200).end(bytes)
export const status =
  (code: number): Answer =>
  (_, response) =>
    void response.writeHead(code).end("no")
/** Half of it, and then the line goes dead, politely or not at all. */
export const halfThen =
  (bytes: Uint8Array, then: "hang up" | "silence" | "end"): Answer =>
  (_, response) => {
    response.writeHead(200)
    response.write(bytes.subarray(0, bytes.length >> 1), () => {
      if (then === "hang up") response.destroy()
      if (then === "end") response.end()
    })
  }
export const never: Answer = () => {}

export interface Store {
  readonly base: string
  /** Paths that were asked for, in order. */
  readonly requests: ReadonlyArray<string>
  /** The answers to come for a path; the last one stays. Without any: 404. */
  readonly answer: (path: string, ...answers: ReadonlyArray<Answer>) => void
}

export const startStore: Effect.Effect<Store, never, Scope.Scope> = Effect.gen(function* () {
  const requests: Array<string> = []
  const answers = new Map<string, Array<Answer>>()
  const server = http.createServer((request, response) => {
    const at = request.url ?? ""
    requests.push(at)
    const queue = answers.get(at) ?? []
    const answer = (queue.length > 1 ? queue.shift() : queue[0]) ?? status(404)
    answer(request, response)
  })
  yield* Effect.acquireRelease(
    Effect.promise(() => once(server.listen(0, "127.0.0.1"), "listening")),
    () =>
      Effect.promise(async () => {
        server.closeAllConnections()
        server.close()
        await once(server, "close")
      })
  )
  const address = server.address()
  const port = typeof address === "object" && address !== null ? address.port : 0
  return { base: `http://127.0.0.1:${port}/`, requests, answer: (at, ...more) => void answers.set(at, [...more]) }
})

/** A folder that looks like an installation, for tests that start no Postgres. */
export const emptyInstall: Effect.Effect<string, never, Scope.Scope> = Effect.map(temporaryFolder, (folder) => {
  for (const at of ["bin", "share/postgresql/extension", "lib/postgresql"])
    fs.mkdirSync(path.join(folder, at), { recursive: true })
  for (const at of ["bin/postgres", "share/postgresql/extension/plpgsql.control", "lib/postgresql/plpgsql.so"]) {
    fs.writeFileSync(path.join(folder, at), "")
  }
  return folder
})

/** Short enough for tests. */
export const shortLimits: DownloadLimits = {
  ...defaultLimits,
  answerWithin: Duration.millis(500),
  pieceWithin: Duration.millis(300),
  attemptWithin: Duration.seconds(10),
  within: Duration.seconds(20)
}

export const listOf = (
  extensions: Readonly<Record<string, string | null>>,
  libraries: Readonly<Record<string, string>> = {}
): RemoteExtensionList => ({
  public: new Set(Object.keys(extensions)),
  custom: null,
  libraries: new Map(Object.entries(libraries)),
  extensions: new Map(
    Object.entries(extensions).map(([name, digest]) => [
      name,
      {
        controlFiles: new Map([[`${name}.control`, `# ${name}\ndefault_version = '1.0'\nrelocatable = true\n`]]),
        sha256: digest
      }
    ])
  )
})

interface Running {
  readonly extensions: RemoteExtensions["Service"]
  readonly state: ComputeState["Service"]
  /** Everything below the installation's share and lib, and whatever else is not `bin` nor a record of it. */
  readonly files: () => ReadonlyArray<string>
}

export const startService = Effect.fnUntraced(function* (
  install: string,
  base: string | null,
  spec: ParsedSpec | null,
  limits: DownloadLimits = shortLimits
) {
  const layer = RemoteExtensions.layer({ apiVersion: "head", base, buildTag: "tag", arch: "x64", limits }).pipe(
    Layer.provideMerge(
      Layer.mergeAll(
        Layer.fresh(ComputeState.layer),
        Spawn.layer,
        Layer.succeed(
          PostgresInstall,
          PostgresInstall.of({
            postgres: path.join(install, "bin/postgres"),
            initdb: null,
            pgDump: null,
            major: 17,
            version: "17.10",
            runAs: null
          })
        )
      )
    )
  )
  const context = yield* Layer.build(layer)
  const state = yield* Effect.provide(ComputeState, context)
  if (spec !== null) yield* state.note({ spec })
  const extensions = yield* Effect.provide(RemoteExtensions, context)
  const files = () =>
    fs
      .readdirSync(install, { recursive: true, withFileTypes: true })
      .filter((one) => !one.isDirectory())
      .map((one) => path.relative(install, path.join(one.parentPath, one.name)))
      .filter((name) => !/^bin\/|plpgsql|^download_extensions\/placed\//.test(name))
      .sort()
  return { extensions, state, files } satisfies Running
})

export const specWith = (remoteExtensions: RemoteExtensionList, more: Partial<ParsedSpec> = {}): ParsedSpec => ({
  ...emptySpec,
  remoteExtensions,
  ...more
})
