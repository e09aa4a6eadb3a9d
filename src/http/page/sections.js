/**
 * The page's script, second part: what each section shows of the bodies that the API answers.
 */
import { byId, clock, counted, elapsed, h, relative, show, table, words } from "./dom.js"

/** @typedef {import("./dom.js").Child} Child */

/** @typedef {typeof import("../bodies.ts").ComputeStatusResponse.Type} StatusBody */
/** @typedef {typeof import("../bodies.ts").History.Type} HistoryBody */
/** @typedef {typeof import("../bodies.ts").Conditions.Type} ConditionsBody */
/** @typedef {typeof import("../bodies.ts").Timeline.Type} TimelineBody */
/** @typedef {typeof import("../bodies.ts").ApplyReport.Type} ApplyBody */
/** @typedef {typeof import("../bodies.ts").Log.Type} LogBody */

// -- the head ----------------------------------------------------------------------------------------------------------

/** @param {string} status */
const toneOf = (status) =>
  status === "running" ? "good" : status === "failed" ? "bad" : /^(empty|termin)/.test(status) ? "quiet" : "busy"

/** @param {StatusBody} status @param {ConditionsBody | null} conditions @param {HistoryBody | null} history */
export const showHead = (status, conditions, history) => {
  const degraded = conditions?.degraded.length ?? 0
  const tone = toneOf(status.status)
  byId("status").dataset["tone"] = tone === "good" && degraded > 0 ? "warn" : tone
  byId("status-name").textContent = words(status.status)
  document.title = `${words(status.status)}${degraded > 0 ? " (!)" : ""} · ${location.host}`
  show(byId("since"), [history?.since, degraded, status.last_active], () => [
    ...(history === null ? [] : [relative(history.since, "for")]),
    ...(degraded > 0
      ? [
          ", with ",
          h("a", { href: "#conditions", "data-key": "to-conditions" }, counted(degraded, "condition", "conditions"))
        ]
      : []),
    ...(status.last_active === null ? [] : [", last used ", relative(status.last_active, "ago")])
  ])
  show(byId("vitals"), [status.start_time, status.tenant, status.timeline, status.waiting_for], () =>
    /** @type {const} */ ([
      ["Started", clock(status.start_time)],
      ["Tenant", status.tenant],
      ["Timeline", status.timeline],
      ["Waits for", status.waiting_for ?? null]
    ]).flatMap(([name, value]) => (value === null ? [] : [h("div", {}, h("dt", {}, name), h("dd", {}, value))]))
  )
  show(byId("error"), status.error, () => (status.error === null ? [] : [h("p", { class: "error" }, status.error)]))
}

// -- conditions, and what waits for a restart --------------------------------------------------------------------------

/** @param {ConditionsBody} body @param {string} status @returns {ReadonlyArray<Child>} */
export const conditionsOf = ({ degraded, pending_restart, promotion }, status) => [
  degraded.length === 0
    ? status === "running"
      ? h("p", { class: "well" }, "None. Everything is as it should be.")
      : h("p", {}, `None, beside that it is ${words(status)}.`)
    : h(
        "ul",
        { class: "conditions" },
        ...degraded.map(({ about, code, message }) =>
          h("li", {}, h("p", { class: "code" }, about === undefined ? code : `${code} · ${about}`), h("p", {}, message))
        )
      ),
  promotion.status === "not_promoted" ? null : h("p", {}, `Promotion: ${promotion.status}.`),
  ...(pending_restart.length === 0
    ? [h("p", { class: "quiet" }, "No setting waits for a restart of Postgres.")]
    : [
        h("h3", {}, "Settings that wait for a restart of Postgres"),
        table(
          "Settings that wait for a restart",
          ["Setting", "Now", "After it"],
          pending_restart.map(({ current, name, wanted }) => ({ cells: [name, current, wanted] })),
          "mono"
        )
      ])
]

// -- life --------------------------------------------------------------------------------------------------------------

/** In the 2024 version of the API two statuses have one name. @param {string} name @param {string} status */
const matches = (name, status) =>
  status === "termination_pending" ? `[${name}^="${status}"]` : `[${name}~="${status}"]`

/** @param {HistoryBody} body */
export const markDiagram = ({ changes, status }) => {
  for (const part of document.querySelectorAll(".diagram .node, .diagram .edge"))
    part.classList.remove("current", "previous", "taken", "walked")
  /** @param {string} selector @param {string} mark */
  const mark = (selector, mark) => {
    for (const part of document.querySelectorAll(`.diagram ${selector}`)) part.classList.add(mark)
  }
  for (const { from, to } of changes) mark(`.edge${matches("data-from", from)}${matches("data-to", to)}`, "walked")
  const last = changes.at(-1)
  if (last !== undefined) {
    mark(`.edge${matches("data-from", last.from)}${matches("data-to", last.to)}`, "taken")
    mark(`.node${matches("data-status", last.from)}`, "previous")
  }
  mark(`.node${matches("data-status", status)}`, "current")
  for (const drawing of document.querySelectorAll(".diagram")) drawing.setAttribute("data-tone", toneOf(status))
}

/** @param {HistoryBody["changes"][number]} change */
const changeOf = ({ at, because, error, from, to }) =>
  h(
    "li",
    {},
    h("p", {}, h("b", {}, `${words(from)} → ${words(to)}`), ` ${clock(at)}, `, relative(at, "ago")),
    h("p", { class: "quiet" }, because),
    error === null ? null : h("p", { class: "error" }, error)
  )

/** @param {HistoryBody} body @returns {ReadonlyArray<Child>} */
export const lifeOf = ({ changes }) => {
  const [last, ...earlier] = changes.toReversed()
  if (last === undefined) return [h("p", { class: "quiet" }, "The process has begun; there was no change yet.")]
  return [
    h("h3", {}, "The last change"),
    h("ul", { class: "changes" }, changeOf(last)),
    earlier.length === 0
      ? null
      : h(
          "details",
          { "data-key": "changes" },
          h("summary", {}, counted(earlier.length, "earlier change", "earlier changes")),
          h("ol", { class: "changes", reversed: true }, ...earlier.map(changeOf))
        )
  ]
}

// -- the start -----------------------------------------------------------------------------------------------------------

/** @typedef {TimelineBody["steps"]} Steps */

/** @param {Steps} steps */
const spanOf = (steps) => steps.reduce((end, { ms, started_at_ms }) => Math.max(end, started_at_ms + ms), 1)

/** @param {number} from @param {number} length */
const bar = (from, length) => {
  const element = h("span", { class: "bar", "aria-hidden": "true" }, h("i", {}))
  element.style.setProperty("--from", `${from * 100}%`)
  element.style.setProperty("--length", `${length * 100}%`)
  return element
}

/** @param {Steps} steps @param {number} total */
const waterfall = (steps, total) =>
  table(
    "Steps of the start",
    ["Step", "When", "After", "Time"],
    steps.map(({ ms, name, started_at_ms }) => ({
      cells: [name, bar(Math.max(0, started_at_ms) / total, ms / total), elapsed(started_at_ms), elapsed(ms)]
    })),
    "waterfall"
  )

/** @param {TimelineBody} body @returns {ReadonlyArray<Child>} */
export const startOf = ({ earlier, start_time, steps, total_ms }) => {
  const starts = [
    ...(total_ms === null ? [] : [{ start_time, total_ms, steps, own: true }]),
    ...earlier.map((one) => ({ ...one, own: false }))
  ]
  const slowest = starts.reduce((most, { total_ms }) => Math.max(most, total_ms), 1)
  return [
    h(
      "p",
      {},
      total_ms === null ? "The start is not finished. " : h("b", {}, `${elapsed(total_ms)}. `),
      h("span", { class: "quiet" }, `Begun ${clock(start_time)}, `, relative(start_time, "ago"))
    ),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        {},
        steps.length === 0 ? h("p", { class: "quiet" }, "No step has passed yet.") : waterfall(steps, spanOf(steps))
      ),
      h(
        "div",
        {},
        h("h3", {}, "The last starts"),
        starts.length === 0 ? h("p", { class: "quiet" }, "No start is known.") : null,
        h(
          "ol",
          { class: "starts" },
          ...starts.map(({ own, start_time, steps, total_ms }) =>
            h(
              "li",
              {},
              h(
                "details",
                { "data-key": `start ${start_time}` },
                h(
                  "summary",
                  {},
                  h("span", { class: "when" }, own ? "this one" : clock(start_time)),
                  bar(0, total_ms / slowest),
                  h("span", { class: "number" }, elapsed(total_ms))
                ),
                waterfall(steps, spanOf(steps))
              )
            )
          )
        )
      )
    )
  ]
}

// -- the last apply ------------------------------------------------------------------------------------------------------

/** Without being asked for; and at most. */
const atFirst = 12
const atMost = 200
/** @type {Readonly<Record<string, number>>} */
const urgency = { failed: 0, done: 1, skipped: 2 }

/** @param {ApplyBody["operations"][number]} operation */
const operationRow = ({ action, database, hint, millis, object, outcome, reason, sqlState }) => {
  const why = [reason, sqlState === null ? null : `SQLSTATE ${sqlState}`, hint].filter((part) => part !== null)
  return {
    tone: outcome,
    cells: [
      [object, why.length === 0 ? null : h("span", { class: "why" }, why.join(" · "))],
      action,
      database,
      outcome,
      elapsed(millis)
    ]
  }
}

/** @param {ReadonlyArray<ReturnType<typeof operationRow>>} rows @param {string} which */
const operationsTable = (rows, which) =>
  table(
    `Operations of the last apply, ${which}`,
    ["Object", "Action", "Database", "Outcome", "Time"],
    rows,
    "operations"
  )

/** @param {ApplyBody | null} body @returns {ReadonlyArray<Child>} */
export const applyOf = (body) => {
  if (body === null) return [h("p", { class: "quiet" }, "Nothing was applied yet.")]
  const { connections, kind, millis, operations, outcome, roundTrips, startedAt, statements } = body
  const count = (/** @type {string} */ wanted) => operations.filter((one) => one.outcome === wanted).length
  const sorted = operations.toSorted((one, other) => (urgency[one.outcome] ?? 3) - (urgency[other.outcome] ?? 3))
  const rows = sorted.slice(0, atMost).map(operationRow)
  // Failures are all there at once.
  const first = rows.slice(0, Math.max(atFirst, count("failed")))
  const rest = rows.slice(first.length)
  const more = sorted.length - rows.length
  return [
    h(
      "p",
      {},
      h(
        "b",
        { class: outcome === "failed" ? "bad" : "" },
        `${kind === "start" ? "At the start" : "A new spec"}: ${outcome}. `
      ),
      `${count("done")} done, ${count("skipped")} skipped, ${count("failed")} failed, in ${elapsed(millis)}. `,
      h(
        "span",
        { class: "quiet" },
        `Begun ${clock(startedAt)}; ${counted(connections, "connection", "connections")}, `,
        `${counted(roundTrips, "round trip", "round trips")}, ${counted(statements, "statement", "statements")}.`
      )
    ),
    first.length === 0
      ? h("p", { class: "quiet" }, "There was nothing to do.")
      : operationsTable(first, "failures first"),
    rest.length === 0
      ? null
      : h(
          "details",
          { "data-key": "operations" },
          h("summary", {}, counted(rest.length, "more operation", "more operations")),
          operationsTable(rest, "the rest")
        ),
    more > 0 ? h("p", { class: "quiet" }, `And ${counted(more, "operation", "operations")} more, in GET /apply.`) : null
  ]
}

// -- the log -------------------------------------------------------------------------------------------------------------

/** @param {LogBody} body @returns {ReadonlyArray<Child>} */
export const logOf = ({ lines }) => [
  lines.length === 0
    ? h("p", { class: "quiet" }, "No line was written yet.")
    : h(
        "ol",
        {
          class: "log",
          tabindex: 0,
          "data-key": "log",
          role: "log",
          "aria-live": "off",
          "aria-label": "Lines of the log"
        },
        ...lines.map(({ at, level, message }) =>
          h(
            "li",
            { "data-level": level.toLowerCase() },
            h("time", { datetime: at, title: at }, at.slice(11, 23)),
            h("b", {}, level),
            h("span", {}, message)
          )
        )
      )
]
