/**
 * The pages that a person reads: the start as a waterfall (each step a bar, placed by when it began and sized by how
 * long it took; text for a terminal, HTML for a browser) and the API's documentation. No scripts. Pure.
 */
import type { OpenAPISpec } from "effect/http-api/OpenApi"

/** Milliseconds since the start began. */
interface Bar {
  readonly name: string
  readonly startedAt: number
  readonly millis: number
}

const width = 48

const span = (bars: ReadonlyArray<Bar>): number =>
  bars.reduce((end, { millis, startedAt }) => Math.max(end, startedAt + millis), 1)

const draw = ({ millis, startedAt }: Bar, total: number): string => {
  const from = Math.min(width - 1, Math.max(0, Math.floor((startedAt / total) * width)))
  const long = Math.max(1, Math.min(width - from, Math.round((millis / total) * width)))
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

const escapeHtml = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;")

/** What every page of ours looks like. `body` is HTML. */
const page = (title: string, body: string): string =>
  `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escapeHtml(title)}</title>` +
  '<meta name="viewport" content="width=device-width"><style>' +
  "body{font:15px/1.5 system-ui,sans-serif;margin:2em;max-width:72em}" +
  "table{border-collapse:collapse;width:100%}" +
  "td,th{padding:.2em .6em;text-align:left;vertical-align:top;border-top:1px solid #8884}" +
  "code{font-family:ui-monospace,monospace}.bar{background:#8882;width:60%}" +
  ".bar i{display:block;height:1em;background:#2a7}" +
  `td.ms{text-align:right}:root{color-scheme:light dark}</style><h1>${escapeHtml(title)}</h1>${body}</html>\n`

const percent = (part: number, total: number): string => ((Math.max(0, part) / total) * 100).toFixed(2)

/** For a browser. */
export const waterfallPage = (headline: string, bars: ReadonlyArray<Bar>): string => {
  const total = span(bars)
  const rows = bars.map(
    ({ millis, name, startedAt }) =>
      `<tr><td>${escapeHtml(name)}<td class="bar"><i style="margin-left:${percent(startedAt, total)}%;` +
      `width:max(2px,${percent(millis, total)}%)"></i><td class="ms">${millis} ms`
  )
  return page("Start of this compute", `<p>${escapeHtml(headline)}</p><table>${rows.join("")}</table>`)
}

// -- /docs, made from the document that machines read --------------------------------------------------------------

const summaryOf = (operation: { readonly summary?: string | undefined }): string => escapeHtml(operation.summary ?? "")

const answersOf = (operation: { readonly responses: object }): string => Object.keys(operation.responses).join(" ")

const tokenOf = (operation: { readonly security?: ReadonlyArray<object> | undefined }): string =>
  (operation.security ?? []).length === 0 ? "" : "token"

const methods = ["get", "post", "put", "delete", "patch"] as const

/** One row per route, in the order of the declaration. */
export const docsPage = (spec: OpenAPISpec): string => {
  const rows = Object.entries(spec.paths).flatMap(([path, item]) =>
    methods.flatMap((method) => {
      const operation = item[method]
      return operation === undefined
        ? []
        : [
            `<tr><td>${method.toUpperCase()}<td><code>${escapeHtml(path)}</code><td>${summaryOf(operation)}` +
              `<td>${tokenOf(operation)}<td>${answersOf(operation)}`
          ]
    })
  )
  return page(
    `${spec.info.title}: the HTTP API`,
    `<p>${escapeHtml(spec.info.description ?? "")} Shapes of bodies: <a href="/openapi.json">/openapi.json</a>. ` +
      'Every answer that is not 2xx is <code>{"error", "code", "hint"}</code>; codes are stable.</p>' +
      `<table><tr><th>Method<th>Route<th>What it does<th>Needs<th>Answers</tr>${rows.join("")}</table>`
  )
}
