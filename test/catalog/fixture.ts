/**
 * An applier on a real Postgres, with specs in a few words. Private to the tests of this folder.
 */
import { assert } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { createHash, createHmac, pbkdf2Sync } from "node:crypto"
import { type ApplierOptions, applySpec, observeAndPlan } from "../../src/catalog/apply.ts"
import { isEmpty } from "../../src/catalog/planApply.ts"
import { printPlan } from "../../src/catalog/planText.ts"
import { Admin } from "../../src/pgwire/Admin.ts"
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

/** The second plan is empty, in every sense. */
export const assertSettled = Effect.fnUntraced(function* (postgres: TestPostgres, spec: ParsedSpec) {
  const plan = yield* planOn(postgres, spec)
  assert.strictEqual(printPlan(plan), "")
  assert.isTrue(isEmpty(plan))
})
