/**
 * The settings without which a storage on this machine loses data, looked at in the running server and nowhere else.
 *
 * `postgres/localConf.ts` says which they are and writes them. A spec, a file or ALTER SYSTEM may have changed what it
 * wrote; what counts is what Postgres shows.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { NotSupported, type TimedOut, type WireFailed } from "../../errors/Failure.ts"
import type { Wire } from "../../pgwire/Wire.ts"
import { durabilitySettings, type RequiredSetting, volumeSettings } from "../../postgres/localConf.ts"

/** `os`: an acknowledged commit survives a power cut. `process`: it survives the death of Postgres and of ourselves. */
export type Durability = "os" | "process"

/** What is promised: a durability of local storage, or the one that a volume has. */
export type Promised = Durability | "volume"

/** What the running server must show. Without durability against power cuts, `fsync` may be either. */
const requirements = (promised: Promised): ReadonlyArray<RequiredSetting> =>
  promised === "volume"
    ? volumeSettings
    : promised === "os"
      ? durabilitySettings("on")
      : durabilitySettings("off").filter(({ name }) => name !== "fsync")

const lookWithin = Duration.seconds(10)

/** `logical` writes more than `replica`, never less. */
const satisfies = ({ name, value }: RequiredSetting, actual: string): boolean =>
  actual === value || (name === "wal_level" && actual === "logical")

const wrongSettings = Effect.fnUntraced(function* (
  wire: Wire,
  promised: Promised
): Effect.fn.Return<ReadonlyArray<RequiredSetting>, WireFailed | TimedOut> {
  const wanted = requirements(promised)
  const names = wanted.map(({ name }) => `'${name}'`).join(", ")
  const rows = yield* wire.rows(`SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN (${names})`, lookWithin)
  const actual = new Map(rows.map(([name, setting]) => [name ?? "", setting ?? ""]))
  return wanted.filter((requirement) => !satisfies(requirement, actual.get(requirement.name) ?? ""))
})

const refuse = ({ because, name, value }: RequiredSetting, promised: Promised): NotSupported =>
  new NotSupported({
    what: `${name} other than ${value} with ${promised === "volume" ? "--storage volume" : "local storage"}`,
    because
  })

/** Fails naming the first setting that is not as it must be. */
export const requireSettings = Effect.fnUntraced(function* (
  wire: Wire,
  promised: Promised
): Effect.fn.Return<void, NotSupported | WireFailed | TimedOut> {
  const [wrong] = yield* wrongSettings(wire, promised)
  if (wrong !== undefined) return yield* refuse(wrong, promised)
})

/**
 * Somebody may use ALTER SYSTEM while we run: what it broke is taken back. True when anything was; fails when
 * that does not help, because then the promise of durability is broken.
 */
export const restoreSettings: (
  wire: Wire,
  promised: Promised
) => Effect.Effect<boolean, NotSupported | WireFailed | TimedOut> = Effect.fnUntraced(function* (wire, promised) {
  const wrong = yield* wrongSettings(wire, promised)
  if (wrong.length === 0) return false
  for (const { name } of wrong) {
    yield* Effect.logError(`${name} was changed so that commits could be lost; taking it back`)
    yield* wire.simple(`ALTER SYSTEM RESET ${name}`, lookWithin)
  }
  yield* wire.simple("SELECT pg_catalog.pg_reload_conf()", lookWithin)
  // A reload is a signal to the postmaster, which passes it on: this session sees the result a moment later.
  yield* Effect.retry(requireSettings(wire, promised), {
    while: (failure) => failure._tag === "NotSupported",
    schedule: Schedule.spaced("20 millis").pipe(Schedule.upTo({ times: 100 }))
  })
  return true
})
