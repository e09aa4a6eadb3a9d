/**
 * The kit as users run it: `npm run chaos -- --minutes N --seed S`. Exit code 1 when anything was lost, or anything
 * else happened that must never happen; 2 for a wrong command line.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { parseArgs } from "node:util"
import { defaultLimits, printReport, runChaos } from "./cycles.ts"
import { storages } from "./storages.ts"

const usage = `usage: npm run chaos -- [--minutes N] [--cycles N] [--power-cuts N] [--seed S] [--storage KIND]
                        [--only PATTERN] [--keep]

  --minutes N     no cycle begins later (${defaultLimits.minutes} when neither this nor --cycles is given)
  --cycles N      that many cycles, power cuts among them
  --power-cuts N  that many of the cycles are power cuts (without it: about one in twelve, where this machine can)
  --seed S        repeats the draws of an earlier run; a new one is printed
  --storage KIND  what is tried: local (without it), or volume
  --only PATTERN  only faults whose names match
  --keep          what was found stays on the disk

Ctrl-C ends it after the present cycle, with the report; a second one at once.
`

const number = (text: string | undefined): number | undefined => {
  if (text === undefined) return undefined
  const value = Number(text)
  if (!(value >= 0)) throw new Error(`${text} is no number`)
  return value
}

const isStorage = (name: string): name is keyof typeof storages => name in storages

const readOptions = () => {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string" },
      cycles: { type: "string" },
      "power-cuts": { type: "string" },
      seed: { type: "string" },
      storage: { type: "string", default: "local" },
      only: { type: "string" },
      keep: { type: "boolean", default: false },
      help: { type: "boolean", default: false }
    }
  })
  if (values.help) return null
  const { storage } = values
  if (!isStorage(storage)) throw new Error(`--storage ${storage}: ${Object.keys(storages).join(" or ")} can be tried`)
  const [minutes, cycles] = [number(values.minutes), number(values.cycles)]
  return {
    minutes: minutes ?? (cycles === undefined ? defaultLimits.minutes : Infinity),
    cycles: cycles ?? Infinity,
    powerCuts: number(values["power-cuts"]),
    seed: values.seed ?? String(Math.floor(Math.random() * 2 ** 31)),
    storage,
    only: values.only === undefined ? undefined : new RegExp(values.only),
    keep: values.keep
  } as const
}

const options = (() => {
  try {
    return readOptions()
  } catch (cause) {
    process.stderr.write(`${(cause as Error).message}\n${usage}`)
    process.exit(2)
  }
})()
if (options === null) {
  process.stdout.write(usage)
  process.exit(0)
}

const say = (line: string): void => void process.stdout.write(`${line}\n`)

/** The first signal ends the run after this cycle, the second one at once. */
let asked = false
const running = Effect.runFork(runChaos({ ...options, ended: () => asked }, say))
for (const name of ["SIGINT", "SIGTERM"] as const) {
  process.on(name, () => {
    if (asked) Effect.runFork(Fiber.interrupt(running))
    asked = true
  })
}
const exit = await Effect.runPromise(Fiber.await(running))
if (Exit.isSuccess(exit)) say(printReport(exit.value))
else process.stderr.write(`${Cause.pretty(exit.cause)}\n`)
process.exitCode = Exit.isSuccess(exit) && exit.value.found === null ? 0 : 1
