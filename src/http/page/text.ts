/**
 * The compute's page for a terminal: what the page in a browser shows, in lines of at most a hundred columns. Pure.
 */
import * as DateTime from "effect/DateTime"
import { reasonsAwake } from "../../activity/activity.ts"
import { type Minute, minutesKept, type Reason } from "../../activity/lastHour.ts"
import type { ApplyReport, OperationReport, Snapshot } from "../../compute/snapshot.ts"
import type { ApiVersion } from "../../spec/ParsedSpec.ts"
import { waterfallText } from "../pages.ts"
import { wireStatus } from "../refusals.ts"

export interface PageFacts {
  readonly apiVersion: ApiVersion
  readonly version: string
  readonly snapshot: Snapshot
  readonly minutes: ReadonlyArray<Minute>
  readonly log: ReadonlyArray<{ readonly at: string; readonly level: string; readonly message: string }>
  readonly now: number
}

const width = 100
/** Lines of the log, and operations of an apply, that are worth a screen. */
const logLines = 20
const operationsShown = 30

/** `3 s`, `12 min`, `5 h`, `4 d`. */
const duration = (millis: number): string => {
  const seconds = Math.max(0, Math.round(millis / 1000))
  if (seconds < 100) return `${seconds} s`
  const minutes = Math.round(seconds / 60)
  if (minutes < 100) return `${minutes} min`
  const hours = Math.round(minutes / 60)
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} d`
}

const clock = (at: DateTime.Utc): string => DateTime.formatIso(at).slice(0, 19).replace("T", " ")

/** Longer texts go on in lines of their own, below where they began. */
const wrapped = (text: string, indent: string): string => {
  const lines: Array<string> = []
  for (const word of text
    .replaceAll(/\s+/g, " ")
    .trim()
    .split(" ")
    .flatMap((one) => one.match(/.{1,90}/gu) ?? [])) {
    const last = lines.at(-1)
    if (last !== undefined && indent.length + last.length + 1 + word.length <= width)
      lines.splice(-1, 1, `${last} ${word}`)
    else lines.push(word)
  }
  return lines.map((line) => `${indent}${line}`).join("\n")
}

const item = (text: string): string => wrapped(text, "    ").replace(/^ {4}/, "  - ")

const section = (title: string, lines: ReadonlyArray<string>): string => [title, ...lines, ""].join("\n")

const head = ({ apiVersion, now, snapshot, version }: PageFacts): string => {
  const { error, history, since, spec, startTime, status, waitingFor } = snapshot
  const last = history.at(-1)
  const lines = [
    `compute_ctl ${version}: ${wireStatus(apiVersion, status)} for ${duration(now - since.epochMilliseconds)}, ` +
      `since ${clock(since)} UTC`,
    ...(error === null ? [] : [wrapped(error, "  ! ")]),
    ...(last === undefined
      ? []
      : [
          `  last change  ${wireStatus(apiVersion, last.from)} -> ${wireStatus(apiVersion, last.to)}`,
          wrapped(last.because, "               ")
        ]),
    `  started      ${clock(startTime)} UTC`,
    ...(waitingFor === null ? [] : [wrapped(waitingFor, "               ").replace(/^ {15}/, "  waits for    ")]),
    ...(spec?.tenant === undefined ? [] : [`  tenant       ${spec.tenant}`, `  timeline     ${spec.timeline}`])
  ]
  return `${lines.join("\n")}\n`
}

const conditions = ({ snapshot: { degraded, pendingRestart } }: PageFacts): string =>
  section("CONDITIONS", [
    ...(degraded.length === 0
      ? ["  none: everything is as it should be"]
      : degraded.map(({ about, code, message }) =>
          item(`${code}${about === undefined ? "" : ` (${about})`}: ${message}`)
        )),
    ...pendingRestart.map(({ current, name, wanted }) =>
      item(`${name} waits for a restart: it is ${current}, and will be ${wanted}`)
    )
  ])

const start = ({ snapshot }: PageFacts): string => {
  const { earlierStarts, metrics, steps } = snapshot
  const total = metrics.total_startup_ms === 0 ? "not finished" : `${metrics.total_startup_ms} ms in all`
  const earlier = earlierStarts.map(
    ({ millis, startedAt }) => `  ${startedAt.slice(0, 19).replace("T", " ")}  ${millis} ms`
  )
  const waterfall = waterfallText(`START, ${total}`, steps)
  return earlier.length === 0 ? waterfall : `${waterfall}\n${section("EARLIER STARTS", earlier)}`
}

const marks: Readonly<Record<Reason, string>> = {
  client: "c",
  walsender: "r",
  subscription: "s",
  autovacuum: "a",
  statistics: "t",
  hold: "h"
}
const legend = "c client, r replica, s subscription, a autovacuum, t statistics, h hold, + several, . idle"

const markOf = ({ reasons, served }: Minute): string => {
  const [first] = reasons
  return reasons.length > 1 ? "+" : first === undefined ? (served ? "." : " ") : marks[first]
}

const activity = ({ minutes, now, snapshot }: PageFacts): string => {
  const awake = reasonsAwake(snapshot.activity, snapshot.holds, now)
  const last = snapshot.lastActive
  return section("ACTIVITY, THE LAST HOUR", [
    `  |${minutes.map(markOf).join("")}|`,
    `  |${"-60 min".padEnd(minutesKept - 3)}now|`,
    `  ${legend}`,
    ...(awake.length === 0
      ? [last === null ? "  nobody has used it yet" : `  idle: last used ${duration(now - last.epochMilliseconds)} ago`]
      : awake.map((reason) => item(`awake: ${reason}`)))
  ])
}

const urgency: Readonly<Record<OperationReport["outcome"], number>> = { failed: 0, done: 1, skipped: 2 }

const operationText = ({
  action,
  database,
  hint,
  millis,
  object,
  outcome,
  reason,
  sqlState
}: OperationReport): string => {
  const where = database === null ? "" : ` in ${JSON.stringify(database)}`
  const why = [reason, sqlState === null ? null : `SQLSTATE ${sqlState}`, hint === null ? null : `hint: ${hint}`]
  const because = why.filter((part) => part !== null).join("; ")
  return item(`${outcome}: ${action} ${object}${where}, ${millis} ms${because === "" ? "" : `: ${because}`}`)
}

const applyText = (report: ApplyReport): ReadonlyArray<string> => {
  const { connections, kind, millis, operations, outcome, roundTrips, startedAt, statements } = report
  const count = (wanted: OperationReport["outcome"]) => operations.filter((one) => one.outcome === wanted).length
  // What there was nothing to do about says nothing new.
  const shown = operations
    .filter((one) => one.outcome !== "skipped")
    .toSorted((one, other) => urgency[one.outcome] - urgency[other.outcome])
  const more = shown.length - operationsShown
  return [
    `  ${kind}, ${outcome} in ${millis} ms, begun ${startedAt.slice(0, 19).replace("T", " ")} UTC`,
    `  ${count("done")} done, ${count("skipped")} skipped, ${count("failed")} failed; ` +
      `${connections} connections, ${roundTrips} round trips, ${statements} statements`,
    ...shown.slice(0, operationsShown).map(operationText),
    ...(more > 0 ? [`  and ${more} more: GET /apply`] : [])
  ]
}

const apply = ({ snapshot: { applyReport } }: PageFacts): string =>
  section("LAST APPLY", applyReport === null ? ["  nothing was applied yet"] : applyText(applyReport))

const log = (facts: PageFacts): string =>
  section(
    "LOG, THE LAST LINES",
    facts.log.length === 0
      ? ["  none"]
      : facts.log.slice(-logLines).map(({ at, level, message }) => {
          const line = `  ${at.slice(11, 23)} ${level.padStart(5)} ${message.replaceAll(/\s+/g, " ")}`
          return line.length > width ? `${line.slice(0, width - 1)}…` : line
        })
  )

export const pageText = (facts: PageFacts): string =>
  [head(facts), conditions(facts), start(facts), activity(facts), apply(facts), log(facts)].join("\n")
