/**
 * The licence texts of all packages that a bundle contains, for whoever passes it on: most licences ask for that.
 */
import * as fs from "node:fs"
import * as path from "node:path"

/** The folder of the package that a bundled file is from; `null`: it is ours. */
const packageOf = (file: string): string | null =>
  /^(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(file.replaceAll(path.sep, "/"))?.[1] ?? null

const isLicence = (name: string): boolean => /^(licen[cs]e|copying|notice)\b/i.test(name)

interface Manifest {
  readonly name: string
  readonly version: string
  readonly license?: string
}

/** Fails for a package that brings no text: then somebody has to look. */
const describe = (folder: string): string => {
  const { license, name, version } = JSON.parse(fs.readFileSync(`${folder}/package.json`, "utf8")) as Manifest
  const texts = fs.readdirSync(folder).filter(isLicence).sort()
  const own = texts.map((text) => fs.readFileSync(`${folder}/${text}`, "utf8").trim())
  if (own.length === 0) throw new Error(`${name} ${version} is in the bundle and brings no licence text`)
  return [`${name} ${version} (${license ?? "see below"})`, ...own].join("\n\n")
}

const rule = `\n\n${"-".repeat(80)}\n\n`

/** `files`: all that went into the bundles, absolute. */
export const licencesOf = (files: ReadonlyArray<string>): string => {
  const folders = new Set(files.map(packageOf).filter((folder) => folder !== null))
  const texts = [...folders].sort().map(describe)
  const head = `compute_ctl contains these ${texts.length} packages, each under its own licence.`
  return `${[head, ...texts].join(rule)}\n`
}
