/**
 * Once the compute runs: where Postgres and `/status` are, and how to stop; for a person at a terminal, or as a line of
 * the log. Pure.
 */
import * as Redacted from "effect/Redacted"
import { printHostPort, reachable } from "../pgwire/address.ts"
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
}

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

const status = ({ httpHost, httpPort }: BannerFacts): string =>
  `http://${printHostPort({ host: reachable(httpHost), port: httpPort })}/status`

const superuser = ({ at: { database, host, port, user }, sockets }: BannerFacts): string =>
  psql({ host: sockets ?? host, port, user, database: database ?? "postgres" })

/** With the password, or with the file that has it. */
const asUser = ({ at: { host, port } }: BannerFacts, login: Login, secret: boolean): string =>
  psql({
    host,
    port,
    user: login.role,
    database: login.database,
    ...(secret ? { password: login.password } : { parameters: [parameter("passfile", login.file)] })
  })

/** For a terminal alone: the password is shown. */
export const banner = (facts: BannerFacts): string =>
  [
    "",
    ...(facts.login === null
      ? [`  Postgres   ${superuser(facts)}`]
      : [`  Postgres   ${asUser(facts, facts.login, true)}`, `  Superuser  ${superuser(facts)}`]),
    `  Status     curl ${status(facts)}`,
    "  Stop       Ctrl-C",
    "",
    ""
  ].join("\n")

/** The same for the log, which others read, too. */
export const readyLine = (facts: BannerFacts): string => {
  const user = facts.login === null ? "" : `${facts.login.role} connects with ${asUser(facts, facts.login, false)}, `
  const connects = facts.login === null ? "connects " : ""
  const who = `${user}the superuser ${connects}with ${superuser(facts)}`
  return `Postgres is ready: ${who}; the status is at ${status(facts)}`
}
