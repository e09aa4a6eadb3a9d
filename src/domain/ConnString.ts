/**
 * Where a Postgres-speaking peer is: a connection URL or libpq `key=value` text, parsed. Opens nothing.
 */
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"

export interface ConnString {
  /** A name, an address, or the folder of a unix socket (starts with `/`). */
  readonly host: string
  readonly port: number
  readonly user: string | null
  readonly password: Redacted.Redacted<string> | null
  readonly database: string | null
  /** libpq `options`, such as `-c search_path=`. */
  readonly options: string | null
  readonly applicationName: string | null
}

const make = (fields: ReadonlyMap<string, string>, defaultPort: number): Result.Result<ConnString, string> => {
  const portText = fields.get("port") ?? String(defaultPort)
  const port = Number(portText)
  if (!/^\d+$/.test(portText) || port < 1 || port > 65535) return Result.fail(`port "${portText}" is not between 1 and 65535`)
  const password = fields.get("password")
  return Result.succeed({
    host: fields.get("host") ?? fields.get("hostaddr") ?? "localhost",
    port,
    user: fields.get("user") ?? null,
    password: password === undefined ? null : Redacted.make(password),
    database: fields.get("dbname") ?? null,
    options: fields.get("options") ?? null,
    applicationName: fields.get("application_name") ?? null
  })
}

const parseUrl = (text: string, defaultPort: number): Result.Result<ConnString, string> => {
  const url = URL.parse(text)
  if (url === null) return Result.fail("it is not a URL")
  const fields = new Map<string, string>()
  const decoded = Result.try(() => {
    for (const [key, value] of url.searchParams) fields.set(key, value)
    if (url.hostname !== "") fields.set("host", decodeURIComponent(url.hostname).replace(/^\[(.*)\]$/, "$1"))
    if (url.port !== "") fields.set("port", url.port)
    if (url.username !== "") fields.set("user", decodeURIComponent(url.username))
    if (url.password !== "") fields.set("password", decodeURIComponent(url.password))
    const database = decodeURIComponent(url.pathname.slice(1))
    if (database !== "") fields.set("dbname", database)
  })
  return Result.isFailure(decoded) ? Result.fail("it has a malformed percent escape") : make(fields, defaultPort)
}

/** `key = value` pairs; values may be single-quoted with `\` escapes (libpq's conninfo grammar). */
const parsePairs = (text: string, defaultPort: number): Result.Result<ConnString, string> => {
  const fields = new Map<string, string>()
  const pair = /\s*([A-Za-z_]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)/y
  while (pair.lastIndex < text.trimEnd().length) {
    const match = pair.exec(text)
    if (match === null) return Result.fail("it is neither a postgresql:// URL nor key=value text")
    fields.set(match[1] ?? "", (match[2] ?? match[3] ?? "").replace(/\\(.)/g, "$1"))
  }
  return fields.size === 0 ? Result.fail("it is empty") : make(fields, defaultPort)
}

/** Parses either spelling. The error text never repeats the input, which may hold a password. */
export const parseConnString = (text: string, defaultPort = 5432): Result.Result<ConnString, string> =>
  /^postgres(ql)?:\/\//.test(text) ? parseUrl(text, defaultPort) : parsePairs(text, defaultPort)

/** For people: who and where, never the password. */
export const printPeer = (at: Pick<ConnString, "host" | "port">): string =>
  at.host.includes(":") ? `[${at.host}]:${at.port}` : `${at.host}:${at.port}`
