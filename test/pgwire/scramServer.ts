/**
 * The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), done properly but for the one lie that a test asks for.
 */
import { createHash, createHmac, pbkdf2Sync } from "node:crypto"
import { authentication, type Connection } from "./scriptedServer.ts"

export interface ScramLies {
  /** What the server believes the password to be. */
  readonly password: string
  readonly iterations?: number
  /** In the place of what the client sent plus the server's own part. */
  readonly nonce?: string
  /** In the place of `v=` and the signature. */
  readonly final?: string
  /** Goes on to AuthenticationOk without AuthenticationSASLFinal. */
  readonly withoutFinal?: boolean
}

const hmac = (key: Uint8Array, data: string) => createHmac("sha256", key).update(data).digest()

/** Reads the client's first message, answers it, checks the proof; `false`: it is not the password. */
export const scram = async ({ read, write }: Connection, lies: ScramLies): Promise<boolean> => {
  const { iterations = 4096 } = lies
  const salt = Buffer.from("0123456789abcdef")
  await write(authentication(10, Buffer.from("SCRAM-SHA-256\0\0")))
  const initial = (await read())?.body.toString() ?? ""
  const firstBare = initial.slice(initial.indexOf("n=,r="))
  const nonce = lies.nonce ?? `${firstBare.slice("n=,r=".length)}3rfcNHYJY1ZVvWVs7j`
  const serverFirst = `r=${nonce},s=${salt.toString("base64")},i=${iterations}`
  await write(authentication(11, Buffer.from(serverFirst)))
  const answer = await read()
  if (answer === null) return false
  const [withoutProof = "", proof = ""] = answer.body.toString().split(",p=")
  const salted = pbkdf2Sync(lies.password, salt, iterations, 32, "sha256")
  const clientKey = hmac(salted, "Client Key")
  const signed = `${firstBare},${serverFirst},${withoutProof}`
  const signature = hmac(createHash("sha256").update(clientKey).digest(), signed)
  const expected = Buffer.from(clientKey.map((byte, index) => byte ^ (signature[index] ?? 0))).toString("base64")
  if (proof !== expected) return false
  const final = lies.final ?? `v=${hmac(hmac(salted, "Server Key"), signed).toString("base64")}`
  if (lies.withoutFinal !== true) await write(authentication(12, Buffer.from(final)))
  return true
}
