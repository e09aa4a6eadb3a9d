/**
 * The page's script, third part: what counted as use in the last hour, and who holds the compute awake.
 */
import { clock, duration, elapsed, h, relative, svg, table } from "./dom.js"

/** @typedef {import("./dom.js").Child} Child */
/** @typedef {typeof import("../bodies.ts").Activity.Type} ActivityBody */

/** @type {Readonly<Record<string, string>>} */
const reasonNames = {
  client: "Client sessions",
  walsender: "Replicas, subscribers",
  subscription: "Subscriptions",
  autovacuum: "Autovacuum",
  statistics: "Statistics moved",
  hold: "Holds"
}

/** @param {ActivityBody["last_hour"]} minutes @param {string} reason */
const strip = (minutes, reason) =>
  svg(
    "svg",
    { class: "strip", viewBox: `0 0 ${minutes.length * 4} 16`, preserveAspectRatio: "none", "aria-hidden": "true" },
    ...minutes.map(({ because, served }, index) =>
      svg("rect", {
        x: index * 4,
        width: 3.2,
        ...(because.includes(reason) || served ? { y: 0, height: 16 } : { y: 7, height: 2 }),
        class: because.includes(reason) ? "on" : served ? "idle" : "off"
      })
    )
  )

/** @param {ActivityBody} body @returns {ReadonlyArray<Child>} */
const whyAwake = ({ awake_because, exit_when_idle_seconds, last_active, suspend_timeout_seconds }) => [
  awake_because.length > 0
    ? h("ul", { class: "reasons" }, ...awake_because.map((reason) => h("li", {}, `Awake: ${reason}.`)))
    : h(
        "p",
        { class: "well" },
        last_active === null ? "Nobody has used it yet." : ["Idle: last used ", relative(last_active, "ago"), "."]
      ),
  suspend_timeout_seconds === null || suspend_timeout_seconds <= 0
    ? null
    : h(
        "p",
        { class: "quiet" },
        `The spec asks for suspension after ${duration(suspend_timeout_seconds * 1000)} without use.`
      ),
  exit_when_idle_seconds === null
    ? null
    : h("p", { class: "quiet" }, `It ends by itself after ${duration(exit_when_idle_seconds * 1000)} without use.`)
]

/** @typedef {{ readonly hold: () => void, readonly release: (id: string) => void }} Actions */

/** @param {ActivityBody} body @param {Actions | null} actions what a token allows @returns {ReadonlyArray<Child>} */
const holdsOf = ({ holds }, actions) => [
  holds.length === 0
    ? null
    : table(
        "Holds",
        ["Hold", "Until", ...(actions === null ? [] : [""])],
        holds.map(({ expires_at, id, reason }) => ({
          cells: [
            reason,
            clock(expires_at),
            ...(actions === null
              ? []
              : [h("button", { "data-key": `release ${id}`, click: () => actions.release(id) }, "Release")])
          ]
        })),
        "holds"
      ),
  actions === null
    ? null
    : h("p", {}, h("button", { "data-key": "hold", click: () => actions.hold() }, "Keep awake for an hour"))
]

/** @param {ActivityBody} body @param {Actions | null} actions @returns {ReadonlyArray<Child>} */
export const activityOf = (body, actions) => {
  const { downtime, kinds, last_hour } = body
  const reasons = Object.keys(reasonNames).filter(
    (reason) => reason === "client" || last_hour.some(({ because }) => because.includes(reason))
  )
  const sessions = (/** @type {string} */ reason) => kinds[reason]?.sessions ?? null
  return [
    ...whyAwake(body),
    table(
      "Minutes of the last hour in which it counted as used, by reason",
      ["Reason", "From an hour ago until now", "Minutes", "Sessions now"],
      reasons.map((reason) => ({
        cells: [
          reasonNames[reason] ?? reason,
          strip(last_hour, reason),
          String(last_hour.filter(({ because }) => because.includes(reason)).length),
          String(sessions(reason) ?? "–")
        ]
      })),
      "hour"
    ),
    h("p", { class: "quiet" }, "Coloured: used. Pale: idle. A line: it did not serve."),
    downtime.total_ms === 0
      ? null
      : h(
          "p",
          { class: "warn" },
          `Postgres gave no answer for ${elapsed(downtime.total_ms)} in all since it began to run.`
        ),
    ...holdsOf(body, actions)
  ]
}
