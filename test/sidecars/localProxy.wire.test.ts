/**
 * local_proxy's file, and a real process behind a really locked pid file.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { configureLocalProxy, findLocalProxy, stopLocalProxy } from "../../src/sidecars/localProxy.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { programAt, startProgram } from "../support/programs.ts"
import { eventually } from "../support/waiting.ts"

const keys = {
  jwks: [
    {
      id: "1",
      roleNames: ["authenticated"],
      jwksUrl: "https://issuer.invalid/jwks",
      providerName: "issuer",
      jwtAudience: null
    }
  ]
}

const setUp = Effect.gen(function* () {
  const folder = yield* temporaryFolder
  return { folder, place: { config: path.join(folder, "config.json"), pidFile: path.join(folder, "pid") } }
})

/** Answers every SIGHUP with a line, until it gets a SIGTERM. */
const body = (pidFile: string) =>
  `echo $$ > ${pidFile}; trap 'echo reloaded' HUP; trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done`

describe("local_proxy", () => {
  it.live("gets its configuration as pretty JSON, also where it does not run", () =>
    Effect.gen(function* () {
      const { place } = yield* setUp
      assert.isFalse(yield* configureLocalProxy(place, keys, { keyPath: "/tls/key", certPath: "/tls/crt" }))
      assert.strictEqual(
        fs.readFileSync(place.config, "utf8"),
        `{
  "jwks": [
    {
      "id": "1",
      "role_names": [
        "authenticated"
      ],
      "jwks_url": "https://issuer.invalid/jwks",
      "provider_name": "issuer",
      "jwt_audience": null
    }
  ],
  "tls": {
    "key_path": "/tls/key",
    "cert_path": "/tls/crt"
  }
}`
      )
      yield* configureLocalProxy(place, { jwks: null }, null)
      assert.strictEqual(fs.readFileSync(place.config, "utf8"), "{}")
    })
  )

  it.live(
    "is signalled to read it again while its pid file is locked, and is stopped at the end",
    () =>
      Effect.gen(function* () {
        const { place } = yield* setUp
        const flock = programAt("flock") ?? assert.fail("flock is a part of util-linux")
        const proxy = yield* startProgram(flock, [place.pidFile, "bash", "-c", body(place.pidFile)])
        yield* eventually("the proxy to be up", () => proxy.said().includes("up"), proxy.said)
        assert.isTrue(yield* configureLocalProxy(place, keys, null))
        yield* eventually("the reload", () => proxy.said().includes("reloaded"), proxy.said)
        yield* stopLocalProxy(place)
        // Its output may arrive after its exit.
        yield* eventually("its last line", () => proxy.said().includes("bye"), proxy.said)
        assert.isNull(findLocalProxy(place))
      }),
    30_000
  )

  it.live(
    "is left alone when no process holds the lock: the pid may be anybody's",
    () =>
      Effect.gen(function* () {
        const { place } = yield* setUp
        const bystander = yield* startProgram("bash", ["-c", body(place.pidFile)])
        yield* eventually("the bystander to be up", () => bystander.said().includes("up"), bystander.said)
        assert.isFalse(yield* configureLocalProxy(place, keys, null))
        yield* stopLocalProxy(place)
        assert.isFalse(bystander.left())
        assert.notInclude(bystander.said(), "reloaded")
      }),
    30_000
  )

  it.live("the error names a folder that is not there", () =>
    Effect.gen(function* () {
      const { folder, place } = yield* setUp
      const failure = yield* Effect.flip(
        configureLocalProxy({ ...place, config: `${folder}/none/config.json` }, keys, null)
      )
      assert.strictEqual(failure.message, `cannot write ${folder}/none/config.json`)
    })
  )
})
