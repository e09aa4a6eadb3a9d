/**
 * What pgbouncer shall be told, and where it is found (reference section 11.1). Pure.
 */
import type * as Redacted from "effect/Redacted"
import type { Tls } from "../spec/ComputeConfig.ts"
import { fitsIni } from "./iniText.ts"

/** A pgbouncer of this machine. */
export interface PgbouncerPlace {
  /** The admin console; `host` starts with `/`: the folder of its socket. */
  readonly admin: {
    readonly host: string
    readonly port: number
    readonly user: string
    readonly password: Redacted.Redacted<string> | null
  }
  readonly ini: string
  readonly pidFile: string
}

/** Inside Neon's virtual machines it is elsewhere, and trusts its own system user. */
export const pgbouncerPlace = (autoscaling: boolean, password: Redacted.Redacted<string> | null): PgbouncerPlace => ({
  admin: autoscaling
    ? { host: "/tmp", port: 6432, user: "pgbouncer", password: null }
    : { host: "localhost", port: 6432, user: "postgres", password },
  ini: autoscaling ? "/etc/pgbouncer.ini" : "/var/db/postgres/pgbouncer/pgbouncer.ini",
  pidFile: "/tmp/pgbouncer.pid"
})

export const pgbouncerSection = "pgbouncer"

/** The spec's settings, and the certificate when there is one. */
export const pgbouncerEntries = (settings: ReadonlyMap<string, string>, tls: Tls | null): ReadonlyMap<string, string> =>
  tls === null ? settings : new Map([
    ...settings,
    ["client_tls_cert_file", tls.certPath],
    ["client_tls_key_file", tls.keyPath],
    ["client_tls_sslmode", "allow"]
  ])

/** Names of the settings that no ini file can hold; a value may be secret, so it is not repeated. */
export const unfitEntries = (entries: ReadonlyMap<string, string>): ReadonlyArray<string> =>
  [...entries].filter(([key, value]) => !fitsIni(key, value)).map(([key]) => JSON.stringify(key))
