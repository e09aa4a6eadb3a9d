/**
 * The settings without which local storage loses data, looked at in the running server and nowhere else.
 *
 * A spec, a file or ALTER SYSTEM may have changed what the plan wrote; what counts is what Postgres says.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { NotSupported, type TimedOut, type WireFailed } from "../../errors/Failure.ts"
import type { Wire } from "../../pgwire/Wire.ts"

/** `os`: an acknowledged commit survives a power cut. `process`: it survives the death of Postgres and of ourselves. */
export type Durability = "os" | "process"

interface Requirement {
  readonly name: string
  readonly value: string
  readonly because: string
}

const requirements = (durability: Durability): ReadonlyArray<Requirement> => [
  {
    name: "wal_level",
    value: "replica",
    because: "at `minimal` some changes are not in the WAL, and PGDATA is thrown away"
  },
  { name: "wal_keep_size", value: "2147483647", because: "Postgres would remove WAL that the next start needs" },
  { name: "full_page_writes", value: "on", because: "a base is copied while pages are being written" },
  ...(durability === "os" ? [{ name: "fsync", value: "on", because: "commits would not survive a power cut" }] : [])
]

const within = Duration.seconds(10)

/** `logical` writes more than `replica`, never less. */
const satisfies = ({ name, value }: Requirement, actual: string): boolean =>
  actual === value || (name === "wal_level" && actual === "logical")

const look = Effect.fnUntraced(function* (
  wire: Wire,
  durability: Durability
): Effect.fn.Return<ReadonlyArray<Requirement>, WireFailed | TimedOut> {
  const wanted = requirements(durability)
  const names = wanted.map(({ name }) => `'${name}'`).join(", ")
  const rows = yield* wire.rows(`SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN (${names})`, within)
  const actual = new Map(rows.map(([name, setting]) => [name ?? "", setting ?? ""]))
  return wanted.filter((requirement) => !satisfies(requirement, actual.get(requirement.name) ?? ""))
})

const refuse = ({ because, name, value }: Requirement): NotSupported =>
  new NotSupported({ what: `${name} other than ${value} with local storage`, because })

/** Fails naming the first setting that is not as it must be. */
export const requireSettings = Effect.fnUntraced(function* (
  wire: Wire,
  durability: Durability
): Effect.fn.Return<void, NotSupported | WireFailed | TimedOut> {
  const [wrong] = yield* look(wire, durability)
  if (wrong !== undefined) return yield* refuse(wrong)
})

/**
 * Somebody may use ALTER SYSTEM while we run: what it broke is taken back. Tells whether anything was; fails when
 * that does not help, because then the promise of durability is broken.
 */
export const restoreSettings: (
  wire: Wire,
  durability: Durability
) => Effect.Effect<boolean, NotSupported | WireFailed | TimedOut> = Effect.fnUntraced(function* (wire, durability) {
  const wrong = yield* look(wire, durability)
  if (wrong.length === 0) return false
  for (const { name } of wrong) {
    yield* Effect.logError(`${name} was changed so that commits could be lost; taking it back`)
    yield* wire.simple(`ALTER SYSTEM RESET ${name}`, within)
  }
  yield* wire.simple("SELECT pg_catalog.pg_reload_conf()", within)
  // A reload is a signal to the postmaster, which passes it on: this session sees the result a moment later.
  let left = wrong
  for (let looks = 0; left.length > 0 && looks < 100; looks++) {
    yield* Effect.sleep("20 millis")
    left = yield* look(wire, durability)
  }
  if (left[0] !== undefined) return yield* refuse(left[0])
  return true
})
