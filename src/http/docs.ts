/**
 * The human page of the API, made from the document that machines read. One small page, no scripts.
 */
import type { OpenAPISpec } from "effect/http-api/OpenApi"
import { escapeHtml, page } from "./waterfall.ts"

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
      return operation === undefined ? [] : [
        `<tr><td>${method.toUpperCase()}<td><code>${escapeHtml(path)}</code><td>${summaryOf(operation)}` +
        `<td>${tokenOf(operation)}<td>${answersOf(operation)}`
      ]
    }))
  return page(
    `${spec.info.title}: the HTTP API`,
    `<p>${escapeHtml(spec.info.description ?? "")} Shapes of bodies: <a href="/openapi.json">/openapi.json</a>. Every answer that is ` +
      "not 2xx is <code>{\"error\", \"code\", \"hint\"}</code>; codes are stable.</p>" +
      `<table><tr><th>Method<th>Route<th>What it does<th>Needs<th>Answers</tr>${rows.join("")}</table>`
  )
}
