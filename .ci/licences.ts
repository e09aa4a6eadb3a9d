/**
 * What packages a bundle contains, for whoever passes it on: their licence texts, which most licences ask for, and the
 * list of them that scanners read (CycloneDX).
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

const manifestOf = (folder: string): Manifest =>
  JSON.parse(fs.readFileSync(`${folder}/package.json`, "utf8")) as Manifest

/** Fails for a package that brings no text: then somebody has to look. */
const describe = (folder: string): string => {
  const { license, name, version } = manifestOf(folder)
  const texts = fs.readdirSync(folder).filter(isLicence).sort()
  const own = texts.map((text) => fs.readFileSync(`${folder}/${text}`, "utf8").trim())
  if (own.length === 0) throw new Error(`${name} ${version} is in the bundle and brings no licence text`)
  return [`${name} ${version} (${license ?? "see below"})`, ...own].join("\n\n")
}

const rule = `\n\n${"-".repeat(80)}\n\n`

const foldersOf = (files: ReadonlyArray<string>): ReadonlyArray<string> =>
  [...new Set(files.map(packageOf).filter((folder) => folder !== null))].sort()

/** `files`: all that went into the bundles, absolute. */
export const licencesOf = (files: ReadonlyArray<string>): string => {
  const texts = foldersOf(files).map(describe)
  const head = `compute_ctl contains these ${texts.length} packages, each under its own licence.`
  return `${[head, ...texts].join(rule)}\n`
}

export const billOf = (files: ReadonlyArray<string>): string => {
  const packages = foldersOf(files).map(manifestOf)
  const components = packages.map(({ license, name, version }) => ({
    type: "library",
    name,
    version,
    purl: `pkg:npm/${name.replace("@", "%40")}@${version}`,
    ...(license === undefined ? {} : { licenses: [{ expression: license }] })
  }))
  return `${JSON.stringify({ bomFormat: "CycloneDX", specVersion: "1.6", version: 1, components }, null, 2)}\n`
}
