/**
 * `host:port` text, as specs, flags and variables have it. Pure; looks nothing up.
 */
import * as Result from "effect/Result"

export interface HostPort {
  /** A name or an address; one of IPv6 without its brackets. */
  readonly host: string
  readonly port: number
}

const hostPort = /^(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\s:,[\]/?#@]+)):([0-9]{1,5})$/

/**
 * `pageserver:6400`, `10.0.0.1:6400`, `[::1]:6400`. `lowestPort` is 0 where one listens: then the system chooses.
 * The error completes a sentence that begins with what the text is for.
 */
export const parseHostPort = (text: string, lowestPort: 0 | 1 = 1): Result.Result<HostPort, string> => {
  const [, bracketed, plain, digits] = hostPort.exec(text) ?? []
  const host = bracketed ?? plain
  const port = Number(digits)
  if (host === undefined) return Result.fail("it is not host:port")
  return port < lowestPort || port > 65_535
    ? Result.fail(`its port is not between ${lowestPort} and 65535`)
    : Result.succeed({ host, port })
}

const label = "[A-Za-z0-9_-]{0,62}"
const address6 = "[0-9A-Fa-f.]{0,45}:[0-9A-Fa-f:.]{0,45}"
const name = `[A-Za-z0-9]${label}(?:\\.[A-Za-z0-9_]${label})*\\.?`
const port = "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"

/** A name of DNS or an address, and a port from 1 to 65535: what may be quoted in the file of another program. */
export const serverAddress = new RegExp(`^\\s*(?:\\[(${address6})\\]|(${name})):(${port})\\s*$`)

/** Its longest: 253 characters of a name, the port, and some blanks around them. */
export const longestServerAddress = 300

export const expectedServerAddress = "expected host:port, with an IPv6 address in brackets"

export const parseServerAddress = (text: string): Result.Result<HostPort, string> => {
  const [, bracketed, plain, digits] = text.length > longestServerAddress ? [] : (serverAddress.exec(text) ?? [])
  const host = bracketed ?? plain
  return host === undefined ? Result.fail(expectedServerAddress) : Result.succeed({ host, port: Number(digits) })
}

/** An address of IPv6 gets its brackets back. */
export const printHostPort = ({ host, port }: HostPort): string =>
  host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`

/** A listener on all addresses is reached on this one. */
export const reachable = (host: string): string => (host === "::" || host === "0.0.0.0" ? "127.0.0.1" : host)
