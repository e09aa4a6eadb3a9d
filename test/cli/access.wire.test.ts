/**
 * From a command line and what it leads to (a file, a control plane's answer) to who is accepted by the HTTP API, and
 * what the log and `/conditions` say about it.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as fs from "node:fs"
import * as path from "node:path"
import { parseArguments } from "../../src/cli/arguments.ts"
import { prepare } from "../../src/cli/run.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { makeFakeControlPlane } from "../../src/testing/peers/FakeControlPlane.ts"
import { ask, inMemoryServices, open, reach } from "../http/testServer.ts"
import { edSigner, rsaSigner, tokenOf } from "../http/tokens.ts"
import { leastNeon } from "../support/fixtures.ts"
import { temporaryFolder } from "../support/postgres.ts"

const signer = edSigner()
const rsa = rsaSigner()
const ours = tokenOf(signer, { compute_id: "me" })
const admin = tokenOf(signer, { scope: "compute_ctl:admin", aud: ["compute"] })
const as = (token: string) => ({ headers: { authorization: `Bearer ${token}` } })
const where = ["-D", "/nowhere/pgdata", "-C", "postgresql://cloud_admin@127.0.0.1:1/postgres"]

const around = {
  path: undefined,
  home: "/nowhere",
  stateHome: undefined,
  isRoot: false,
  pgbouncerPassword: null,
  auditEndpoints: { plain: null, tls: null },
  programFolder: "/nowhere"
}

/** What a run with these arguments serves, without its Postgres, and what was logged until then. */
const served = Effect.fnUntraced(function* (argv: ReadonlyArray<string>) {
  const logged: Array<string> = []
  const listener = Logger.make(({ logLevel, message }) => void logged.push(`${logLevel} ${String(message)}`))
  const command = parseArguments([...where, ...argv], {})
  if (command._tag === "Failure" || command.success._tag !== "Run") return yield* Effect.die(command)
  const { settings } = command.success
  return yield* Effect.gen(function* () {
    for (const warning of settings.warnings) yield* Effect.logWarning(warning)
    const { apiVersion, computeId, http } = yield* prepare(settings, around)
    const { port } = yield* open({
      ...http,
      allowedHosts: http.allowedHosts ?? new Set(),
      apiVersion,
      computeId,
      externalPort: 0,
      internalPort: null
    })
    const status = (path: string, method = "GET", token?: string) =>
      Effect.map(ask(port, method, path, token === undefined ? {} : as(token)), ({ status }) => status)
    const state = yield* ComputeState
    return {
      apiVersion,
      status,
      verifier: http.verifier,
      logged: logged.filter((line) => line.includes("the HTTP API") || line.includes("okens")),
      degraded: Effect.map(state.now, ({ degraded }) => degraded.map(({ code }) => code))
    }
  }).pipe(Effect.provide(Logger.layer([listener])))
})

const controlPlane = (compute_ctl_config?: unknown) =>
  makeFakeControlPlane({
    computeId: "me",
    answer: () => ({
      spec: leastNeon,
      status: "attached",
      ...(compute_ctl_config === undefined ? {} : { compute_ctl_config })
    })
  })

const configFile = Effect.fnUntraced(function* (keys: ReadonlyArray<unknown>) {
  const file = path.join(yield* temporaryFolder, "config.json")
  fs.writeFileSync(file, JSON.stringify({ spec: leastNeon, compute_ctl_config: { jwks: { keys } } }))
  return file
})

const keysOf = (...keys: ReadonlyArray<unknown>) => ({ jwks: { keys } })

describe("keys in a control plane's answer", () => {
  for (const flags of [["--http-port", "1234"], [], ["--external-http-port", "1234"], ["--api-dialect", "2024"]]) {
    it.live(`mean that tokens are asked for, whatever the dialect: -p -i ${flags.join(" ")}`, () =>
      Effect.gen(function* () {
        const { uri } = yield* controlPlane(keysOf(signer.jwk))
        const { degraded, logged, status } = yield* served(["-p", uri, "-i", "me", ...flags])
        assert.strictEqual(yield* status("/status"), 400)
        for (const command of ["/terminate", "/configure", "/grants", "/extensions", "/refresh_configuration"])
          assert.strictEqual(yield* status(command, "POST"), 400, command)
        assert.strictEqual(yield* status("/status", "GET", ours), 200)
        assert.strictEqual(yield* status("/status", "GET", tokenOf(signer, { compute_id: "other" })), 403)
        assert.strictEqual(yield* status("/livez"), 200)
        assert.deepStrictEqual(yield* degraded, [])
        assert.lengthOf(logged, 1)
        assert.match(logged[0] ?? "", /^Info .* accepts administrators' tokens, and those made for compute me$/)
      }).pipe(Effect.provide(inMemoryServices))
    )
  }

  it.live(
    "may be missing in the 2024 dialect: then nobody is asked, which is told while all of the network may come",
    () =>
      Effect.gen(function* () {
        for (const [config, host, codes, said] of [
          [
            undefined,
            [],
            ["api_unguarded"],
            /^Warn the HTTP API on \[::\]:\d+ asks for no tokens, so that whoever reaches/
          ],
          [keysOf(), [], ["api_unguarded"], /^Warn the HTTP API on \[::\]:\d+ asks for no tokens/],
          [undefined, ["--http-host", "127.0.0.1"], [], /^Info the HTTP API on 127\.0\.0\.1:\d+ asks for no tokens/]
        ] as const) {
          const { uri } = yield* controlPlane(config)
          const found = yield* served(["-p", uri, "-i", "me", "--http-port", "1234", ...host])
          assert.strictEqual(found.apiVersion, "2024")
          assert.strictEqual(yield* found.status("/status"), 200)
          assert.deepStrictEqual(yield* found.degraded, [...codes])
          assert.lengthOf(found.logged, 1)
          assert.match(found.logged[0] ?? "", said)
          yield* Effect.flatMap(ComputeState, (state) => state.clear("api_unguarded"))
        }
      }).pipe(Effect.provide(inMemoryServices), Effect.scoped)
  )

  it.live("may be missing in the later dialect: then nobody is accepted, and that is told", () =>
    Effect.gen(function* () {
      const { uri } = yield* controlPlane()
      const { degraded, logged, status } = yield* served(["-p", uri, "-i", "me"])
      assert.strictEqual(yield* status("/status", "GET", ours), 401)
      assert.deepStrictEqual(yield* degraded, ["api_keys_unusable"])
      assert.match(logged[0] ?? "", /^Warn .* accepts nobody, because no key .* can verify a token: there is none;/)
    }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("keys in a file", () => {
  it.live("without -i admit administrators alone, in either dialect, and the log says so", () =>
    Effect.gen(function* () {
      const file = yield* configFile([signer.jwk])
      for (const dialect of ["2024", "head"]) {
        const { apiVersion, logged, status } = yield* served(["-c", file, "--api-dialect", dialect])
        assert.strictEqual(apiVersion, dialect)
        assert.strictEqual(yield* status("/status", "GET", admin), 200)
        assert.strictEqual(yield* status("/status", "GET", tokenOf(signer, { compute_id: "" })), 403)
        assert.strictEqual(yield* status("/status"), 400)
        assert.lengthOf(logged, 1)
        assert.match(logged[0] ?? "", /^Warn .* accepts administrators' tokens only, because this compute has no id/)
      }
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live("that cannot verify are left out, which is told until others are sent", () =>
    Effect.gen(function* () {
      const file = yield* configFile([{ kty: "oct", k: "AAAA" }, signer.jwk])
      const { degraded, logged, status, verifier } = yield* served(["-c", file, "-i", "me"])
      assert.strictEqual(yield* status("/status", "GET", ours), 200)
      assert.deepStrictEqual(yield* degraded, ["api_keys_unusable"])
      assert.match(logged[0] ?? "", /^Warn .* leaves out keys that cannot verify tokens: keys\[0\]: a symmetric key/)
      yield* verifier?.rotate([{ ...rsa.jwk, alg: "RS256" }]) ?? Effect.void
      assert.deepStrictEqual(yield* degraded, [])
      assert.strictEqual(yield* status("/status", "GET", tokenOf(rsa, { compute_id: "me" })), 200)
    }).pipe(Effect.provide(inMemoryServices))
  )

  it.live(
    "none of which can verify admit nobody, as one compose file has them: probes are answered, and it is told",
    () =>
      Effect.gen(function* () {
        const hex = Buffer.from(String(signer.jwk["x"]), "base64url").toString("hex")
        const file = yield* configFile([{ ...signer.jwk, x: Buffer.from(hex).toString("base64url") }])
        const { degraded, logged, status } = yield* served(["-c", file, "-i", "me"])
        assert.strictEqual(yield* status("/livez"), 200)
        assert.strictEqual(yield* status("/status", "GET", ours), 401)
        assert.deepStrictEqual(yield* degraded, ["api_keys_unusable"])
        assert.match(logged[0] ?? "", /accepts nobody, .*keys\[0\]: its x is not 32 bytes/)
      }).pipe(Effect.provide(inMemoryServices))
  )
})

describe("an error of a spec's SQL", () => {
  const secret = 'syntax error at or near "hunter2"'

  it.live("is told by probes where no tokens are asked for, and to nobody without one where they are", () =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      yield* reach("running")
      yield* state.note({ error: secret, notAccepting: secret, postgresAlive: false })
      const { uri } = yield* controlPlane(keysOf(signer.jwk))
      for (const [argv, told] of [
        [["-p", uri, "-i", "me"], false],
        [["-p", uri, "-i", "me", "--http-port", "1"], false],
        [["-S", yield* specFile], true]
      ] as const) {
        const command = parseArguments([...where, ...argv], {})
        if (command._tag === "Failure" || command.success._tag !== "Run") return assert.fail()
        const { apiVersion, computeId, http } = yield* prepare(command.success.settings, around)
        const { port } = yield* open({ verifier: http.verifier, apiVersion, computeId })
        for (const query of ["", "?verbose", "?verbose=1"])
          for (const probe of ["/livez", "/readyz", "/startupz"]) {
            const { text } = yield* ask(port, "GET", `${probe}${query}`)
            if (!told) assert.notInclude(text, "hunter2", `${probe}${query}`)
          }
        const verbose = yield* ask(port, "GET", "/readyz?verbose")
        assert.strictEqual(verbose.status, 503)
        assert.strictEqual(verbose.text.includes("hunter2"), told)
        const asked = yield* ask(port, "GET", "/status", as(ours))
        assert.include(asked.text, "hunter2")
      }
    }).pipe(Effect.provide(inMemoryServices))
  )

  const specFile = Effect.map(temporaryFolder, (folder) => {
    const file = path.join(folder, "spec.json")
    fs.writeFileSync(file, JSON.stringify(leastNeon))
    return file
  })
})
