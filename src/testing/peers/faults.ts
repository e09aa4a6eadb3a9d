/**
 * What an imitation peer does wrong next, and what it has seen. Both bounded, both in memory alone.
 */

/** More than these nobody means. */
export const maxArmed = 1_000
const maxSeen = 1_000

interface Armed<F> {
  readonly what: F
  left: number
}

/** Faults in the order in which they were armed; each counts for so many attempts, and is then forgotten. */
export class FaultQueue<F> {
  #armed: Array<Armed<F>> = []

  /** False: there are too many, and this one was not taken. */
  arm(what: F, times = 1): boolean {
    if (this.#armed.length >= maxArmed) return false
    if (times > 0) this.#armed.push({ what, left: times })
    return true
  }

  /** The first that is meant for this attempt; it is used up by it. */
  next(isMeant: (what: F) => boolean = () => true): F | null {
    const found = this.#armed.find(({ what }) => isMeant(what))
    if (found === undefined) return null
    found.left -= 1
    if (found.left <= 0) this.#armed = this.#armed.filter((one) => one !== found)
    return found.what
  }

  clear(): void {
    this.#armed = []
  }
}

/** The last ones, oldest first, and how many came before them. */
export class SeenList<S> {
  #seen: Array<S> = []
  #dropped = 0

  add(one: S): void {
    this.#seen.push(one)
    if (this.#seen.length <= maxSeen) return
    this.#seen.shift()
    this.#dropped += 1
  }

  get all(): ReadonlyArray<S> {
    return [...this.#seen]
  }

  get dropped(): number {
    return this.#dropped
  }

  clear(): void {
    this.#seen = []
    this.#dropped = 0
  }
}
