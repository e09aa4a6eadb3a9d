/**
 * Specs and inputs that between them reach every line of postgresql.conf.
 */
import * as Redacted from "effect/Redacted"
import type { PlanInputs, StockPostgres } from "../../src/postgres/PlanInputs.ts"
import type { TenantId, TimelineId } from "../../src/spec/identifiers.ts"
import type { AuditLevel, GenericOption, NeonStorage, ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { emptySpec, localFacts } from "../support/specs.ts"

export const option = (name: string, value: string | null, quoted = false): GenericOption => ({ name, value, quoted })

/** Settings as a cloud sends them: quoted and bare, one with a quote in it, and Neon's own. */
const cloudSettings: ReadonlyArray<GenericOption> = [
  option("fsync", "off"),
  option("wal_level", "logical"),
  option("max_connections", "100"),
  option("listen_addresses", "0.0.0.0", true),
  option("port", "55433"),
  option("shared_preload_libraries", "neon,pg_stat_statements", true),
  option("synchronous_standby_names", "walproposer", true),
  option("max_replication_write_lag", "500MB"),
  option("restart_after_crash", "off"),
  option("cluster_name", "it's a \\ name", true),
  option("neon.safekeepers", "a:5454,b:5454", true)
]

const neonStorage: NeonStorage = {
  pageservers: {
    shardCount: 2,
    stripeSize: 32768,
    shards: [
      { number: 0, pageservers: [{ libpqUrl: "postgresql://ps0:6400", grpcUrl: null }] },
      { number: 1, pageservers: [{ libpqUrl: "postgresql://ps1:6400", grpcUrl: null }] }
    ],
    preferProtocol: "libpq"
  },
  safekeepers: ["a:5454", "b:5454", "c:5454"],
  safekeepersGeneration: 3,
  token: Redacted.make("a token that must never be in a file"),
  fromSettings: new Set()
}

export const cloudSpec: ParsedSpec = {
  ...emptySpec,
  tenant: "de200bd42b49cc1814412c7e592dd6e9" as TenantId,
  timeline: "f1e2d3c4b5a697887766554433221100" as TimelineId,
  neon: neonStorage,
  projectId: "wispy-bird-1",
  branchId: "br-1",
  endpointId: "ep-1",
  settings: cloudSettings
}

/** Everything about storage is in the settings, as in a docker-compose spec. */
const composeSpec: ParsedSpec = {
  ...emptySpec,
  neon: { ...neonStorage, fromSettings: new Set(["pageservers", "safekeepers", "tenant", "timeline"] as const) },
  settings: [
    option("neon.tenant_id", "0".repeat(32), true),
    option("neon.timeline_id", "1".repeat(32), true),
    option("neon.pageserver_connstring", "host=pageserver port=6400", true),
    option("neon.safekeepers", "safekeeper1:5454", true)
  ]
}

export const neonFacts: PlanInputs = { ...localFacts, storage: { _tag: "Neon" } }
const olderFacts: PlanInputs = { ...neonFacts, apiVersion: "2024", extensionServerPort: 3080 }
export const stock: StockPostgres = {
  superuser: "cloud_admin",
  pgdata: "/data/pgdata",
  sockets: "/data/pgdata",
  osUsers: ["root", "postgres"]
}
export const osFacts: PlanInputs = { ...localFacts, storage: { _tag: "Local", durability: "os", ...stock } }
export const processFacts: PlanInputs = { ...localFacts, storage: { _tag: "Local", durability: "process", ...stock } }

const volumeFacts: PlanInputs = { ...localFacts, storage: { _tag: "Volume", ...stock } }

const audited = (auditLevel: AuditLevel): ParsedSpec => ({ ...cloudSpec, auditLevel })

/** Name of the golden folder, the spec, the inputs. */
export const cases: ReadonlyArray<readonly [string, ParsedSpec, PlanInputs]> = [
  ["neon-primary", cloudSpec, neonFacts],
  ["neon-primary-2024", cloudSpec, olderFacts],
  ["neon-static", { ...cloudSpec, mode: { _tag: "Static", lsn: 0x28f10d8n } }, neonFacts],
  ["neon-replica", { ...cloudSpec, mode: { _tag: "Replica" } }, neonFacts],
  ["neon-compose", composeSpec, neonFacts],
  ["neon-no-settings-2024", { ...cloudSpec, settings: null }, { ...olderFacts, overcommitMemory: "2\n" }],
  [
    "neon-head-text",
    { ...cloudSpec, postgresqlConf: "# from the spec\nwork_mem = 8MB", logsExportHost: { host: "logs", port: 514 } },
    neonFacts
  ],
  ["neon-drop-subscriptions", { ...cloudSpec, dropSubscriptions: true }, neonFacts],
  [
    "neon-grpc-only",
    {
      ...cloudSpec,
      neon: {
        ...neonStorage,
        pageservers: {
          ...neonStorage.pageservers,
          shards: [{ number: 0, pageservers: [{ libpqUrl: null, grpcUrl: "http://ps0:50051" }] }]
        }
      }
    },
    neonFacts
  ],
  ["neon-darwin", cloudSpec, { ...neonFacts, platform: "darwin" }],
  ["neon-audit-log", audited("Log"), neonFacts],
  ["neon-audit-base", { ...audited("Base"), settings: null }, neonFacts],
  ["neon-audit-hipaa", audited("Hipaa"), neonFacts],
  ["neon-audit-extended", audited("Extended"), neonFacts],
  ["neon-audit-full", audited("Full"), neonFacts],
  ["local-os", emptySpec, osFacts],
  ["local-process", emptySpec, processFacts],
  ["local-cloud-spec", cloudSpec, osFacts],
  [
    "local-head-text",
    {
      ...emptySpec,
      postgresqlConf:
        "wal_level = logical # wanted\nmax_replication_flush_lag = 10GB\ninclude = 'more.conf'\nfsync = off"
    },
    osFacts
  ],
  ["local-audit-base", { ...audited("Base"), settings: null }, osFacts],
  ["local-15-darwin", emptySpec, { ...osFacts, postgresMajor: 15, platform: "darwin" }],
  ["volume", emptySpec, { ...volumeFacts, overcommitMemory: "2\n" }],
  [
    "volume-head-text",
    { ...emptySpec, postgresqlConf: "wal_level = logical\nfsync = off\nwal_keep_size = 1GB" },
    volumeFacts
  ]
]
