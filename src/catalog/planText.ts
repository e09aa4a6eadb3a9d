/**
 * Looks at the catalog and says what an apply would do, as text or JSON, and does none of it. Shows no verifier.
 */
import * as Effect from "effect/Effect"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import { Admin, type Purpose } from "../pgwire/Admin.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"
import type { ApplyOptions } from "./Catalog.ts"
import { observe } from "./observe.ts"
import type { ApplyPlan, Operation } from "./operations.ts"
import { planApply } from "./planApply.ts"
import { freshTally, openSession } from "./sessions.ts"

export type GivenOptions = Omit<ApplyOptions, "superuser" | "fileCopy" | "force"> &
  Partial<Pick<ApplyOptions, "fileCopy" | "force">>

export const completeOptions = (given: GivenOptions, superuser: string): ApplyOptions => ({
  fileCopy: false,
  force: false,
  ...given,
  superuser
})

/** Opens one connection, reads, and closes it. */
export const observeAndPlan: (
  spec: ParsedSpec,
  given: GivenOptions
) => Effect.Effect<ApplyPlan, WireFailed | TimedOut, Admin> = Effect.fn("Applier.observeAndPlan")(
  function* (spec, given) {
    const admin = yield* Admin
    const options = completeOptions(given, admin.superuser)
    const purpose: Purpose = given.kind === "start" ? "apply_config" : "reconfigure"
    return yield* Effect.scoped(
      Effect.gen(function* () {
        const session = yield* openSession(freshTally(), purpose, null)
        return planApply(spec, yield* observe(session, spec, options), options)
      })
    )
  }
)

const toDo = (plan: ApplyPlan): ReadonlyArray<Operation> =>
  plan.operations.filter(({ decision }) => decision._tag !== "Skip")

/** Newlines in a hostile name must not look like another operation. */
const oneLine = (text: string): string => text.replace(/\s*\n\s*/g, " ")

const printOperation = (operation: Operation): string => {
  const where = operation.database === null ? "" : ` [in ${JSON.stringify(operation.database)}]`
  const head = `${operation.action} ${operation.object}${where}: ${operation.because}`
  return operation.decision._tag === "Refuse"
    ? `! ${head}\n    refused: ${operation.decision.reason}; ${operation.decision.hint}`
    : [`+ ${head}`, ...operation.statements.map(({ shown }) => `    ${oneLine(shown.trim())};`)].join("\n")
}

/** Empty when nothing is to be done. A line per operation with its statements below, under the name of its phase. */
export const printPlan = (plan: ApplyPlan): string =>
  [...Map.groupBy(toDo(plan), ({ phase }) => phase)]
    .map(([phase, operations]) => [phase, ...operations.map(printOperation)].join("\n"))
    .join("\n\n")

/** Stable: for programs. */
export const planJson = (plan: ApplyPlan): unknown => ({
  kind: plan.kind,
  operations: toDo(plan).map((operation) => ({
    id: operation.id,
    phase: operation.phase,
    database: operation.database,
    object: operation.object,
    action: operation.action,
    because: operation.because,
    refused: operation.decision._tag === "Refuse" ? operation.decision.reason : null,
    statements: operation.statements.map(({ shown }) => shown.trim()),
    after: operation.after,
    beside: operation.beside,
    transactional: operation.joined !== null
  })),
  leftAlone: plan.operations.flatMap((operation) =>
    operation.decision._tag === "Skip"
      ? [
          {
            phase: operation.phase,
            object: operation.object,
            action: operation.action,
            reason: operation.decision.reason
          }
        ]
      : []
  )
})
