/**
 * The start as a picture: each step a bar, placed and sized by when it passed and for how long. Text and HTML.
 */

/** Milliseconds since the start began. */
export interface Bar {
  readonly name: string
  readonly startedAt: number
  readonly millis: number
}

const width = 48

const span = (bars: ReadonlyArray<Bar>): number => bars.reduce((end, { millis, startedAt }) => Math.max(end, startedAt + millis), 1)

const draw = ({ millis, startedAt }: Bar, total: number): string => {
  const from = Math.min(width - 1, Math.max(0, Math.floor(startedAt / total * width)))
  const long = Math.max(1, Math.min(width - from, Math.round(millis / total * width)))
  return `${" ".repeat(from)}${"█".repeat(long)}`.padEnd(width)
}

/** For a terminal. `headline` stands above it. */
export const waterfallText = (headline: string, bars: ReadonlyArray<Bar>): string => {
  const total = span(bars)
  const names = bars.reduce((most, { name }) => Math.max(most, name.length), 0)
  const number = (millis: number): string => String(millis).padStart(String(total).length)
  const line = (bar: Bar): string =>
    `  ${bar.name.padEnd(names)} |${draw(bar, total)}| ${number(bar.startedAt)} + ${number(bar.millis)} ms`
  return [headline, "", ...(bars.length === 0 ? ["  no step has passed yet"] : bars.map(line)), ""].join("\n")
}

export const escapeHtml = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("\"", "&quot;")

/** What every page of ours looks like. `body` is HTML. */
export const page = (title: string, body: string): string =>
  `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escapeHtml(title)}</title>` +
  "<meta name=\"viewport\" content=\"width=device-width\"><style>body{font:15px/1.5 system-ui,sans-serif;margin:2em;max-width:72em}" +
  "table{border-collapse:collapse;width:100%}td,th{padding:.2em .6em;text-align:left;vertical-align:top;border-top:1px solid #8884}" +
  "code{font-family:ui-monospace,monospace}.bar{background:#8882;width:60%}.bar i{display:block;height:1em;background:#2a7}" +
  `td.ms{text-align:right}:root{color-scheme:light dark}</style><h1>${escapeHtml(title)}</h1>${body}</html>\n`

const percent = (part: number, total: number): string => (Math.max(0, part) / total * 100).toFixed(2)

/** For a browser. */
export const waterfallPage = (headline: string, bars: ReadonlyArray<Bar>): string => {
  const total = span(bars)
  const rows = bars.map(({ millis, name, startedAt }) =>
    `<tr><td>${escapeHtml(name)}<td class="bar"><i style="margin-left:${percent(startedAt, total)}%;` +
    `width:max(2px,${percent(millis, total)}%)"></i><td class="ms">${millis} ms`)
  return page("Start of this compute", `<p>${escapeHtml(headline)}</p><table>${rows.join("")}</table>`)
}
