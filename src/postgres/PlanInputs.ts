/**
 * What the files of PGDATA depend on besides the spec; gathered once, by whoever may look at the machine. Shapes only.
 */
import type { ApiVersion } from "../spec/ParsedSpec.ts"

export interface PlanInputs {
  readonly apiVersion: ApiVersion
  readonly postgresMajor: number
  /** As `process.platform` says it. */
  readonly platform: string
  /** Content of `/proc/sys/vm/overcommit_memory`; `null` where there is none. */
  readonly overcommitMemory: string | null
  /** Where Neon's extension asks us for files. */
  readonly extensionServerPort: number
  readonly privilegedRole: string
  readonly storage:
    | { readonly _tag: "Neon" }
    | {
        readonly _tag: "Local"
        /** Survives a crash of the machine, or only of the processes on it. */
        readonly durability: "os" | "process"
        readonly superuser: string
        /** Absolute. */
        readonly pgdata: string
      }
  /** The port Postgres listens on; Neon's specs set it themselves, so it is written for local storage only. */
  readonly port: number
  /** There is a certificate for this compute, which is watched and renewed. */
  readonly certificate?: boolean
}
