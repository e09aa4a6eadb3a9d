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
  const field = (key: string): string | null => fields.get(key) || null
  const portText = field("port") ?? String(defaultPort)
  const port = Number(portText)
  if (!/^[0-9]+$/.test(portText) || port < 1 || port > 65535) return Result.fail("its port is not between 1 and 65535")
  const host = field("host") ?? field("hostaddr") ?? "localhost"
  if (!host.startsWith("/") && host.includes(",")) return Result.fail("it names more than one host")
  const password = field("password")
  return Result.succeed({
    host,
    port,
    user: field("user"),
    password: password === null ? null : Redacted.make(password, { label: "password" }),
    database: field("dbname"),
    options: field("options"),
    applicationName: field("application_name")
  })
}

/**
 * User and password, host, port, database, parameters: libpq's URL, which is not quite the web's (an empty host
 * after a user is fine, `+` is a plus, there are no fragments). The last `@` ends the password.
 */
const url = /^postgres(?:ql)?:\/\/(?:([^/?#]*)@)?(\[[^\]@/?#]*\]|[^:/?#@]*)(?::([0-9]*))?(?:\/([^?#]*))?(?:\?([^#]*))?$/

const parseUrl = (text: string, defaultPort: number): Result.Result<ConnString, string> => {
  const match = url.exec(text)
  if (match === null) return Result.fail("it is not a postgresql:// URL")
  const [, userinfo = "", host = "", port = "", database = "", query = ""] = match
  const colon = userinfo.indexOf(":")
  const parameters = query === "" ? [] : query.split("&")
  if (parameters.some((one) => !/^[^=]+=/.test(one))) return Result.fail("it has a parameter without a value")
  const given: ReadonlyArray<readonly [string, string]> = [
    ["user", colon === -1 ? userinfo : userinfo.slice(0, colon)],
    ["password", colon === -1 ? "" : userinfo.slice(colon + 1)],
    ["host", host.replace(/^\[(.*)\]$/, "$1")],
    ["port", port],
    ["dbname", database],
    ...parameters.map((one) => [one.slice(0, one.indexOf("=")), one.slice(one.indexOf("=") + 1)] as const)
  ]
  const decoded = Result.try(() =>
    given
      .filter(([, value]) => value !== "")
      .map(([key, value]) => [decodeURIComponent(key), decodeURIComponent(value)] as const)
  )
  if (Result.isFailure(decoded)) return Result.fail("it has a malformed percent escape")
  if (decoded.success.some(([, value]) => value.includes("\0"))) return Result.fail("it holds a NUL byte")
  return make(new Map(decoded.success), defaultPort)
}

/** `key = value` pairs; values may be single-quoted with `\` escapes (libpq's conninfo grammar). */
const parsePairs = (text: string, defaultPort: number): Result.Result<ConnString, string> => {
  const fields = new Map<string, string>()
  const trimmed = text.trim()
  const pair = /\s*([A-Za-z_]+)\s*=\s*(?:'((?:[^'\\]|\\[^])*)'|(?!')((?:[^\s\\]|\\[^])*))(?=\s|$)/y
  while (pair.lastIndex < trimmed.length) {
    const match = pair.exec(trimmed)
    if (match === null) return Result.fail("it is neither a postgresql:// URL nor key=value text")
    fields.set(match[1] ?? "", (match[2] ?? match[3] ?? "").replace(/\\([^])/g, "$1"))
  }
  return fields.size === 0 ? Result.fail("it is empty") : make(fields, defaultPort)
}

/** Longer than anything real; keeps the patterns' work small on text from outside. */
const maxLength = 8192

/** Parses either spelling. The error text never repeats the input, which may hold a password. */
export const parseConnString = (text: string, defaultPort = 5432): Result.Result<ConnString, string> => {
  if (text.length > maxLength) return Result.fail(`it is longer than ${maxLength} characters`)
  return isConnUrl(text) ? parseUrl(text, defaultPort) : parsePairs(text, defaultPort)
}

/** Does it claim to be a URL? */
export const isConnUrl = (text: string): boolean => /^postgres(ql)?:\/\//.test(text)
