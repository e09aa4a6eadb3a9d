/**
 * Where our own superuser sessions reach Postgres, which need not be where others do.
 *
 * Neon's Postgres: where `-C` says. Stock Postgres: over the socket in a folder of ours, because over TCP its superuser
 * is asked for a password (`postgres/hba.ts`).
 */
import type { ConnString } from "../pgwire/ConnString.ts"
import { socketFolder } from "../postgres/socketFolder.ts"

export interface Reached {
  readonly storage: { readonly _tag: string; readonly directory?: string }
  readonly pgdata: string
  /** What `-C` says. */
  readonly at: ConnString
}

/** Of stock Postgres; `null`: it is Neon's, which has none of ours. */
export const socketsOf = ({ at, pgdata, storage }: Reached): string | null =>
  storage._tag === "Neon" ? null : socketFolder({ ...storage, pgdata, port: at.port })

/** Nobody may make stock Postgres wait for standbys of a spec's own, which come only once there is a primary. */
export const sessionAddress = (reached: Reached): ConnString => {
  const { at } = reached
  const host = socketsOf(reached)
  return host === null ? at : { ...at, host, options: `-c synchronous_commit=local ${at.options ?? ""}`.trim() }
}
