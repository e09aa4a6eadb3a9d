/**
 * What is not as it should be while the compute serves all the same: said once in the log, and shown until it is over.
 */
export interface Condition {
  /** Stable, for clients. */
  readonly code: "lsn_lease_refused" | "last_good_spec"
  readonly message: string
}

/** The latest word on each code counts. */
export const withCondition = (conditions: ReadonlyArray<Condition>, condition: Condition): ReadonlyArray<Condition> => [
  ...withoutCondition(conditions, condition.code),
  condition
]

export const withoutCondition = (conditions: ReadonlyArray<Condition>, code: Condition["code"]): ReadonlyArray<Condition> =>
  conditions.some((one) => one.code === code) ? conditions.filter((one) => one.code !== code) : conditions
