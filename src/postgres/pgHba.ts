/**
 * Who may connect, and how they prove it. For local storage the whole pg_hba.conf; for Neon's, whose basebackup
 * brings one, a single line.
 */

/** Exactly as control planes know it, tabs included (reference section 4.7). `md5` takes SCRAM verifiers too. */
export const neonHbaLine = "host\tall\t\tall\t\tall\t\tmd5"

const escapeRegex = (text: string): string => text.replace(/[.*+?^$(){}|[\]\\]/g, "\\$&")

/**
 * A role name as one hba token. Quotes take the meaning from `all`, `+group` and `#`. Since 16 a token that starts
 * with `/` is a regular expression even in quotes, so such a name is written as one that matches only itself.
 * A line break cannot be said: it is dropped, and the line then matches nobody.
 */
export const quoteHba = (name: string, postgresMajor: number): string => {
  const flat = name.replace(/[\0\r\n]/g, "")
  const text = flat.startsWith("/") && postgresMajor >= 16 ? `/^${escapeRegex(flat)}$` : flat
  return `"${text.replaceAll("\"", "\"\"")}"`
}

const line = (...fields: ReadonlyArray<string>): string => fields.join("\t")

/**
 * `starting`: only the superuser, from this machine, while recovery is not yet durable and the spec is applied.
 * `open`: everyone who knows their password; the superuser may also copy the cluster over the local socket.
 */
export const localHba = (phase: "starting" | "open", superuser: string, postgresMajor: number): string => {
  const admin = quoteHba(superuser, postgresMajor)
  const method = phase === "open" ? "md5" : "reject"
  return [
    "# Written by compute_ctl at each start; edits do not last.",
    line("local", "all", admin, "trust"),
    line("host", "all", admin, "127.0.0.1/32", "trust"),
    line("host", "all", admin, "::1/128", "trust"),
    ...(phase === "open" ? [line("local", "replication", admin, "trust")] : []),
    line("local", "all", "all", method),
    line("host", "all", "all", "all", method),
    ""
  ].join("\n")
}
