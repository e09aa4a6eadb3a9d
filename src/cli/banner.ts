/**
 * What a person at a terminal is told once the compute runs: where Postgres and `/status` are, and how to stop.
 */
import { type ConnString, printPeer } from "../pgwire/ConnString.ts"

export interface BannerFacts {
  readonly at: ConnString
  readonly httpHost: string
  readonly httpPort: number
}

/** A listener on all addresses is reached on this one. */
const reachable = (host: string): string => host === "::" || host === "0.0.0.0" ? "127.0.0.1" : host

export const banner = ({ at, httpHost, httpPort }: BannerFacts): string => {
  const user = at.user === null ? "" : `${encodeURIComponent(at.user)}@`
  const database = encodeURIComponent(at.database ?? "postgres")
  return [
    "",
    "  Postgres   " + `psql 'postgresql://${user}${printPeer({ host: reachable(at.host), port: at.port })}/${database}'`,
    "  Status     " + `curl http://${printPeer({ host: reachable(httpHost), port: httpPort })}/status`,
    "  Stop       Ctrl-C",
    "",
    ""
  ].join("\n")
}
