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

/** An address of IPv6 gets its brackets back. */
export const printHostPort = ({ host, port }: HostPort): string =>
  host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`
