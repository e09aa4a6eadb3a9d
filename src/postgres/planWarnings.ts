/**
 * What a spec asks for and will not get, or should not want: sentences for a person. Changes nothing.
 */
import type { GenericOption, ParsedSpec } from "../spec/ParsedSpec.ts"
import { isInclude, printName, readConf, unwritable } from "./confText.ts"
import { localInsists, localRefusal } from "./localConf.ts"
import { saidBy } from "./postgresqlConf.ts"
import type { Facts } from "./Facts.ts"

const leftOut = (name: string, reason: string): string => `setting ${printName(name)} is left out: it ${reason}`

const unwritableWarnings = (settings: ReadonlyArray<GenericOption>): ReadonlyArray<string> =>
  settings.flatMap((setting) => {
    const reason = unwritable(setting)
    return reason === null ? [] : [leftOut(setting.name, reason)]
  })

const truths: ReadonlyMap<string, string> = new Map([
  ["true", "on"], ["yes", "on"], ["1", "on"], ["false", "off"], ["no", "off"], ["0", "off"]
])

/** Near enough to compare what a spec says with what storage insists on. */
const normal = (value: string): string => {
  const lower = value.trim().toLowerCase()
  return truths.get(lower) ?? lower
}

/** With these, Postgres says `COMMIT` when the WAL is where the durability promises it. */
const flushed: ReadonlySet<string> = new Set(["on", "local", "remote_write", "remote_apply"])

const localWarnings = (spec: ParsedSpec, facts: Facts): ReadonlyArray<string> => {
  if (facts.storage._tag === "Neon") return []
  const said = saidBy(spec)
  const names = [
    // An include in the head is read: what it brings is overridden like the rest of the head.
    ...readConf(spec.postgresqlConf ?? "").map((entry) => entry.name).filter((name) => !isInclude(name)),
    ...(spec.settings ?? []).map((setting) => setting.name)
  ]
  const refused = [...new Set(names)].flatMap((name) => {
    const reason = localRefusal(name)
    return reason === null ? [] : [leftOut(name, reason)]
  })
  const overridden = localInsists(facts, facts.storage, "open", said).flatMap(({ because, name, value }) => {
    const wish = said(name)
    const given = readConf(`${name} = ${value}`)[0]?.value ?? value
    return wish === null || normal(wish) === normal(given)
      ? []
      : [`setting ${printName(name)} is overridden: ${because}`]
  })
  const losesCommits = flushed.has(normal(said("synchronous_commit") ?? "on"))
    ? []
    : ["setting \"synchronous_commit\" is kept: acknowledged commits may be lost when Postgres is killed"]
  return [...refused, ...overridden, ...losesCommits]
}

/** One sentence each. Names settings, never values. */
export const planWarnings = (spec: ParsedSpec, facts: Facts): ReadonlyArray<string> => [
  ...unwritableWarnings(spec.settings ?? []),
  ...localWarnings(spec, facts)
]
