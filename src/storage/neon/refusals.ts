/**
 * What a pageserver says no to for good, told from what passes by itself. It has one SQLSTATE for everything, so that
 * its words must be read; over gRPC it has a status (docs/reference/compute_ctl.md#pageserver-refusals). Pure.
 */
import { type Failure, PageserverRefused, type WireFailed } from "../../errors/Failure.ts"

type Reason = PageserverRefused["reason"]

const collected = /earlier than latest GC cutoff/

/** At log-in for a token that it cannot read, at the query for one of another tenant. Class 28 is Postgres's own. */
const overLibpq = ({ detail, sqlState }: WireFailed): Reason | null => {
  if (detail === "JWT authentication error" || sqlState?.startsWith("28") === true) return "token"
  if (detail === "not found" || detail.startsWith("Not found: ")) return "unknown"
  return collected.test(detail) ? "collected" : null
}

const overGrpc: Readonly<Record<string, Reason>> = {
  UNAUTHENTICATED: "token",
  PERMISSION_DENIED: "token",
  NOT_FOUND: "unknown",
  INVALID_ARGUMENT: "request",
  FAILED_PRECONDITION: "request",
  UNIMPLEMENTED: "request"
}

const reasonOf = (failure: WireFailed): Reason | null => {
  const { detail, grpcStatus } = failure
  if (grpcStatus === undefined) return overLibpq(failure)
  if (grpcStatus !== "INVALID_ARGUMENT") return overGrpc[grpcStatus] ?? null
  return collected.test(detail) ? "collected" : /\b(JWT|authorization)\b/.test(detail) ? "token" : "request"
}

/** Does who answered so, a safekeeper for example, take no token of ours? */
export const refusesToken = (failure: Failure): boolean =>
  failure._tag === "WireFailed" && reasonOf(failure) === "token"

/** The failure, or that it is a refusal. */
export const refusalOf = (failure: Failure): Failure => {
  const reason = failure._tag === "WireFailed" ? reasonOf(failure) : null
  return failure._tag !== "WireFailed" || reason === null
    ? failure
    : new PageserverRefused({ peer: failure.peer, reason, cause: failure })
}
