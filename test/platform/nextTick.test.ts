import { expect, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import * as path from "node:path"

/** How many of the ticks that were made outlive a garbage collection. */
const script = `
import { createHook } from "node:async_hooks"
const { keepTickShape } = await import(process.argv[1])
const ticks = []
const hook = createHook({ init: (_id, type, _trigger, tick) => type === "TickObject" && ticks.push(new WeakRef(tick)) })
hook.enable()
process.nextTick(() => {})
if (process.argv[2] === "keep") keepTickShape()
await new Promise((resolve) => setImmediate(resolve))
hook.disable()
await new Promise((resolve) => setImmediate(resolve))
gc()
console.log(ticks.filter((one) => one.deref() !== undefined).length)
`
const ticksThatStay = (keep: boolean): string => {
  const module = path.join(import.meta.dirname, "../../src/platform/nextTick.ts")
  const args = ["--expose-gc", "--input-type=module", "-e", script, module, ...(keep ? ["keep"] : [])]
  return execFileSync(process.execPath, args, { encoding: "utf8" }).trim()
}

it("a tick outlives garbage collections, so that no collection makes process.nextTick slow for good", () => {
  expect(ticksThatStay(true)).toBe("1")
  expect(ticksThatStay(false)).toBe("0")
})
