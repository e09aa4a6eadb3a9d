/**
 * Alerts, dashboard and runbook name what the program has: metrics, labels, conditions, routes, commands.
 */
import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { parse } from "yaml"
import { commands, flags } from "../../src/cli/flags.ts"
import type { Condition } from "../../src/compute/snapshot.ts"
import { displayStatus, statuses } from "../../src/compute/transitions.ts"
import { wholeApi } from "../../src/http/Api.ts"
import { endpointsOf } from "../../src/http/routes.ts"
import { metricNames } from "../support/metricNames.ts"

const root = path.resolve(import.meta.dirname, "../..")
const text = (file: string) => fs.readFileSync(path.join(root, file), "utf8")

interface Rule {
  readonly alert: string
  readonly expr: string
  readonly labels: { readonly severity: string }
  readonly annotations: { readonly summary: string; readonly description: string; readonly runbook_url: string }
}
interface Panel {
  readonly title: string
  readonly targets: ReadonlyArray<{ readonly expr: string }>
}

interface RuleTest {
  readonly input_series: ReadonlyArray<{ readonly series: string }>
  readonly alert_rule_test: ReadonlyArray<{ readonly alertname: string; readonly exp_alerts?: unknown }>
}

const rulesFile = "packaging/prometheus/alerts.yaml"
const testsFile = "packaging/prometheus/alerts.test.yaml"
const rules = (
  parse(text(rulesFile)) as { readonly groups: ReadonlyArray<{ readonly rules: ReadonlyArray<Rule> }> }
).groups.flatMap((group) => group.rules)
const { panels } = JSON.parse(text("packaging/grafana/compute_ctl.json")) as { readonly panels: ReadonlyArray<Panel> }
const runbook = text("docs/runbook.md")

const known = metricNames()
/** Of Prometheus itself: whether it reaches a target. */
const ofPrometheus = ["up"]
const words = new Set(
  "by on or and unless without ignoring sum max min rate increase time histogram_quantile".split(" ")
)

/** The metrics of an expression: what is neither quoted, nor a label of a clause, nor a word of PromQL. */
const metricsOf = (expr: string): ReadonlyArray<string> =>
  (
    expr
      .replaceAll(/"[^"]*"/g, '""')
      .replaceAll(/\b(?:by|on|without|ignoring) \([^)]*\)/g, "")
      .replaceAll(/\{[^}]*\}|\[[^\]]*\]/g, "")
      .match(/\b[a-z_][a-z0-9_]*\b/g) ?? []
  ).filter((name) => !words.has(name))

const unknownIn = (expr: string): ReadonlyArray<string> =>
  metricsOf(expr).filter((name) => !known.has(name.replace(/_(bucket|sum|count)$/, "")) && !ofPrometheus.includes(name))

/** What a label is compared with. */
const valuesOf = (expr: string, label: string): ReadonlyArray<string> =>
  [...expr.matchAll(new RegExp(`\\b${label}[=!]~?"([^"]*)"`, "g"))].flatMap(([, values = ""]) => values.split("|"))

const codes = {
  lsn_lease_refused: true,
  last_good_spec: true,
  actor_failing: true,
  actor_hanging: true,
  recovering: true,
  postgres_not_accepting: true,
  replica_not_following: true,
  reconfigure_incomplete: true,
  override_not_reset: true,
  refresh_failed: true,
  migration_failed: true,
  database_broken: true,
  extension_unusable: true,
  base_publication_failed: true,
  disk_nearly_full: true,
  sidecar_unusable: true,
  log_dropped: true,
  logging_collector: true,
  api_unguarded: true,
  api_keys_unusable: true
} satisfies Record<Condition["code"], true>

describe("the alerts", () => {
  it("are about metrics that the program has", () => {
    assert.isAbove(rules.length, 4)
    for (const { alert, expr } of rules) {
      assert.isNotEmpty(metricsOf(expr), alert)
      assert.deepStrictEqual(unknownIn(expr), [], alert)
    }
  })

  it("are about conditions, statuses and parts that it has", () => {
    const sources = fs.globSync("src/**/*.ts", { cwd: root }).map((file) => text(file))
    for (const { alert, expr } of rules) {
      assert.includeMembers(Object.keys(codes), [...valuesOf(expr, "code")], alert)
      assert.includeMembers(statuses.map(displayStatus), [...valuesOf(expr, "status")], alert)
      for (const actor of valuesOf(expr, "about"))
        assert.isTrue(
          sources.some((source) => source.includes(`name: "${actor}"`)),
          `${alert}: ${actor}`
        )
    }
  })

  it("cover every condition but those that are how somebody wants it", () => {
    const byName = new Map(rules.map(({ alert, expr }) => [alert, expr]))
    const left = valuesOf(byName.get("ComputeDegraded") ?? "", "code")
    // A compute with these is not ready.
    const unready = ["postgres_not_accepting", "replica_not_following"]
    const covered = [...valuesOf(byName.get("ComputeRecoverySlow") ?? "", "code"), ...unready]
    assert.sameMembers(
      left.filter((code) => !covered.includes(code)),
      ["api_unguarded", "logging_collector"]
    )
  })

  it("have a section each in the runbook, and the runbook has no other", () => {
    const sections = [...runbook.matchAll(/^## (.*)$/gm)].map(([, title]) => title)
    assert.deepStrictEqual(
      sections,
      rules.map(({ alert }) => alert)
    )
    for (const { alert, annotations, labels } of rules) {
      assert.strictEqual(annotations.runbook_url, `docs/runbook.md#${alert.toLowerCase()}`)
      assert.include(["warning", "critical"], labels.severity)
    }
  })

  it("have a test each of when they fire and when they do not, in series that the program has", () => {
    const { tests } = parse(text(testsFile)) as { readonly tests: ReadonlyArray<RuleTest> }
    const cases = tests.flatMap((one) => one.alert_rule_test)
    for (const { alert } of rules) {
      const own = cases.filter(({ alertname }) => alertname === alert)
      assert.isTrue(
        own.some(({ exp_alerts }) => exp_alerts !== undefined),
        `${alert} fires in no test`
      )
      assert.isTrue(
        own.some(({ exp_alerts }) => exp_alerts === undefined),
        `${alert} fires in every test`
      )
    }
    for (const { series } of tests.flatMap((one) => one.input_series)) {
      assert.deepStrictEqual(unknownIn(series), [], series)
      assert.includeMembers(Object.keys(codes), [...valuesOf(series, "code")], series)
    }
  })

  it("pass these tests with promtool, where it is installed", () => {
    for (const [subject, file] of [
      ["check", rulesFile],
      ["test", testsFile]
    ] as const) {
      const { error, status, stderr, stdout } = spawnSync("promtool", [subject, "rules", path.join(root, file)], {
        encoding: "utf8"
      })
      if (error !== undefined) return console.info("promtool is not installed here: rules are read by this test alone")
      assert.strictEqual(status, 0, stdout + stderr)
    }
  })
})

describe("the dashboard", () => {
  it("shows metrics that the program has", () => {
    for (const { targets, title } of panels)
      for (const { expr } of targets) {
        assert.isNotEmpty(metricsOf(expr), title)
        assert.deepStrictEqual(unknownIn(expr), [], title)
      }
  })
})

describe("the runbook", () => {
  const quoted = [...runbook.matchAll(/`([^`\n]+)`/g)].map(([, code = ""]) => code)

  it("asks for routes that there are", () => {
    const paths = endpointsOf(wholeApi()).map((endpoint) => endpoint.path)
    const asked = quoted.flatMap((code) => /(?:HOST:3080|(?:GET|POST) )(\/\S+)/.exec(code)?.[1] ?? [])
    assert.isAbove(asked.length, 6)
    for (const route of asked) assert.include(paths, route)
  })

  it("names commands, flags, metrics and conditions that there are", () => {
    for (const code of quoted) {
      const [, command] = /^compute_ctl ([a-z]+)/.exec(code) ?? []
      if (command !== undefined) assert.include(commands.map(({ name }) => name) as ReadonlyArray<string>, command)
      const [word = ""] = code.split(" ")
      if (word.startsWith("--")) assert.include(flags.map(({ name }) => `--${name}`) as ReadonlyArray<string>, word)
      if (code.startsWith("compute_ctl_")) assert.isTrue(known.has(code), code)
    }
    const mentioned = Object.keys(codes).filter((code) => quoted.includes(code))
    const unmentioned = Object.keys(codes).filter((code) => !mentioned.includes(code))
    assert.sameMembers(unmentioned, ["api_unguarded", "logging_collector", "base_publication_failed"])
  })
})
