/**
 * Canaries: a secret in every input that takes one, then a look at everything that comes out.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import { policy } from "../../src/http/routes.ts"
import { launch, localArguments, place, rows } from "../program/harness.ts"
import { collector } from "../telemetry/collector.ts"

const hex = (text: string) => createHash("md5").update(text).digest("hex")
const base64 = (text: string) => createHash("sha256").update(text).digest("base64")

/** Each is unlike anything that could be there by chance. */
const canaries = {
  md5: hex("canary of a role"),
  laterMd5: hex("canary of a later role"),
  storedKey: base64("canary stored"),
  serverKey: base64("canary server"),
  storageToken: "canary-7Kq2-storage-token",
  endpointToken: "canary-7Kq2-endpoint-token",
  pageserver: "canary-7Kq2-pageserver-password",
  superuser: "canary-7Kq2-superuser-password",
  controlPlane: "canary-7Kq2-control-plane-token",
  pgbouncer: "canary-7Kq2-pgbouncer-password",
  pgbouncerSetting: "canary-7Kq2-pgbouncer-setting",
  collector: "canary-7Kq2-collector-token",
  jwt: "eyJhbGciOiJFZERTQSJ9.canary7Kq2.signature",
  refused: "canary-7Kq2-in-a-refused-spec",
  broken: "canary-7Kq2-in-broken-json",
  query: "canary-7Kq2-in-a-query"
}

const spec = (more: ReadonlyArray<unknown> = []) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  storage_auth_token: canaries.storageToken,
  endpoint_storage_addr: "127.0.0.1:1",
  endpoint_storage_token: canaries.endpointToken,
  pageserver_connstring: `postgresql://no_user:${canaries.pageserver}@127.0.0.1:1/`,
  pgbouncer_settings: { auth_query: canaries.pgbouncerSetting },
  cluster: {
    roles: [
      { name: "md5", encrypted_password: canaries.md5 },
      {
        name: "scram",
        encrypted_password: `SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0$${canaries.storedKey}:${canaries.serverKey}`
      },
      ...more
    ],
    databases: [{ name: "shop", owner: "md5" }],
    // As loud as Postgres can be.
    settings: [
      { name: "log_statement", value: "all", vartype: "enum" },
      { name: "log_min_duration_statement", value: "0", vartype: "integer" },
      { name: "log_connections", value: "on", vartype: "bool" },
      { name: "log_min_messages", value: "debug1", vartype: "enum" },
      { name: "log_min_error_statement", value: "debug5", vartype: "enum" }
    ]
  }
})

const json = { "content-type": "application/json", authorization: `Bearer ${canaries.jwt}` }

describe("secrets", () => {
  it.each(["text", "json"] as const)(
    "stay out of everything that is said (%s)",
    (format) =>
      Effect.runPromise(
        Effect.scoped(
          Effect.gen(function* () {
            const at = yield* place
            const sink = yield* collector()
            const args = localArguments(at, spec(), ["--log-format", format, "--log-level", "trace"]).map((arg) =>
              arg.replace("cloud_admin@", `cloud_admin:${canaries.superuser}@`)
            )
            const program = yield* launch(args, at.httpPort, {
              NEON_CONTROL_PLANE_TOKEN: canaries.controlPlane,
              PGBOUNCER_PASSWORD: canaries.pgbouncer,
              OTEL_EXPORTER_OTLP_ENDPOINT: sink.endpoint,
              OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
              OTEL_EXPORTER_OTLP_HEADERS: `authorization=Bearer%20${canaries.collector}`
            })
            const heard: Array<string> = []
            const ask = (method: string, route: string, body?: unknown) =>
              Effect.promise(async () => {
                const init = {
                  method,
                  headers: json,
                  signal: AbortSignal.timeout(10_000),
                  ...(body === undefined ? {} : { body: JSON.stringify(body) })
                }
                const answer = await program
                  .http(route, init)
                  .catch((cause: unknown) => ({ status: 0, text: String(cause) }))
                heard.push(`${method} ${route.split("?")[0]}: ${answer.status} ${answer.text}`)
                return answer
              })
            yield* Effect.promise(() => program.reaches("running"))
            assert.deepStrictEqual(
              yield* rows(at, `select rolname, rolpassword from pg_authid where rolname in ('md5') order by 1`),
              [["md5", `md5${canaries.md5}`]],
              "the canary has to be alive to be of use"
            )

            const good = yield* ask("POST", "/configure", {
              spec: spec([{ name: "later", encrypted_password: canaries.laterMd5 }])
            })
            assert.strictEqual(good.status, 200, good.text)
            yield* ask("POST", "/configure", {
              spec: spec([{ name: "x".repeat(99), encrypted_password: canaries.refused }])
            })
            yield* ask("POST", "/configure", {
              spec: spec([{ name: "y", encrypted_password: { secret: canaries.refused } }])
            })
            yield* ask("POST", "/configure", { spec: spec([{ name: "pg_z", encrypted_password: canaries.laterMd5 }]) })
            yield* Effect.promise(() =>
              program
                .http("/configure", {
                  method: "POST",
                  headers: json,
                  body: `{"spec": {"storage_auth_token": "${canaries.broken}" `
                })
                .then(({ status, text }) => heard.push(`${status} ${text}`))
            )
            const reads = policy("2024").filter(
              ({ method, path }) => method === "GET" && !path.includes(":") && !/stream|events/.test(path)
            )
            assert.isAbove(reads.length, 5)
            for (const { path } of reads) yield* ask("GET", `${path}?token=${canaries.query}`)
            program.signal("SIGTERM")
            yield* Effect.promise(() => program.exit)

            const places: ReadonlyArray<readonly [string, string]> = [
              ["the log", program.output()],
              ["the trace", sink.raw().replaceAll(`"authorization":"Bearer ${canaries.collector}"`, "")],
              ...heard.map((text) => [text.slice(0, 60), text] as const)
            ]
            assert.isAbove(program.output().length, 10_000, "it was loud enough")
            assert.include(sink.raw(), canaries.collector, "the collector's own token does reach the collector")
            const leaks = places.flatMap(([where, text]) =>
              Object.entries(canaries).flatMap(([name, canary]) => {
                const found = text.indexOf(canary)
                return found < 0
                  ? []
                  : [
                      `${name} in ${where}: …${text
                        .slice(Math.max(0, found - 120), found)
                        .split("\n")
                        .at(-1)}`
                    ]
              })
            )
            assert.deepStrictEqual(leaks, [])
          })
        )
      ),
    180_000
  )
})
