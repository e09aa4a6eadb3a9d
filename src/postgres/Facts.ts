/**
 * What a plan of files depends on besides the spec. Shapes only.
 */
/** What a plan depends on besides the spec; gathered once, by whoever may look at the machine. */
export interface Facts {
  readonly dialect: "2024" | "head"
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
  /** Where Postgres shall listen; Neon's specs say it themselves, so it is written for local storage only. */
  readonly port: number
  /** From the command line, for local storage; `null` leaves it to the spec, and else to 127.0.0.1. */
  readonly listenAddresses: string | null
  /** Somebody keeps a certificate for this compute; `true` only then. */
  readonly certificate?: boolean
}
