/**
 * Log filters in the words of `RUST_LOG`: what is read, what is left out, and which line passes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { isWanted, loosest, parseLogFilter } from "../../src/logging/filter.ts"

describe("a log filter", () => {
  it("is read as RUST_LOG is", () => {
    const read = (text: string) => {
      const {
        filter: { level, modules },
        unread
      } = parseLogFilter(text, "info")
      return [level, Object.fromEntries(modules), unread]
    }
    assert.deepStrictEqual(read(""), ["info", {}, 0])
    assert.deepStrictEqual(read("DEBUG"), ["debug", {}, 0])
    assert.deepStrictEqual(read("warn, Monitor = debug ,hyper=off"), ["warn", { monitor: "debug", hyper: "off" }, 0])
    assert.deepStrictEqual(read("compute_tools::spec=trace"), ["info", { "compute_tools::spec": "trace" }, 0])
    assert.deepStrictEqual(read("loud,a=b,=info,[span]=info"), ["info", {}, 4])
  })

  it("asks the nearest name first, and the general level last", () => {
    const { filter } = parseLogFilter("warn,monitor=debug,applier=off,applier.lane=info", "info")
    assert.strictEqual(loosest(filter), "debug")
    const wanted = (level: "debug" | "info" | "warn" | "error", ...names: ReadonlyArray<string>) =>
      isWanted(filter, level, () => names)
    assert.isTrue(wanted("debug", "monitor"))
    assert.isFalse(wanted("debug", "archiver"))
    assert.isTrue(wanted("warn", "archiver"))
    assert.isFalse(wanted("error", "Applier.apply"))
    assert.isTrue(wanted("info", "Applier.lane", "Applier.apply"))
    assert.isFalse(wanted("error", "Applier.apply", "monitor"))
  })

  it.prop("is never more than its parts", { text: Schema.String }, ({ text }) => {
    const { filter, understood, unread } = parseLogFilter(text, "info")
    assert.strictEqual(
      understood || unread > 0,
      text.split(",").some((part) => part.trim() !== "")
    )
    assert.isTrue(isWanted(filter, "error", () => []) || filter.level === "off")
  })
})
