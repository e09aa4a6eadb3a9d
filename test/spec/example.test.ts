/**
 * The example spec: its verifiers belong to the passwords in its README.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import * as crypto from "node:crypto"
import * as fs from "node:fs"
import { specOf, fixtures } from "../support/fixtures.ts"

const readme = fs.readFileSync(new URL("../../examples/README.md", import.meta.url), "utf8")

/** What Postgres stores for a password (RFC 5803, in Postgres's spelling). */
const scramVerifier = (password: string, salt: string, iterations: number): string => {
  const salted = crypto.pbkdf2Sync(password, Buffer.from(salt, "base64"), iterations, 32, "sha256")
  const hmac = (text: string) => crypto.createHmac("sha256", salted).update(text).digest()
  const stored = crypto.createHash("sha256").update(hmac("Client Key")).digest("base64")
  return `SCRAM-SHA-256$${iterations}:${salt}$${stored}:${hmac("Server Key").toString("base64")}`
}

describe("examples/spec.json", () => {
  const spec = specOf(fixtures.example, "local")
  for (const { name, password } of spec.roles) {
    it(`${name} can log in with the password of the README`, () => {
      const plain =
        new RegExp(`\\| \`${name}\` \\| \`([^\`]+)\` \\|`).exec(readme)?.[1] ?? assert.fail("the README has none")
      const verifier = password._tag === "Verifier" ? Redacted.value(password.verifier) : assert.fail(password._tag)
      const [, iterations, salt] =
        /^SCRAM-SHA-256\$(\d+):([^$]+)\$/.exec(verifier) ?? assert.fail("it is no SCRAM verifier")
      assert.strictEqual(iterations, "4096")
      assert.strictEqual(verifier, scramVerifier(plain, salt ?? "", 4096))
    })
  }

  it("every database has an owner among the roles", () => {
    const names = new Set(spec.roles.map((role) => role.name))
    for (const database of spec.databases) assert.isTrue(names.has(database.owner), database.name)
  })
})
