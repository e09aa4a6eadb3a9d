/**
 * The processes of a Postgres that the kit strikes, one by one.
 */
import { commandLineOf, parentOf } from "../../src/platform/processes.ts"
import { processesIn } from "../support/processes.ts"

/** The first process of a Postgres: the one whose parent is none of them. */
export const postmasterIn = (pgdata: string): ReadonlyArray<number> => {
  const all = processesIn(pgdata)
  return all.filter((pid) => !all.includes(parentOf(pid) ?? 0)).slice(0, 1)
}

/** Those that call themselves `postgres: NAME`; client backends begin with their user's name. */
export const postgresNamed = (pgdata: string, name: string): ReadonlyArray<number> =>
  processesIn(pgdata).filter((pid) => commandLineOf(pid)?.startsWith(`postgres: ${name}`) === true)
