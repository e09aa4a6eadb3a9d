/**
 * Which ports the HTTP API gets. The two generations disagree about `--http-port`: in the older it is the port; in
 * the newer it is an old alias that has no effect outside one vendor's mode.
 */
import * as Result from "effect/Result"
import { defaults, type FlagName } from "./flags.ts"
import type { Given } from "./Given.ts"
import { type UsageError, usageError } from "./usage.ts"

export interface Ports {
  readonly externalHttpPort: number
  /** `null` in the 2024 dialect. */
  readonly internalHttpPort: number | null
}

export const readPorts = (
  given: Given,
  dialect: "2024" | "head",
  warnings: Array<string>
): Result.Result<Ports, UsageError> =>
  Result.gen(function*() {
    const single = yield* readPort(given, "http-port")
    const external = yield* readPort(given, "external-http-port")
    const internal = yield* readPort(given, "internal-http-port")
    const lakebase = yield* readLakebase(given)
    if (single !== null && (external !== null || internal !== null)) {
      const rival = external === null ? "--internal-http-port" : "--external-http-port"
      return yield* usageError("--http-port", `--http-port cannot be used together with ${rival}`)
    }
    if (lakebase) warnings.push("--lakebase-mode: only its meaning of --http-port is known here")
    if (dialect === "2024") {
      if (internal !== null) warnings.push("--internal-http-port has no effect: the 2024 API has one port")
      return { externalHttpPort: single ?? external ?? defaults.externalHttpPort, internalHttpPort: null }
    }
    const olderSpec = given.has("spec") || given.has("spec-path")
    if (single !== null && (lakebase || olderSpec)) {
      if (single === 65535) {
        return yield* usageError("--http-port", "--http-port is too high: the port after it is needed, too")
      }
      return { externalHttpPort: single, internalHttpPort: single === 0 ? 0 : single + 1 }
    }
    if (single !== null) warnings.push("--http-port has no effect; use --external-http-port and --internal-http-port")
    const ports = {
      externalHttpPort: external ?? defaults.externalHttpPort,
      internalHttpPort: internal ?? defaults.internalHttpPort
    }
    if (ports.externalHttpPort === ports.internalHttpPort && ports.externalHttpPort !== 0) {
      return yield* usageError("--internal-http-port", "--external-http-port and --internal-http-port must differ")
    }
    return ports
  })

export const readPort = (given: Given, name: FlagName): Result.Result<number | null, UsageError> => {
  const said = given.get(name)
  if (said === undefined) return Result.succeed(null)
  return /^[0-9]{1,5}$/.test(said.value) && Number(said.value) <= 65535
    ? Result.succeed(Number(said.value))
    : usageError(said.as, `${said.as} expects a port from 0 to 65535`)
}

const readLakebase = (given: Given): Result.Result<boolean, UsageError> => {
  const said = given.get("lakebase-mode")
  if (said === undefined || said.value === "false") return Result.succeed(false)
  return said.value === "true" ? Result.succeed(true) : usageError(said.as, `${said.as} expects true or false`)
}
