/**
 * The page's script, first part: elements, words for times, and requests. All text of others becomes text nodes; no
 * markup is ever made of it.
 *
 * Modules to whoever checks them; to the browser one script (`shell.ts`), so no name may occur twice in them.
 */

/** @typedef {Node | string | null | ReadonlyArray<Node | string | null>} Child */
/** @typedef {Readonly<Record<string, string | number | boolean | ((event: Event) => void)>>} Attributes */

/** @param {ParentNode} parent @param {ReadonlyArray<Child>} children */
const put = (parent, children) => {
  for (const child of children.flat()) if (child !== null) parent.append(child)
}

/**
 * An element. A function is a listener, `true` an attribute without a value.
 *
 * @param {string} tag @param {Attributes} attributes @param {ReadonlyArray<Child>} children
 * @returns {HTMLElement}
 */
export const h = (tag, attributes, ...children) => {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value)
    else if (value !== false) element.setAttribute(name, value === true ? "" : String(value))
  }
  put(element, children)
  return element
}

/** @param {string} tag @param {Readonly<Record<string, string | number>>} attributes @param {ReadonlyArray<Node>} children */
export const svg = (tag, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value))
  element.append(...children)
  return element
}

/** A table that becomes a list of cards where there is no room for columns. */
export const table = (
  /** @type {string} */ caption,
  /** @type {ReadonlyArray<string>} */ columns,
  /** @type {ReadonlyArray<{ cells: ReadonlyArray<Child>, tone?: string }>} */ rows,
  /** @type {string} */ kind = ""
) =>
  h(
    "table",
    { class: kind },
    h("caption", { class: "hidden" }, caption),
    h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, name)))),
    h(
      "tbody",
      {},
      ...rows.map(({ cells, tone = "" }) =>
        h(
          "tr",
          { "data-tone": tone },
          ...cells.map((cell, index) =>
            index === 0
              ? h("th", { scope: "row" }, cell)
              : h(
                  "td",
                  { "data-label": columns[index] ?? "", class: cell === null ? "none" : "" },
                  h("span", {}, cell ?? "–")
                )
          )
        )
      )
    )
  )

/** @param {string} id @returns {HTMLElement} */
export const byId = (id) => {
  const element = document.getElementById(id)
  if (element === null) throw new Error(`the page has no ${id}`)
  return element
}

// -- words -----------------------------------------------------------------------------------------------------------

/** @param {number} count @param {string} one @param {string} more */
export const counted = (count, one, more) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`

/** `3 s`, `12 min`, `5 h`, `4 d`. @param {number} millis */
export const duration = (millis) => {
  const seconds = Math.max(0, Math.round(millis / 1000))
  if (seconds < 100) return `${seconds} s`
  const minutes = Math.round(seconds / 60)
  if (minutes < 100) return `${minutes} min`
  const hours = Math.round(minutes / 60)
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} d`
}

/** @param {number} millis */
export const elapsed = (millis) => (millis < 10_000 ? `${Math.round(millis)} ms` : `${(millis / 1000).toFixed(1)} s`)

/** `14:03:22`, with its day unless that is today. @param {string} iso */
export const clock = (iso) => {
  const at = new Date(iso)
  if (Number.isNaN(at.getTime())) return iso
  const text = at.toISOString()
  const today = new Date().toISOString().slice(0, 10)
  return text.startsWith(today) ? text.slice(11, 19) : `${text.slice(0, 10)} ${text.slice(11, 19)}`
}

/** How long ago, kept true by `tick`. @param {string} iso @param {"ago" | "for"} kind */
export const relative = (iso, kind) => h("time", { datetime: iso, title: iso, "data-relative": kind }, since(iso, kind))

/** @param {string} iso @param {string | undefined} kind */
const since = (iso, kind) => {
  const text = duration(Date.now() - new Date(iso).getTime())
  return kind === "ago" ? `${text} ago` : `for ${text}`
}

export const tick = () => {
  for (const element of document.querySelectorAll("time[data-relative]")) {
    if (!(element instanceof HTMLTimeElement)) continue
    const text = since(element.dateTime, element.dataset["relative"])
    if (element.textContent !== text) element.textContent = text
  }
}

/** `configuration pending`. @param {string} status */
export const words = (status) => status.replaceAll("_", " ")

// -- parts of the page that change -------------------------------------------------------------------------------------

/** What each part was last made of. @type {Map<Element, string>} */
const shown = new Map()

/** @param {Element} part @returns {Array<HTMLElement>} */
const keyed = (part) => [.../** @type {NodeListOf<HTMLElement>} */ (part.querySelectorAll("[data-key]"))]

/**
 * Makes a part anew when what it shows has changed. What is open stays open, what is scrolled to and what has the focus
 * stays where it is.
 *
 * @param {Element} part @param {unknown} data @param {() => ReadonlyArray<Child>} make
 */
export const show = (part, data, make) => {
  const text = JSON.stringify(data)
  if (shown.get(part) === text) return
  shown.set(part, text)
  const before = new Map(keyed(part).map((element) => [element.dataset["key"], element]))
  const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset["key"] : undefined
  part.replaceChildren()
  put(part, make())
  for (const element of keyed(part)) {
    const old = before.get(element.dataset["key"])
    if (old instanceof HTMLDetailsElement && element instanceof HTMLDetailsElement) element.open = old.open
    if (element.dataset["key"] === focused) element.focus({ preventScroll: true })
  }
}

// -- requests --------------------------------------------------------------------------------------------------------

/** An answer that is not the one hoped for. */
export class Refused extends Error {
  /** @param {number} status @param {string} code @param {string} message */
  constructor(status, code, message) {
    super(message)
    this.status = status
    this.code = code
  }
}

/** Only here, never in storage, an address or a cookie. @type {{ token: string | null }} */
export const memory = { token: null }

/** @param {string} path @param {RequestInit} init */
export const ask = async (path, init = {}) => {
  const headers = new Headers(init.headers)
  if (memory.token !== null) headers.set("authorization", `Bearer ${memory.token}`)
  const response = await fetch(path, { cache: "no-store", credentials: "omit", redirect: "error", ...init, headers })
  if (response.ok) return response
  const body = await response.json().catch(() => null)
  throw new Refused(response.status, body?.code ?? "", body?.error ?? `the answer was ${response.status}`)
}

/** @param {string} path */
export const read = async (path) => (await ask(path, { headers: { accept: "application/json" } })).json()
