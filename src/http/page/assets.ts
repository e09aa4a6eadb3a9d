/**
 * The texts that the page is made of, read when they are first asked for. The bundle has them in it: `.ci/texts.ts` puts
 * them in this file's place.
 */
import * as FS from "node:fs"
import * as Path from "node:path"

/** Scripts are one program in this order. */
export const scripts = ["dom.js", "sections.js", "page.js"] as const

export type Asset = "page.html" | "page.css" | (typeof scripts)[number]

export const readAsset = (name: Asset): string => FS.readFileSync(Path.join(import.meta.dirname, name), "utf8")
