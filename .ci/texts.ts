/**
 * Puts the texts of the compute's page into the bundles, which read no files.
 */
import { type Plugin, transform } from "esbuild"
import * as path from "node:path"
import { pageTexts } from "../src/http/page/assets.ts"

const sources = path.resolve(import.meta.dirname, "../src")
const page = "http/page"

const minified = async (text: string, loader: "css" | "js"): Promise<string> =>
  (await transform(text, { loader, minify: true, target: "es2022" })).code.trim()

export const texts: Plugin = {
  name: "texts",
  setup(build) {
    build.onLoad({ filter: /assets\.ts$/ }, async ({ path: file }) => {
      if (file !== path.join(sources, page, "assets.ts")) return undefined
      const { html, script, style } = pageTexts()
      const small = {
        html: html.replaceAll(/^\s+/gm, ""),
        style: await minified(style, "css"),
        script: await minified(script, "js")
      }
      return { contents: `export const pageTexts = () => (${JSON.stringify(small)})`, loader: "ts" }
    })
  }
}
