/**
 * The words of the HTTP API: status names of both API versions, and every refusal with its HTTP status, code and hint
 * (docs/reference/compute_ctl.md#status, docs/reference/compute_ctl.md#requests-by-status and
 * docs/reference/compute_ctl.md#http). Pure: it sends nothing. No answer ever carries an error text under a 2xx code.
 */
import { displayStatus, type Status } from "../compute/transitions.ts"
import type { Failure } from "../errors/Failure.ts"
import { explain, hintOf, policyOf } from "../errors/policy.ts"
import type { ApiVersion } from "../spec/ParsedSpec.ts"

/** The name in JSON. */
export const wireStatus = (apiVersion: ApiVersion, status: Status): string =>
  apiVersion === "2024" && status.startsWith("termination_pending") ? "termination_pending" : status

const pascal = (name: string): string =>
  name
    .split("_")
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join("")

/** An answer that is not the one hoped for. `code` is stable; `error` is the reference's text where it has one. */
export interface Refusal {
  readonly _tag: "Refusal"
  readonly status: number
  readonly code: string
  readonly error: string
  readonly hint: string
  /** Places in the body and what is wrong with each. */
  readonly problems: ReadonlyArray<{ readonly path: string; readonly message: string }>
}

export const refusal = (
  status: number,
  code: string,
  error: string,
  hint: string,
  problems: Refusal["problems"] = []
): Refusal => ({ _tag: "Refusal", status, code, error, hint, problems })

/** The JSON body of every refusal. */
export const bodyOf = ({ code, error, hint, problems }: Refusal) => ({
  error,
  code,
  hint,
  ...(problems.length === 0 ? {} : { problems })
})

/** What the 2024 texts call the thing that was asked for. */
export type Asked =
  | "configuration"
  | "insights"
  | "check_writability"
  | "extensions"
  | "set_role_grants"
  | "installed_extensions"
  | "database_schema"

const waitHint = "wait until GET /status says a status in which this can be done"

/** 412 with the text of the apiVersion. */
export const wrongStatus = (apiVersion: ApiVersion, asked: Asked, status: Status): Refusal => {
  const error =
    apiVersion === "head"
      ? `invalid compute status: ${displayStatus(status)}`
      : asked === "insights" || asked === "installed_extensions"
        ? `compute is not running, current status: ${pascal(wireStatus(apiVersion, status))}`
        : `invalid compute status for ${asked} request: ${pascal(wireStatus(apiVersion, status))}`
  return refusal(412, "wrong_status", error, waitHint)
}

export const databasesHint = "GET /dbs_and_roles lists what there is"

const problemsOf = (failure: Failure): Refusal["problems"] =>
  failure._tag === "SpecInvalid" || failure._tag === "SpecConflict" ? failure.problems : []

export const refusalOf = (failure: Failure, prefix = ""): Refusal =>
  refusal(
    policyOf(failure).httpStatus,
    policyOf(failure).code,
    `${prefix}${explain(failure)}`,
    hintOf(failure),
    problemsOf(failure)
  )

/** Somebody else is at it: the same request may succeed a moment later. */
const contended: ReadonlySet<string> = new Set(["40P01", "40001", "55006", "55P03"])

/** Not what was asked is at fault, but the connection, resources, an operator, the system, or a bug of Postgres. */
const ofServer = /^(08|53|57|58|F0|XX)/

/** What a request has Postgres do, when Postgres itself refuses that. */
export const sqlRefusal = (failure: Failure, prefix = ""): Refusal => {
  const refused = refusalOf(failure, prefix)
  if (failure._tag !== "WireFailed" || failure.sqlState === undefined) return refused
  if (failure.sqlState === "3D000") return { ...refused, status: 404, code: "database_unknown", hint: databasesHint }
  if (failure.operation !== "query" || ofServer.test(failure.sqlState)) return refused
  return {
    ...refused,
    status: contended.has(failure.sqlState) ? 409 : 422,
    code: "sql_refused",
    hint: failure.serverHint ?? "Postgres's own words and SQLSTATE above say why"
  }
}

/** A spec that could not be applied; one that is invalid is the caller's fault, and its error has no such prefix. */
export const configureRefusal = (failure: Failure): Refusal =>
  policyOf(failure).httpStatus < 500
    ? refusalOf(failure)
    : { ...refusalOf(failure), error: `compute configuration failed: ${JSON.stringify(explain(failure))}` }

export const liveConfigRefused: Refusal = refusal(
  412,
  "live_config_not_allowed",
  "live configuration is not allowed for this compute node",
  "this compute was started with a spec of its own; start it without one to configure it over HTTP"
)

/** The reference says 500, as if it were its own fault. */
export const refreshRefused = (status: Status): Refusal =>
  refusal(412, "wrong_status", `Cannot refresh compute configuration in state ${pascal(status)}`, waitHint)

export const keyReused: Refusal = refusal(
  422,
  "idempotency_key_reused",
  "this idempotency key was used for another request",
  "send another key with another body"
)

export const notFound = (path: string): Refusal =>
  refusal(404, "not_found", `there is no ${path} here`, "GET /openapi.json lists what there is")

export const methodNotAllowed = (method: string, path: string, allowed: ReadonlyArray<string>): Refusal =>
  refusal(405, "method_not_allowed", `${path} does not take ${method}`, `use ${allowed.join(" or ")}`)

export const deadlinePassed = (what: string, millis: number): Refusal =>
  refusal(
    504,
    "deadline_passed",
    `${what} did not end within ${millis / 1000} s; it goes on`,
    "ask GET /status how it went"
  )

export const internalFault: Refusal = refusal(
  500,
  "internal",
  "this request met a fault in compute_ctl",
  "the log of compute_ctl has the details under this request's id"
)
