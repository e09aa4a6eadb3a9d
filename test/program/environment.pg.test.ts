/**
 * What code that runs in Postgres can read of the program's environment.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { least } from "../support/fixtures.ts"
import { launch, localArguments, place, session } from "./harness.ts"

const secrets = {
  OTEL_EXPORTER_OTLP_HEADERS: "authorization=Bearer s3cret",
  AWS_SECRET_ACCESS_KEY: "s3cret",
  PGPASSWORD: "s3cret",
  PGPASSFILE: "/s3cret",
  PGBOUNCER_PASSWORD: "s3cret",
  NEON_CONTROL_PLANE_TOKEN: "s3cret",
  NEON_AUTH_TOKEN: "s3cret",
  HTTPS_PROXY: "http://user:s3cret@proxy:3128",
  SOMEBODYS_OWN: "s3cret"
}

/** Which a Postgres may need, and who starts it may have set for it. */
const needed = { TZ: "Europe/Berlin", LC_MESSAGES: "C", SSL_CERT_DIR: "/etc/ssl/certs", MALLOC_ARENA_MAX: "2" }

describe("the environment of Postgres", () => {
  it.live("has what programs need to find their things, and none of our secrets", () =>
    Effect.gen(function* () {
      const at = yield* place
      const program = yield* launch(localArguments(at, least), at.httpPort, { ...secrets, ...needed })
      yield* Effect.promise(() => program.reaches("running"))
      const wire = yield* session(at)
      yield* wire.simple("create temp table seen (line text); copy seen from program 'env' with (delimiter e'\\x01')")
      const seen = (yield* wire.rows("select line from seen")).map(([line]) => line ?? "")
      assert.deepStrictEqual(
        seen.filter((line) => line.includes("s3cret") || Object.keys(secrets).some((name) => line.startsWith(name))),
        []
      )
      for (const name of ["PATH", ...Object.keys(needed)])
        assert.isTrue(
          seen.some((line) => line.startsWith(`${name}=`)),
          `${name} in ${seen.join(" ")}`
        )
    })
  )
})
