/**
 * Scripts of fakes, and what is told of a fake, as types that need no library: `scriptSchema.ts` reads them.
 *
 * Every list of faults is used from its beginning: each entry counts for `times` attempts that it is meant for (once,
 * unless it says otherwise), and what comes after the last one goes well. Times are `200ms`, `2s`, `1.5m`.
 */

type Times = number | "always"

/** How a request is answered instead of as it should be. With a delay alone it is answered well, and late. */
export interface RequestFault {
  /** `/status`, or `POST /configure`; without it every request. */
  readonly at?: string
  readonly delay?: string
  readonly status?: number
  /** With `status`: text as it is, anything else as JSON. */
  readonly body?: unknown
  /** No answer; the connection is reset; 200 with a page that is no JSON. */
  readonly fault?: "hang" | "reset" | "garbage"
  readonly times?: Times
}

/** How long a step of a compute's life takes, and how it fails. */
export interface ComputeStep {
  /** `postgres`: Postgres leaves by itself, so long after it ran. */
  readonly at: "start" | "configure" | "terminate" | "postgres"
  readonly delay?: string
  /** It fails with this; at `terminate` the last sync does. */
  readonly error?: string
  /** It is never done. */
  readonly hang?: boolean
  /** At `postgres`. Default: 1. */
  readonly exitCode?: number
  readonly times?: Times
}

export interface ComputeScript {
  readonly $schema?: string
  readonly kind: "compute"
  /** Default: `head`. */
  readonly apiVersion?: "2024" | "head"
  /** Whom tokens are for. Default: `compute-1`. */
  readonly computeId?: string
  /** By whose rules specs are read. Default: `local`, which needs no addresses. */
  readonly storage?: "neon" | "local"
  /** There from the beginning; without it the compute waits for `/configure`. */
  readonly spec?: unknown
  /** Ask for tokens, by a key of its own. */
  readonly tokens?: boolean
  /** Ask for tokens, by these keys. */
  readonly jwks?: { readonly keys: ReadonlyArray<unknown> }
  /** False: `/configure` is refused with 412, as when `-S` gave the spec. */
  readonly liveConfig?: boolean
  /** How long HTTP answers after the end. Default: as long as a real one's. */
  readonly exitDelay?: string
  /** What `/terminate` answers. */
  readonly flushLsn?: string
  /** Names by which it may be asked without tokens. */
  readonly allowedHosts?: ReadonlyArray<string>
  readonly steps?: ReadonlyArray<ComputeStep>
  readonly requests?: ReadonlyArray<RequestFault>
}

/** One of `spec`, `empty` and `answer`. */
export interface SpecAnswer {
  /** In an answer that says `attached`. */
  readonly spec?: unknown
  /** It says that there is no spec yet. */
  readonly empty?: true
  /** The whole answer, as it is. */
  readonly answer?: unknown
  readonly times?: Times
}

export interface ControlPlaneScript {
  readonly $schema?: string
  readonly kind: "control-plane"
  /** `2024`: an answer has no `compute_ctl_config`. Default: `head`. */
  readonly apiVersion?: "2024" | "head"
  /** Asked for as the bearer's. */
  readonly token?: string
  /** The keys in each answer. */
  readonly jwks?: { readonly keys: ReadonlyArray<unknown> }
  /** By compute id: its answers, one after the other; the last one stays. */
  readonly computes: { readonly [computeId: string]: readonly [SpecAnswer, ...Array<SpecAnswer>] }
  readonly requests?: ReadonlyArray<RequestFault>
}

/** As `PageserverFault`; those that are libpq's alone are refused with `protocol: "grpc"`. */
export interface PageserverStep {
  readonly fault?:
    | "starting up"
    | "hang"
    | "wrong token"
    | "another tenant's token"
    | "unknown timeline"
    | "collected"
    | "ahead of the tip"
    | "cut"
    | "stall"
    | "reset"
    | "error mid-way"
    | "error after the end"
    | "corrupt gzip"
    | "truncated tar"
    | "slow drip"
  /** Where in the archive, 0 to 1. Default: 0.5. */
  readonly at?: number
  readonly delay?: string
  readonly times?: Times
}

/** One of `archive`, `pgdata` and `files`. */
export interface PageserverScript {
  readonly $schema?: string
  readonly kind: "pageserver"
  /** Default: `libpq`. */
  readonly protocol?: "libpq" | "grpc"
  readonly tenant: string
  readonly timeline: string
  /** With `grpc`: shard number and count, two hex digits each. */
  readonly shard?: string
  /** Asked for as the password. */
  readonly token?: string
  /** What a basebackup is: a gzipped tar, by its path from the script. */
  readonly archive?: string
  /** The same, made of the data directory of a Postgres that was shut down. */
  readonly pgdata?: string
  /** The same, made of these: path and content. */
  readonly files?: { readonly [path: string]: string }
  /** How long a lease lasts. Default: an hour. */
  readonly lease?: string
  readonly attempts?: ReadonlyArray<PageserverStep>
}

export interface SafekeeperStep {
  readonly fault?: "lag" | "unknown timeline" | "wrong token" | "another tenant's token" | "hang" | "reset"
  readonly delay?: string
  readonly times?: Times
}

export interface SafekeeperScript {
  readonly $schema?: string
  readonly kind: "safekeeper"
  readonly tenant: string
  readonly timeline: string
  /** Asked for as the password. */
  readonly token?: string
  readonly flush: string
  /** Default: as `flush`. */
  readonly commit?: string
  readonly attempts?: ReadonlyArray<SafekeeperStep>
}

export type FakeScript = ComputeScript | ControlPlaneScript | PageserverScript | SafekeeperScript
export type FakeKind = FakeScript["kind"]

/** Any list of a script that says what goes wrong; each kind has its own. */
export interface FakeFaults {
  readonly steps?: ReadonlyArray<ComputeStep>
  readonly requests?: ReadonlyArray<RequestFault>
  readonly attempts?: ReadonlyArray<PageserverStep | SafekeeperStep>
}

/** How to reach a fake: what `compute_ctl fake` prints. */
export interface FakeAddress {
  readonly kind: FakeKind
  /** For `-p`, for a spec's pageserver, or (`host:port`) for its safekeepers; of a compute its HTTP API. */
  readonly url: string
  /** Where `/_seen`, `/_fault` and `/_reset` are. */
  readonly control: string
  readonly computeId?: string
  /** What it asks for; of a compute a token that is made for it. */
  readonly token?: string
  readonly adminToken?: string
  readonly jwks?: { readonly keys: ReadonlyArray<unknown> }
  readonly tenant?: string
  readonly timeline?: string
}

/** One request by HTTP, as it came and as it was answered. */
export interface SeenRequest {
  /** ISO 8601, UTC. */
  readonly at: string
  readonly method: string
  readonly path: string
  /** Which token came with it, by name; `unknown`: none of ours; `null`: none. */
  readonly token: string | null
  /** What was done instead of answering it well. */
  readonly fault: string | null
  /** `null`: it has not been answered. */
  readonly status: number | null
  /** JSON without its secrets; `null`: there was none, or it was no JSON, or too long to keep. */
  readonly body: unknown
}

/** One connection by libpq, or one call by gRPC. Tokens are named as in `SeenRequest`. */
interface SeenAttempt {
  readonly user?: string
  readonly applicationName?: string
  readonly options?: string
  readonly password?: string | null
  readonly command?: string | null
  readonly method?: string
  readonly metadata?: Readonly<Record<string, string>>
  readonly request?: Readonly<Record<string, unknown>>
}

/** What a fake has been asked, oldest first and at most the last thousand. */
export interface FakeSeen {
  readonly kind: FakeKind
  /** Of a compute: where it is in its life. */
  readonly status?: string
  readonly seen: ReadonlyArray<SeenRequest | SeenAttempt>
  /** How many came before those, and were forgotten. */
  readonly dropped: number
}

export interface FakeOptions {
  /** Default: 127.0.0.1. */
  readonly host?: string
  /** Where the fake's own protocol is spoken. Default: a free one. */
  readonly port?: number
  /** Where paths in the script are meant from. Default: the working directory. */
  readonly folder?: string
  /** Each line that a fake compute logs. Default: nowhere. */
  readonly onLogLine?: (line: string) => void
}
