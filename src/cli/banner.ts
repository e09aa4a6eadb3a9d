/**
 * For a person at a terminal, once the compute runs: where Postgres and `/status` are, and how to stop. Pure.
 */
import * as Redacted from "effect/Redacted"
import { printHostPort } from "../pgwire/address.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import type { Login } from "./generatedPassword.ts"

export interface BannerFacts {
  readonly at: ConnString
  /** The folder of the socket on which the superuser logs in; `null`: it does so where everybody does. */
  readonly sockets: string | null
  /** A role with a password that we made. */
  readonly login: Login | null
  readonly httpHost: string
  readonly httpPort: number
  /** A person reads it, and no file: the password may be shown. Otherwise the URL names the file that has it. */
  readonly terminal: boolean
}

/** A listener on all addresses is reached on this one. */
const reachable = (host: string): string => (host === "::" || host === "0.0.0.0" ? "127.0.0.1" : host)

/** A slash means nothing in a parameter, and paths can be read with theirs. */
const parameter = (name: string, value: string): string =>
  `${name}=${encodeURIComponent(value).replaceAll("%2F", "/").replaceAll("'", "%27")}`

const encode = (text: string): string => encodeURIComponent(text).replaceAll("'", "%27")

interface Target {
  readonly host: string
  readonly port: number
  readonly user: string | null
  readonly password?: Redacted.Redacted<string>
  readonly database: string
  readonly parameters?: ReadonlyArray<string>
}

/** Of a socket all is in parameters: URLs, as the web knows them, have no user without a host. */
const overSocket = ({ database, host, parameters = [], password, port, user }: Target): string => {
  const all = [
    parameter("host", host),
    `port=${port}`,
    ...(user === null ? [] : [parameter("user", user)]),
    ...(password === undefined ? [] : [parameter("password", Redacted.value(password))]),
    ...parameters
  ]
  return `postgresql:///${encode(database)}?${all.join("&")}`
}

const overTcp = ({ database, host, parameters = [], password, port, user }: Target): string => {
  const secret = password === undefined ? "" : `:${encode(Redacted.value(password))}`
  const who = user === null ? "" : `${encode(user)}${secret}@`
  const more = parameters.length === 0 ? "" : `?${parameters.join("&")}`
  return `postgresql://${who}${printHostPort({ host: reachable(host), port })}/${encode(database)}${more}`
}

const psql = (target: Target): string => `psql '${target.host.startsWith("/") ? overSocket(target) : overTcp(target)}'`

export const banner = ({ at, httpHost, httpPort, login, sockets, terminal }: BannerFacts): string => {
  const { database, host, port, user } = at
  const superuser = psql({ host: sockets ?? host, port, user, database: database ?? "postgres" })
  const asUser = (one: Login): Target => ({
    host,
    port,
    user: one.role,
    database: one.database,
    ...(terminal ? { password: one.password } : { parameters: [parameter("passfile", one.file)] })
  })
  return [
    "",
    ...(login === null
      ? [`  Postgres   ${superuser}`]
      : [`  Postgres   ${psql(asUser(login))}`, `  Superuser  ${superuser}`]),
    "  Status     " + `curl http://${printHostPort({ host: reachable(httpHost), port: httpPort })}/status`,
    "  Stop       Ctrl-C",
    "",
    ""
  ].join("\n")
}
