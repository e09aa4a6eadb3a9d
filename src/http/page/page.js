/**
 * The page's script, last part: follows the stream of statuses, asks for the rest when something changed and now and
 * then, and keeps the token.
 */
import { activityOf } from "./activity.js"
import { ask, byId, memory, read, Refused, show, tick } from "./dom.js"
import { applyOf, conditionsOf, lifeOf, logOf, markDiagram, showHead, startOf } from "./sections.js"

/** @typedef {import("./sections.js").StatusBody} StatusBody */
/** @typedef {import("./sections.js").HistoryBody} HistoryBody */
/** @typedef {import("./sections.js").ConditionsBody} ConditionsBody */
/** @typedef {import("./sections.js").LogBody} LogBody */
/** @typedef {import("./activity.js").Actions} Actions */

/** Between two looks at what the stream does not tell, while the page is looked at. */
const lookEvery = 5_000
/** The stream says at least this often that it lives. */
const silence = 40_000

/** @type {{ status: StatusBody | null, history: HistoryBody | null, conditions: ConditionsBody | null }} */
const known = { status: null, history: null, conditions: null }

/** @param {number} millis */
const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis))

/** @param {"live" | "lost" | "waiting"} state @param {string} text */
const say = (state, text) => {
  const link = byId("link")
  link.dataset["state"] = state
  if (link.textContent !== text) link.textContent = text
}

// -- the token -----------------------------------------------------------------------------------------------------------

/** @type {() => void} */
let onToken = () => undefined

/** @param {unknown} error @returns {error is Refused} */
const asksForToken = (error) => error instanceof Refused && error.code.startsWith("token_")

/** Shows the form, and waits until there is another token. @param {Refused} refused */
const waitForToken = async (refused) => {
  const section = byId("token-section")
  byId("token-why").textContent =
    memory.token === null
      ? "This compute answers to whoever has one."
      : `The one that was given is refused: ${refused.message}.`
  memory.token = null
  byId("content").hidden = true
  byId("forget").hidden = true
  byId("status-name").textContent = "needs a token"
  say("waiting", "waits for a token")
  if (section.hidden) {
    section.hidden = false
    byId("token").focus()
  }
  await new Promise((resolve) => (onToken = () => resolve(undefined)))
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault()
  const input = byId("token")
  if (!(input instanceof HTMLInputElement)) return
  memory.token = input.value.trim().replace(/^bearer\s+/i, "")
  input.value = ""
  onToken()
})

/** The reader of the stream, so that it can be ended from outside. */
let reading = new AbortController()

byId("forget").addEventListener("click", () => {
  memory.token = null
  // Nothing that was shown with it stays.
  for (const id of ["since", "vitals", "error"]) show(byId(id), null, () => [])
  for (const body of document.querySelectorAll("#content .body")) show(body, null, () => [])
  Object.assign(known, { status: null, history: null, conditions: null })
  byId("status-name").textContent = "…"
  byId("status").dataset["tone"] = "unknown"
  document.title = "compute"
  reading.abort()
})

// -- what is shown ---------------------------------------------------------------------------------------------------------

/** @type {Actions} */
const actions = {
  hold: () => {
    const body = JSON.stringify({ reason: "asked for on the compute's page", ttl_seconds: 3_600 })
    void act("/holds", { method: "POST", headers: { "content-type": "application/json" }, body })
  },
  release: (id) => void act(`/holds/${encodeURIComponent(id)}`, { method: "DELETE" })
}

/** @param {string} path @param {RequestInit} init */
const act = async (path, init) => {
  try {
    await ask(path, init)
    await refresh()
  } catch (error) {
    say("live", error instanceof Error ? error.message : String(error))
  }
}

/** @param {string} section */
const bodyOf = (section) => document.querySelector(`#${section} .body`) ?? byId(section)

/** @param {LogBody} log */
const showLog = (log) => {
  const list = document.querySelector("#log .log")
  // One that was never seen has no height.
  const atEnd = list === null || list.clientHeight === 0 || list.scrollTop + list.clientHeight >= list.scrollHeight - 8
  const top = list?.scrollTop ?? 0
  show(bodyOf("log"), log, () => logOf(log))
  // Wherever it was shown before: the last lines are what is looked for.
  const fresh = document.querySelector("#log .log")
  if (fresh !== null) fresh.scrollTop = atEnd ? fresh.scrollHeight : top
}

/** @param {Promise<any>} answer */
const orNull = async (answer) => {
  try {
    return await answer
  } catch (error) {
    if (asksForToken(error)) throw error
    return null
  }
}

const refreshNow = async () => {
  const paths = ["/history", "/conditions", "/timeline", "/activity", "/apply", "/log", "/info"]
  const asked = memory.token
  const [history, conditions, timeline, activity, apply, log, info] = await Promise.all(
    paths.map((path) => orNull(read(path)))
  )
  if (known.status === null || memory.token !== asked) return
  const allowed = memory.token === null ? null : actions
  if (history !== null) {
    known.history = history
    markDiagram(history)
    show(bodyOf("life"), history.changes, () => lifeOf(history))
  }
  if (conditions !== null) {
    known.conditions = conditions
    const { status } = known.status
    show(bodyOf("conditions"), [conditions, status], () => conditionsOf(conditions, status))
  }
  if (timeline !== null) show(bodyOf("start"), timeline, () => startOf(timeline))
  if (activity !== null) {
    known.status = { ...known.status, last_active: activity.last_active }
    show(bodyOf("activity"), [activity, allowed !== null], () => activityOf(activity, allowed))
  }
  show(bodyOf("apply"), apply, () => applyOf(apply))
  showHead(known.status, known.conditions, known.history)
  byId("content").hidden = false
  byId("forget").hidden = memory.token === null
  if (log !== null) showLog(log)
  if (info !== null) {
    const postgres = info.postgres_version === null ? "" : `, Postgres ${info.postgres_version}`
    byId("version").textContent = `compute_ctl ${info.version}${postgres}.`
  }
}

/** @type {Promise<void> | null} */
let refreshing = null
let again = false

/** One at a time; whoever asks meanwhile gets another one after it. @returns {Promise<void>} */
const refresh = async () => {
  again = true
  refreshing ??= (async () => {
    try {
      while (again) {
        again = false
        await refreshNow()
      }
    } catch {
      // The stream meets the same, and says so.
    } finally {
      refreshing = null
    }
  })()
  await refreshing
}

// -- the stream ------------------------------------------------------------------------------------------------------------

/** @param {string} event */
const onEvent = (event) => {
  const data = event
    .split("\n")
    .filter((line) => line.startsWith("data:"))
    .map((line) => line.slice(5).trim())
    .join("\n")
  if (data === "") return
  /** @type {StatusBody} */
  const status = JSON.parse(data)
  known.status = status
  byId("token-section").hidden = true
  showHead(status, known.conditions, known.history)
  void refresh()
}

/** Until the stream ends, or says nothing for too long. */
const readStream = async () => {
  reading = new AbortController()
  const { signal } = reading
  const response = await ask("/status/stream", { headers: { accept: "text/event-stream" }, signal })
  if (response.body === null) return
  say("live", "live")
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let text = ""
  for (;;) {
    const timer = setTimeout(() => reading.abort(), silence)
    const { done, value } = await reader.read().finally(() => clearTimeout(timer))
    if (done) return
    const events = (text + value).split("\n\n")
    text = events.pop() ?? ""
    for (const event of events) onEvent(event)
  }
}

const follow = async () => {
  for (let failures = 0; ;) {
    try {
      await readStream()
      failures = 0
    } catch (error) {
      if (asksForToken(error)) {
        await waitForToken(error)
        continue
      }
      if (error instanceof Refused) say("lost", error.message)
    }
    if (known.status?.status === "terminated") say("lost", "this compute has ended")
    else if (!reading.signal.aborted) say("lost", "the connection is lost; trying again")
    // Tokens are forgotten in the middle of a stream.
    if (!reading.signal.aborted) await pause(Math.min(10_000, 500 * 2 ** failures++))
  }
}

const look = async () => {
  for (;;) {
    await pause(lookEvery)
    tick()
    if (known.status !== null && document.visibilityState === "visible") await refresh()
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && known.status !== null) void refresh()
})

byId("host").textContent = location.host
say("waiting", "connecting")
void follow()
void look()
