/**
 * What the files of PGDATA depend on besides the spec; gathered once, by whoever may look at the machine. Shapes only.
 */
import type { ApiVersion } from "../spec/ParsedSpec.ts"

/** What we decide about a Postgres that is not Neon's. */
export interface StockPostgres {
  readonly superuser: string
  /** Absolute. */
  readonly pgdata: string
  /** The folder of our own socket, which is ours alone. Absolute. */
  readonly sockets: string
  /** Users of the operating system who are the superuser; `null`: it has no name for one of them. */
  readonly osUsers: ReadonlyArray<string> | null
}

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
    | ({
        readonly _tag: "Local"
        /** Survives a crash of the machine, or only of the processes on it. */
        readonly durability: "os" | "process"
      } & StockPostgres)
    /** The data files stay in PGDATA, which lies on a volume. */
    | ({ readonly _tag: "Volume" } & StockPostgres)
  /** The port Postgres listens on; Neon's specs set it themselves, so it is written for stock Postgres only. */
  readonly port: number
  /** There is a certificate for this compute, which is watched and renewed. */
  readonly certificate?: boolean
}
