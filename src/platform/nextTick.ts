/**
 * `process.nextTick` at its full speed for as long as the process lives.
 *
 * Node 24 builds each tick as an object literal with computed keys. V8 remembers the literal's hidden class, but
 * weakly: a garbage collection at a moment at which no tick waits drops the class, and from then on each of the keys
 * is defined by a call into the runtime, five times slower (110 ns become 500), until the process ends. An HTTP answer
 * takes half a dozen ticks. One tick that stays keeps its class alive.
 */
import { executionAsyncResource } from "node:async_hooks"

const kept: Array<object> = []

/** To be called once, before the first garbage collection. */
export const keepTickShape = (): void =>
  process.nextTick(() => {
    kept.push(executionAsyncResource())
  })
