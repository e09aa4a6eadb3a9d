/**
 * What Postgres stores instead of a password: RFC 5803, in Postgres's spelling (`auth-password` in its documentation).
 * Made here, so that no password is in a statement. Only for passwords of printable ASCII: others need SASLprep.
 */
import * as Redacted from "effect/Redacted"
import { createHash, createHmac, pbkdf2Sync, randomBytes } from "node:crypto"

/** Postgres's own number. */
const iterations = 4096
const saltBytes = 16

/** A password that nobody guesses, of letters that no file and no URL has to quote. */
export const generatePassword = (): Redacted.Redacted<string> =>
  Redacted.make(randomBytes(24).toString("base64url"), { label: "password" })

/** `saltFrom`: the same text and password make the same verifier; by default none does. */
export const scramVerifier = (
  password: Redacted.Redacted<string>,
  saltFrom: string = randomBytes(saltBytes).toString("hex")
): Redacted.Redacted<string> => {
  const salt = createHash("sha256").update(saltFrom).digest().subarray(0, saltBytes)
  const salted = pbkdf2Sync(Redacted.value(password), salt, iterations, 32, "sha256")
  const key = (name: string) => createHmac("sha256", salted).update(name).digest()
  const stored = createHash("sha256").update(key("Client Key")).digest("base64")
  const server = key("Server Key").toString("base64")
  return Redacted.make(`SCRAM-SHA-256$${iterations}:${salt.toString("base64")}$${stored}:${server}`, {
    label: "verifier"
  })
}
