/**
 * Says once what a start from the storage will not bring back: it is not in the WAL, and PGDATA is thrown away.
 */
import * as Effect from "effect/Effect"
import type { Admin } from "../../pgwire/Admin.ts"
import { namesIn, textOrNull } from "./disk.ts"

const unloggedIn = Effect.fnUntraced(function*(pgdata: string) {
  let found = 0
  for (const database of yield* namesIn(`${pgdata}/base`)) {
    found += (yield* namesIn(`${pgdata}/base/${database}`)).filter((name) => /^\d+_init$/.test(name)).length
    yield* Effect.yieldNow
  }
  return found
})

const look = Effect.fnUntraced(function*(pgdata: string, admin: Admin["Service"]) {
  const lines = new Map<string, string>()
  const [row] = yield* Effect.scoped(Effect.flatMap(admin.connect("local_storage"), (wire) =>
    wire.rows("SELECT string_agg(slot_name, ', ') FROM pg_catalog.pg_replication_slots WHERE NOT temporary", "10 seconds")))
  const slots = row?.[0] ?? null
  if (slots !== null) lines.set("slots", `replication slots are lost at the next start: ${slots}`)
  const unlogged = yield* unloggedIn(pgdata)
  if (unlogged > 0) {
    lines.set("unlogged", `unlogged tables and indexes (${unlogged} files) are emptied at the next start`)
  }
  const auto = (yield* textOrNull(`${pgdata}/postgresql.auto.conf`)) ?? ""
  const names = auto.split("\n").map((line) => line.replace(/\s*=.*$/, "").trim())
    .filter((name) => name !== "" && !name.startsWith("#"))
  if (names.length > 0) lines.set("auto", `settings by ALTER SYSTEM are lost at the next start: ${names.join(", ")}`)
  return lines
})

/** Each kind is warned about once per start; a look that fails says nothing. */
export const warnings = (pgdata: string, admin: Admin["Service"]): Effect.Effect<Effect.Effect<void>> =>
  Effect.sync(() => {
    const said = new Set<string>()
    return Effect.gen(function*() {
      for (const [kind, line] of yield* look(pgdata, admin)) {
        if (said.has(kind)) continue
        said.add(kind)
        yield* Effect.logWarning(line)
      }
    }).pipe(Effect.ignore)
  })
