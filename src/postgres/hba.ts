/**
 * Who may log in to Postgres, and how they prove who they are: pg_hba.conf and pg_ident.conf. Pure.
 *
 * Stock Postgres gets both files whole. Its superuser logs in over a Unix socket, by who it is to the operating system;
 * over TCP it is asked for a password like everybody, and has none unless the spec gives it one. Neon's pg_hba.conf
 * comes with the basebackup and is the pageserver's; it gets one more line.
 */
import * as Redacted from "effect/Redacted"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

/**
 * Exactly as control planes know it, tabs included (docs/reference/compute_ctl.md#pg_hbaconf). `md5` takes SCRAM
 * verifiers too.
 */
export const neonHbaLine = "host\tall\t\tall\t\tall\t\tmd5"

const escapeRegex = (text: string): string => text.replace(/[.*+?^$(){}|[\]\\]/g, "\\$&")

/**
 * A role name as one hba token. Quotes take the meaning from `all`, `+group` and `#`. Since 16 a token that starts
 * with `/` is a regular expression even in quotes, so such a name is written as one that matches only itself.
 * A line break cannot be written: it is dropped, and the line then matches nobody.
 */
export const quoteHba = (name: string, postgresMajor: number): string => {
  const flat = name.replace(/[\0\r\n]/g, "")
  const text = flat.startsWith("/") && postgresMajor >= 16 ? `/^${escapeRegex(flat)}$` : flat
  return `"${text.replaceAll('"', '""')}"`
}

const line = (...fields: ReadonlyArray<string>): string => fields.join("\t")

const header = "# Written by compute_ctl at each start; edits do not last."

/** Of pg_ident.conf: from users of the operating system to the superuser. */
const identMap = "compute_ctl"

export interface SuperuserLogin {
  readonly superuser: string
  /**
   * Users of the operating system who are the superuser, by the name that it has for them. `null`: it has none for one
   * of them, so that Postgres cannot tell who they are; then the mode of our socket's folder alone keeps others out,
   * and there is no other socket (`localConf.ts`).
   */
  readonly osUsers: ReadonlyArray<string> | null
}

/** How everybody but the superuser on our socket proves who they are. */
export type PasswordMethod = "scram-sha-256" | "md5"

/** Roles of the spec whose verifier is an md5 one: SCRAM cannot be done with it. */
export const md5Roles = (spec: ParsedSpec): ReadonlyArray<string> =>
  spec.roles.flatMap(({ name, password }) =>
    password._tag === "Verifier" && Redacted.value(password.verifier).startsWith("md5") ? [name] : []
  )

/**
 * `starting`: only the superuser, from this machine, while recovery is not yet durable and the spec is applied.
 * `open`: everyone who knows their password; the superuser may also copy the cluster over the local socket.
 *
 * `md5` asks for SCRAM too, except of roles that have an md5 verifier (`auth-password` in Postgres's documentation).
 */
export const localHba = (
  phase: "starting" | "open",
  { osUsers, superuser }: SuperuserLogin,
  passwords: PasswordMethod,
  postgresMajor: number
): string => {
  const admin = quoteHba(superuser, postgresMajor)
  const proof = osUsers === null ? ["trust"] : ["peer", `map=${identMap}`]
  const method = phase === "open" ? passwords : "reject"
  return [
    header,
    line("local", "all", admin, ...proof),
    ...(phase === "open" ? [line("local", "replication", admin, ...proof)] : []),
    line("local", "all", "all", method),
    line("host", "all", "all", "all", method),
    ""
  ].join("\n")
}

/** The operating system's name may be a regular expression in every version, whatever its quotes. */
const regexInEveryVersion = 16

export const localIdent = ({ osUsers, superuser }: SuperuserLogin, postgresMajor: number): string =>
  [
    header,
    ...(osUsers ?? []).map((user) =>
      line(identMap, quoteHba(user, regexInEveryVersion), quoteHba(superuser, postgresMajor))
    ),
    ""
  ].join("\n")

/** The lines of a pg_hba.conf that let somebody in without a proof, each with single blanks. */
export const trustLines = (hba: string): ReadonlyArray<string> =>
  hba
    .split("\n")
    .map((text) => text.replace(/#.*/, "").trim().replace(/\s+/g, " "))
    .filter((text) => /^(local (\S+ ){2}|host\w* (\S+ ){3,4})trust( |$)/.test(text))
