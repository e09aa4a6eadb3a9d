/**
 * The table as a mermaid state diagram, for the README and for people.
 */
import { finals, table } from "./transitions.ts"

const pascal = (status: string): string => status.split("_").map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join("")

export const toMermaid = (): string =>
  [
    "stateDiagram-v2",
    "  [*] --> Empty : the process started",
    ...table.map((row) => `  ${pascal(row.from)} --> ${pascal(row.to)} : ${row.because}`),
    ...finals.map((status) => `  ${pascal(status)} --> [*] : the process exits`)
  ].join("\n")
