/**
 * Keeps web pages from using a listener that asks for no tokens. A browser on this machine, or in this network,
 * reaches what strangers cannot, and any page may have it send a request here. Browsers say where a request comes from;
 * programs (curl, the reference's clients, Postgres) say nothing of it, and pass.
 *
 * Three ways in, three signs: a request for another site (`Sec-Fetch-Site`), a form or script of another origin
 * (`Origin`), and a name of a stranger's that was made to mean our address (`Host`; DNS rebinding). Pure.
 */
import type { IncomingHttpHeaders, IncomingMessage } from "node:http"
import { isIP } from "node:net"
import { type Refusal, refusal } from "./refusals.ts"

/** A request, as far as it matters here. */
export interface Asking {
  readonly headers: IncomingHttpHeaders
  readonly method?: string | undefined
  readonly socket: { readonly remoteAddress?: string | undefined }
}

const crossSite = refusal(
  403,
  "cross_site",
  "this request comes from a web page of another site",
  "this listener asks for no token, so that it answers programs and its own pages only"
)
const foreignHost = refusal(
  403,
  "host_unknown",
  "this listener does not answer to the name in the Host header",
  "use an address or localhost, or start compute_ctl with --http-allowed-host NAME"
)

/** The name or address of `name:port`, in lower case and without brackets; `null`: it is none. */
const nameOf = (host: string): string | null => {
  const name = /^(?:\[([0-9a-f:.]+)\]|([^\s:/?#@[\]\\]+))(?::\d{1,5})?$/i.exec(host)
  return (name?.[1] ?? name?.[2] ?? null)?.toLowerCase().replace(/\.$/, "") ?? null
}

/** Nobody else can make these mean our address, or they are ours by configuration. */
const isOurName = (name: string, allowed: ReadonlySet<string>): boolean =>
  name === "localhost" || name.endsWith(".localhost") || isIP(name) !== 0 || allowed.has(name)

/** Origins are compared as the host and port of a URL of the origin's own scheme, which may leave its port out. */
const isOurOrigin = (origin: string, host: string | undefined, allowed: ReadonlySet<string>): boolean => {
  const from = URL.parse(origin)
  if (from === null || (from.protocol !== "http:" && from.protocol !== "https:")) return false
  return allowed.has(from.hostname) || from.host === URL.parse(`${from.protocol}//${host ?? ""}`)?.host
}

/** Somebody follows a link, or opens a bookmark: the page that shows then is ours, and nothing is changed. */
const isNavigation = ({ headers, method }: Asking): boolean =>
  (method === "GET" || method === "HEAD") &&
  headers["sec-fetch-mode"] === "navigate" &&
  headers["sec-fetch-dest"] === "document"

/** Why a request is not answered without a token; `null`: it is. `allowed` are names in lower case. */
export const webPageRefusal = (request: Asking, allowed: ReadonlySet<string>): Refusal | null => {
  const { headers } = request
  const { host, origin } = headers
  const site = headers["sec-fetch-site"]
  const name = host === undefined ? null : nameOf(host)
  // Without any Host it is HTTP/1.0, which no browser speaks.
  if (host !== undefined && (name === null || !isOurName(name, allowed))) return foreignHost
  if (site !== undefined && site !== "same-origin" && site !== "none" && !isNavigation(request)) return crossSite
  return origin === undefined || isOurOrigin(origin, host, allowed) ? null : crossSite
}

/** One is where the request goes, the other where a proxy or a filter before us believed it went. */
export const hasTwoHosts = ({ rawHeaders }: Pick<IncomingMessage, "rawHeaders">): boolean => {
  let hosts = 0
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]
    if (name?.length === 4 && name.toLowerCase() === "host") hosts += 1
  }
  return hosts > 1
}

/** Is the other side a program of this machine, and not somebody whose request a proxy passes on? */
export const isThisMachine = ({ headers, socket }: Asking): boolean =>
  headers.forwarded === undefined &&
  headers["x-forwarded-for"] === undefined &&
  /^(?:::ffff:)?127\.|^::1$/.test(socket.remoteAddress ?? "")
