/**
 * Parsed specs and facts for tests that do not care about most of a spec.
 */
import type { TenantId, TimelineId } from "../../src/spec/identifiers.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"

export const emptySpec: ParsedSpec = {
  operationId: null,
  mode: { _tag: "Primary" },
  tenant: "0".repeat(32) as TenantId,
  timeline: "1".repeat(32) as TimelineId,
  ancestor: null,
  neon: null,
  projectId: null,
  branchId: null,
  endpointId: null,
  features: new Set(),
  postgresqlConf: null,
  settings: null,
  roles: [],
  databases: [],
  deltas: [],
  jwksRoles: new Set(),
  skipCatalogUpdates: false,
  reconfigureConcurrency: 1,
  dropSubscriptions: false,
  auditLevel: "Disabled",
  logsExportHost: null,
  pgbouncerSettings: null,
  localProxy: null,
  remoteExtensions: null,
  swapSizeBytes: null,
  diskQuotaBytes: null,
  endpointStorage: { address: null, token: null },
  autoprewarm: false,
  offloadLfcIntervalSeconds: null,
  suspendTimeoutSeconds: 0,
  disableLfcResizing: false
}

export { simulatedInputs as localFacts } from "../../src/testing/Simulation.ts"
