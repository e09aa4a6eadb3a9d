/**
 * What `compute_ctl` was told to run, with every flag resolved. Shapes only; `readRun.ts` makes one.
 */
import type * as Redacted from "effect/Redacted"
import type { ConnString } from "../pgwire/ConnString.ts"
import type { LogFilter } from "../logging/filter.ts"

export type SpecSource =
  | { readonly _tag: "Inline"; readonly text: string }
  | { readonly _tag: "File"; readonly path: string }
  | { readonly _tag: "ConfigFile"; readonly path: string }
  | { readonly _tag: "ControlPlane"; readonly uri: string }

export type StorageChoice =
  | { readonly _tag: "Neon" }
  /** `directory` `null`: the caller decides. `process`: commits survive our end, but not the machine's. */
  | { readonly _tag: "Local"; readonly directory: string | null; readonly durability: "os" | "process" }

export interface RunSettings {
  /** Which generation's HTTP API is served. */
  readonly dialect: "2024" | "head"
  /** `null`, like `connstr`, only with local storage: the caller decides. */
  readonly pgdata: string | null
  readonly connstr: ConnString | null
  /** `null`: neither `-b` nor `POSTGRES_PATH` was given. */
  readonly postgres: string | null
  readonly spec: SpecSource
  readonly computeId: string | null
  /** Keep the last spec that worked, and start with it when the control plane is down. */
  readonly allowLastGoodSpec: boolean
  readonly externalHttpPort: number
  /** `null` in the 2024 dialect, which has one port for all. */
  readonly internalHttpPort: number | null
  readonly httpHost: string
  /** Certificate of the external port; `null`: plain HTTP. */
  readonly httpTls: { readonly certPath: string; readonly keyPath: string } | null
  readonly storage: StorageChoice
  /** `null`: not said. */
  readonly runAs: string | null
  readonly privilegedRole: string
  readonly logFormat: "text" | "json"
  readonly logFilter: LogFilter
  readonly banner: boolean
  /** False when the spec is on the command line (`-s`). */
  readonly liveConfigAllowed: boolean
  readonly dev: boolean
  /** Ends in exactly one `/`. */
  readonly remoteExtBaseUrl: string | null
  readonly vmMonitor: {
    readonly cgroup: string
    readonly filecacheConnstr: string
    readonly address: string
    /** What to do when Postgres can not run in its cgroup. */
    readonly cgroupPolicy: "refuse" | "deny-downscales" | "run-without"
  }
  readonly resizeSwapOnBind: boolean
  readonly diskQuotaMount: string | null
  readonly installedExtensionsIntervalSeconds: number
  readonly controlPlaneToken: Redacted.Redacted<string> | null
  readonly autoscaling: boolean
  /** For the log: what was given and will have no effect. */
  readonly warnings: ReadonlyArray<string>
}
