/**
 * The operating system's name for an error, such as `ENOENT`, of whatever Node threw.
 */

interface Unnamed {
  readonly code: string
  readonly words: string
}

const quota: Unnamed = { code: "EDQUOT", words: "disk quota exceeded" }

/** What Node has no name for, by the number on Linux and, where it is another, on macOS. */
const unnamed: ReadonlyMap<unknown, Unnamed> = new Map([
  [-122, quota],
  [-69, quota],
  [-117, { code: "EUCLEAN", words: "the file system is damaged" }],
  [-116, { code: "ESTALE", words: "the server of this file system knows the file no more" }]
])

const unnamedOf = (cause: object): Unnamed | undefined => ("errno" in cause ? unnamed.get(cause.errno) : undefined)

/** `null` for what carries no code. */
export const codeOf = (cause: unknown): string | null => {
  if (typeof cause !== "object" || cause === null || !("code" in cause) || typeof cause.code !== "string") return null
  return unnamedOf(cause)?.code ?? cause.code
}

/** Of sockets, and of files. */
const wordless = /UNKNOWN: unknown error|(Unknown system error -\d+): \1/

/** Its message, in words also where Node has none. */
export const messageOf = (cause: Error): string => {
  const known = unnamedOf(cause)
  return known === undefined ? cause.message : cause.message.replace(wordless, `${known.code}: ${known.words}`)
}
