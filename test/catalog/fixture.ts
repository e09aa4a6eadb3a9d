/**
 * An applier on a real Postgres, with specs in a few words. Private to the tests of this folder.
 */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { createHash, createHmac, pbkdf2Sync } from "node:crypto"
import { Applier } from "../../src/catalog/Applier.ts"
import { type ApplierOptions, applySpec, observeAndPlan } from "../../src/catalog/apply.ts"
import { isEmpty } from "../../src/catalog/planApply.ts"
import { printPlan } from "../../src/catalog/planText.ts"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { Admin } from "../../src/pgwire/Admin.ts"
import type { Wire } from "../../src/pgwire/Wire.ts"
import type { ParsedSpec, Password, Role } from "../../src/spec/ParsedSpec.ts"
import { superuser, type TestPostgres } from "../support/postgres.ts"
import { emptySpec } from "../support/specs.ts"

/** A SCRAM verifier as a client would make one. */
export const scram = (password: string, salt = "c2FsdHNhbHRzYWx0c2E=", rounds = 4096): string => {
  const salted = pbkdf2Sync(password.normalize("NFKC"), Buffer.from(salt, "base64"), rounds, 32, "sha256")
  const clientKey = createHmac("sha256", salted).update("Client Key").digest()
  const stored = createHash("sha256").update(clientKey).digest("base64")
  const server = createHmac("sha256", salted).update("Server Key").digest("base64")
  return `SCRAM-SHA-256$${rounds}:${salt}$${stored}:${server}`
}

export const verifier = (text: string): Password => ({ _tag: "Verifier", verifier: Redacted.make(text) })
export const unmanaged: Password = { _tag: "Unmanaged" }
export const noPassword: Password = { _tag: "None" }

export const role = (name: string, password: Password = unmanaged, options: Role["options"] = []): Role => ({
  name,
  password,
  privileged: null,
  options
})
export const database = (name: string, owner: string, options: ParsedSpec["databases"][number]["options"] = []) => ({
  name,
  owner,
  options
})
export const specOf = (given: Partial<ParsedSpec>): ParsedSpec => ({
  ...emptySpec,
  postgresqlConf: "max_connections = 100\n",
  ...given
})

export const adminOf = (postgres: Pick<TestPostgres, "port">, user: string | null = superuser) =>
  Admin.layer({
    host: "127.0.0.1",
    port: postgres.port,
    user,
    password: null,
    database: "postgres",
    options: null,
    applicationName: null
  })

export const options: ApplierOptions = { privilegedRole: "neon_superuser" }

export const applyOn = (
  postgres: TestPostgres,
  spec: ParsedSpec,
  given: ApplierOptions = options,
  kind: "start" | "reconfigure" = "start"
) => Effect.provide(applySpec({ kind, spec }, given), adminOf(postgres))

export const planOn = (postgres: TestPostgres, spec: ParsedSpec) =>
  Effect.provide(observeAndPlan({ kind: "start", spec }, options), adminOf(postgres))

/** As a compute has it, counting what goes over every session, whoever opened it. */
const countingAdmin = (postgres: TestPostgres, seen: { sessions: number; messages: number }) =>
  Layer.effect(
    Admin,
    Effect.gen(function* () {
      const admin = yield* Admin
      yield* admin.expectMajor(postgres.install.major)
      const connect: typeof admin.connect = (...given) =>
        Effect.map(admin.connect(...given), (wire): Wire => {
          seen.sessions++
          const sends = <A>(sent: A): A => {
            seen.messages++
            return sent
          }
          return {
            ...wire,
            simple: (...given) => sends(wire.simple(...given)),
            rows: (...given) => sends(wire.rows(...given)),
            pipeline: (...given) => sends(wire.pipeline(...given))
          }
        })
      return Admin.of({ ...admin, connect })
    })
  ).pipe(Layer.provide(adminOf(postgres)))

/** The apply of a start and what comes after it in the background. The answer is what that cost, all in all. */
export const startOn = Effect.fnUntraced(function* (postgres: TestPostgres, spec: ParsedSpec) {
  const seen = { sessions: 0, messages: 0 }
  yield* Effect.gen(function* () {
    const applier = yield* Applier
    yield* Effect.forkChild(applier.actor.run)
    yield* applier.apply({ kind: "start", spec })
    yield* applier.afterStart.run
  }).pipe(
    Effect.provide(Applier.layer(options)),
    Effect.provide(Layer.merge(countingAdmin(postgres, seen), ComputeState.layer))
  )
  return seen
})

/** The second plan is empty, in every sense. */
export const assertSettled = Effect.fnUntraced(function* (postgres: TestPostgres, spec: ParsedSpec) {
  const plan = yield* planOn(postgres, spec)
  assert.strictEqual(printPlan(plan), "")
  assert.isTrue(isEmpty(plan))
})
