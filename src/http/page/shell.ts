/**
 * The page without its data, as a browser gets it: markup, style, script and the drawing of the life, in one answer
 * that needs no other and may load none. What it shows it asks for, with the token that its reader gives it.
 */
import * as Crypto from "node:crypto"
import { pageTexts } from "./assets.ts"
import { diagramSvg } from "./diagram.ts"

export interface Shell {
  readonly html: string
  readonly headers: Readonly<Record<string, string>>
}

const hashOf = (text: string): string => `'sha256-${Crypto.createHash("sha256").update(text).digest("base64")}'`

/** Only this very script and this very style, and requests to where the page came from. */
const policyOf = (style: string, script: string): string =>
  [
    "default-src 'none'",
    `script-src ${hashOf(script)}`,
    `style-src ${hashOf(style)}`,
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'"
  ].join("; ")

const make = (): Shell => {
  const { html, script, style } = pageTexts()
  const label = "The statuses of a compute and the changes between them"
  const parts: Readonly<Record<string, string>> = {
    style: `<style>${style}</style>`,
    script: `<script>${script}</script>`,
    diagram: diagramSvg("wide", label) + diagramSvg("tall", label)
  }
  return {
    html: html.replaceAll(/<!--(\w+)-->/g, (comment, name: string) => parts[name] ?? comment),
    headers: {
      "content-security-policy": policyOf(style, script),
      "cache-control": "no-store",
      "cross-origin-opener-policy": "same-origin",
      "cross-origin-resource-policy": "same-origin",
      "permissions-policy": "camera=(), geolocation=(), microphone=(), usb=()",
      "referrer-policy": "no-referrer",
      vary: "accept",
      "x-content-type-options": "nosniff",
      "x-frame-options": "DENY"
    }
  }
}

let made: Shell | undefined

/** Made once, at the first request for it. */
export const shell = (): Shell => (made ??= make())
