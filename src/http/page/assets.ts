/**
 * The texts that the page is made of, read when it is first asked for. The bundle has them in it: `.ci/texts.ts` puts
 * them in this file's place.
 */
import * as FS from "node:fs"
import * as Path from "node:path"

export interface PageTexts {
  readonly html: string
  readonly style: string
  readonly script: string
}

const read = (name: string): string => FS.readFileSync(Path.join(import.meta.dirname, name), "utf8")

/** The parts of the script, in the order in which they need each other. */
const parts = ["dom.js", "sections.js", "activity.js", "page.js"]

/** A module as a part of one script: names are there without being imported. */
const asPart = (module: string): string =>
  module.replaceAll(/^import [^]*?from ".*"$/gm, "").replaceAll(/^export /gm, "")

export const pageTexts = (): PageTexts => ({
  html: read("page.html"),
  style: read("page.css"),
  script: `"use strict";{${parts.map((name) => asPart(read(name))).join("\n")}}`
})
