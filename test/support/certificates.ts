/**
 * Self-signed certificates of any kind of key, made here, so that no key lies in the repository and no `openssl` is
 * needed.
 */
import * as crypto from "node:crypto"

export interface TestCertificate {
  readonly certificate: string
  readonly key: string
}

export const kinds = ["rsa", "ec-p256", "ec-p384", "ed25519"] as const
export type Kind = (typeof kinds)[number]

const tlv = (tag: number, ...parts: ReadonlyArray<Uint8Array>): Buffer => {
  const body = Buffer.concat(parts)
  const length =
    body.length < 0x80
      ? [body.length]
      : body.length < 0x100
        ? [0x81, body.length]
        : [0x82, body.length >> 8, body.length & 0xff]
  return Buffer.concat([Buffer.from([tag, ...length]), body])
}
const sequence = (...parts: ReadonlyArray<Uint8Array>) => tlv(0x30, ...parts)
const hex = (text: string) => Buffer.from(text, "hex")

/** `rsaEncryption with SHA-256`, `ECDSA with SHA-256`, Ed25519. */
const algorithms: Record<Kind, Buffer> = {
  rsa: sequence(hex("06092a864886f70d01010b"), hex("0500")),
  "ec-p256": sequence(hex("06082a8648ce3d040302")),
  "ec-p384": sequence(hex("06082a8648ce3d040302")),
  ed25519: sequence(hex("06032b6570"))
}

const keysOf = (kind: Kind): { readonly privateKey: crypto.KeyObject; readonly publicKey: crypto.KeyObject } => {
  switch (kind) {
    case "rsa":
      return crypto.generateKeyPairSync("rsa", { modulusLength: 2048 })
    case "ec-p256":
      return crypto.generateKeyPairSync("ec", { namedCurve: "P-256" })
    case "ec-p384":
      return crypto.generateKeyPairSync("ec", { namedCurve: "P-384" })
    case "ed25519":
      return crypto.generateKeyPairSync("ed25519")
  }
}

const time = (year: number) => tlv(0x18, Buffer.from(`${year}0101000000Z`))

/** Valid from 2020 until the year given, for `localhost`. PKCS #8 key, or SEC 1 for elliptic curves when asked. */
export const selfSigned = (
  kind: Kind,
  options: { readonly until?: number; readonly sec1?: boolean } = {}
): TestCertificate => {
  const { privateKey, publicKey } = keysOf(kind)
  const name = sequence(tlv(0x31, sequence(hex("0603550403"), tlv(0x0c, Buffer.from("localhost")))))
  const body = sequence(
    tlv(0xa0, hex("020102")),
    tlv(0x02, Buffer.concat([Buffer.from([0x01]), crypto.randomBytes(8)])),
    algorithms[kind],
    name,
    sequence(time(2020), time(options.until ?? 2120)),
    name,
    publicKey.export({ type: "spki", format: "der" })
  )
  const signature = crypto.sign(kind === "ed25519" ? null : "sha256", body, privateKey)
  const der = sequence(body, algorithms[kind], tlv(0x03, Buffer.from([0]), signature))
  const lines = der.toString("base64").match(/.{1,64}/g) ?? []
  return {
    certificate: `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`,
    key: String(privateKey.export({ type: options.sec1 === true ? "sec1" : "pkcs8", format: "pem" }))
  }
}
