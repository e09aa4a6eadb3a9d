/**
 * Counts what a piece of code does in operations instead of time: elements and characters that the built-in loops pass
 * over (a `findIndex`, a spread, a `slice`), and reads of the input. A pass over all is counted as all.
 */
type Method = (this: unknown, ...given: ReadonlyArray<unknown>) => unknown

const iteration: ReadonlyArray<PropertyKey> = ["forEach", "values", "keys", "entries", Symbol.iterator]
const passes =
  "indexOf lastIndexOf includes find findIndex findLast some every filter map flatMap flat reduce slice concat join " +
  "splice shift unshift sort"
const textPasses = "indexOf includes split replace replaceAll trim toLowerCase toWellFormed"

const perElement: ReadonlyArray<readonly [object, ReadonlyArray<PropertyKey>]> = [
  [Array.prototype, [...passes.split(" "), ...iteration]],
  [String.prototype, textPasses.split(" ")],
  [Set.prototype, iteration],
  [Map.prototype, iteration]
]
const once: ReadonlyArray<readonly [object, ReadonlyArray<PropertyKey>]> = [[RegExp.prototype, ["exec", "test"]]]
const perResult: ReadonlyArray<readonly [object, ReadonlyArray<PropertyKey>]> = [
  [Object, ["keys", "values", "entries"]],
  [String.prototype, ["slice"]]
]

const sizeOf = (value: unknown): number => {
  if (value instanceof Set || value instanceof Map) return value.size
  return Array.isArray(value) || typeof value === "string" ? value.length : 0
}

/** Throws, from within the work, once there were more than `most`. */
export const countOperations = <A>(most: number, run: (read: () => void) => A): { operations: number; value: A } => {
  let operations = 0
  const count = (more: number): void => {
    operations += more
    if (operations <= most) return
    // First: to make an error, and to print it, takes operations as well.
    restore()
    throw new Error(`more than ${most} operations`)
  }
  const undo: Array<() => void> = []
  const restore = (): void => {
    for (let one = undo.pop(); one !== undefined; one = undo.pop()) one()
  }
  const patch = (
    table: typeof perElement,
    measured: (original: Method, self: unknown, given: ReadonlyArray<unknown>) => unknown
  ): void => {
    for (const [owner, names] of table) {
      for (const name of names) {
        const before = Object.getOwnPropertyDescriptor(owner, name)
        const original = before?.value as Method
        const value: Method = function (...given) {
          return measured(original, this, given)
        }
        Object.defineProperty(owner, name, { ...before, value })
        undo.push(() => Object.defineProperty(owner, name, before ?? {}))
      }
    }
  }
  try {
    patch(perElement, (original, self, given) => {
      count(1 + sizeOf(self))
      return Reflect.apply(original, self, given)
    })
    patch(once, (original, self, given) => {
      count(1)
      return Reflect.apply(original, self, given)
    })
    patch(perResult, (original, self, given) => {
      const result = Reflect.apply(original, self, given)
      count(1 + sizeOf(result))
      return result
    })
    const value = run(() => count(1))
    return { operations, value }
  } finally {
    restore()
  }
}

/** The same value, whose long lists and records tell of each read of a part of them. */
export const watched = (value: unknown, read: () => void): unknown => {
  if (typeof value !== "object" || value === null) return value
  const keys = Object.keys(value)
  if (keys.length < 1000) {
    const parts = keys.map((key) => [key, watched(Reflect.get(value, key), read)] as const)
    return Array.isArray(value) ? parts.map(([, part]) => part) : Object.fromEntries(parts)
  }
  return new Proxy(value, {
    get: (target, key) => {
      read()
      return Reflect.get(target, key)
    }
  })
}
