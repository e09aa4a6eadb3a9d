/**
 * The operating system's name for an error, such as `ENOENT`, of whatever Node threw.
 */

/** `null` for what carries no code. */
export const codeOf = (cause: unknown): string | null =>
  typeof cause === "object" && cause !== null && "code" in cause && typeof cause.code === "string" ? cause.code : null
