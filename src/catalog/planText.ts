/**
 * What an apply would do, as text or JSON. Shows no verifier.
 */
import type { ApplyPlan, Operation, Statement } from "./operations.ts"

const toDo = (plan: ApplyPlan): ReadonlyArray<Operation> =>
  plan.operations.filter(({ decision }) => decision._tag !== "Skip")

/** It touches no catalog row that the operations of its group touch. */
const mayRunConcurrently = ({ change, phase }: Operation): boolean => {
  switch (change._tag) {
    case "CreateDatabase":
    case "DropDatabase":
    case "RenameDatabase":
      return true
    case "GrantDatabase":
      return phase !== "CreatePrivilegedRole"
    default:
      return phase === "ChangeSchemaPermissions" || phase === "HandleAnonExtension"
  }
}

/** A password that came in some other way than as a verifier, which is never in what is shown. */
const withoutPasswords = (text: string): string =>
  text
    .replace(/\bPASSWORD\s+(?:E?'(?:[^'\\]|''|\\.)*'?|\$\w*\$[\s\S]*)/gi, "PASSWORD '<redacted>'")
    .replace(/\bSCRAM-SHA-256\$[^\s'"]*|\bmd5[0-9a-f]{8,}/g, "<redacted>")

const shownText = ({ shown }: Statement): string => withoutPasswords(shown.trim())

/** Newlines in a hostile name must not look like another operation. */
const oneLine = (text: string): string => text.replace(/\s*\n\s*/g, " ")

const printOperation = (operation: Operation): string => {
  const where = operation.database === null ? "" : ` [in ${JSON.stringify(operation.database)}]`
  const head = `${operation.action} ${operation.object}${where}: ${operation.because}`
  return operation.decision._tag === "Refuse"
    ? `! ${head}\n    refused: ${operation.decision.reason}; ${operation.decision.hint}`
    : [`+ ${head}`, ...operation.statements.map((one) => `    ${oneLine(shownText(one))};`)].join("\n")
}

/** Empty when nothing is to be done. A line per operation with its statements below, under the name of its phase. */
export const printPlan = (plan: ApplyPlan): string =>
  [...Map.groupBy(toDo(plan), ({ phase }) => phase)]
    .map(([phase, operations]) => [phase, ...operations.map(printOperation)].join("\n"))
    .join("\n\n")

/** Stable: for programs. */
export const planJson = (plan: ApplyPlan) => ({
  kind: plan.kind,
  operations: toDo(plan).map((operation) => ({
    id: operation.id,
    phase: operation.phase,
    database: operation.database,
    object: operation.object,
    action: operation.action,
    because: operation.because,
    refused: operation.decision._tag === "Refuse" ? operation.decision.reason : null,
    statements: operation.statements.map(shownText),
    after: operation.after,
    beside: mayRunConcurrently(operation),
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
