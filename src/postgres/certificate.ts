/**
 * Where Postgres finds its certificate, and what its configuration says of it (reference sections 4.5 and 11.3).
 */

export const certificateFile = "server.crt"
export const keyFile = "server.key"

/** Whether Postgres and what is beside it show the compute's certificate: the spec has to ask for it. */
export const showsCertificate = (features: ReadonlySet<string>): boolean => features.has("tls_experimental")

/** Lines of postgresql.conf for a compute that has a certificate. */
export const sslLines: ReadonlyArray<string> = ["ssl = on", `ssl_cert_file = '${certificateFile}'`, `ssl_key_file = '${keyFile}'`]

const block = (label: string) => new RegExp(`-----BEGIN ${label}-----[\\s\\S]*?-----END ${label}-----`)

/** The first certificate of a chain: the one the key belongs to. `null`: there is none. */
export const leafOf = (chain: string): string | null => block("CERTIFICATE").exec(chain)?.[0] ?? null

/** What is wrong with the key's file at first sight; `null`: nothing. */
export const keyFault = (pem: string): string | null => {
  const [, label] = /-----BEGIN ((?:[A-Z]+ )*PRIVATE KEY)-----/.exec(pem) ?? []
  if (label === undefined) return "the key file holds no PEM private key"
  const encrypted = label === "ENCRYPTED PRIVATE KEY" || /^Proc-Type: 4,ENCRYPTED/m.test(pem)
  return encrypted ? "the key needs a passphrase, and nobody could give one" : null
}
