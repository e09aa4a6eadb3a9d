/**
 * Which extensions may be fetched, which files announce them, and which must be there before Postgres starts
 * (docs/reference/compute_ctl.md#remote-extension-lookup and
 * docs/reference/compute_ctl.md#remote-extensions-at-a-start). Fetches nothing.
 *
 * What may be announced is what may be fetched: `CREATE EXTENSION` must not offer an extension
 * that cannot be had.
 */
import * as Result from "effect/Result"
import { ExtensionUnknown } from "../errors/Failure.ts"
import { readConf, readList } from "../postgres/confText.ts"
import { type ApiVersion, type ParsedSpec, type RemoteExtensionList, settingOf } from "../spec/ParsedSpec.ts"

export interface WantedExtension {
  readonly extension: string
  readonly sha256: string | null
}

/** The older generation takes a missing list for "everything"; the newer one for "nothing". */
export const isAllowed = (extension: string, list: RemoteExtensionList, apiVersion: ApiVersion): boolean =>
  apiVersion === "2024"
    ? (list.public?.has(extension) ?? true) || (list.custom?.has(extension) ?? true)
    : (list.public?.has(extension) ?? false) || (list.custom?.has(extension) ?? false)

/** `hypothetical` of `hypothetical.so` and `hypothetical.so.1.2`. */
const libraryName = (asked: string): string => asked.replace(/\.so.*$/s, "")

const unknown = (asked: string, detail: string) => Result.fail(new ExtensionUnknown({ asked, detail }))

export const findExtension = (
  asked: string,
  isLibrary: boolean,
  list: RemoteExtensionList,
  apiVersion: ApiVersion
): Result.Result<WantedExtension, ExtensionUnknown> => {
  const library = libraryName(asked)
  const extension = isLibrary ? list.libraries.get(library) : asked
  if (extension === undefined) return unknown(asked, `library ${library} is not found`)
  if (!isAllowed(extension, list, apiVersion)) return unknown(asked, `extension ${extension} is not found`)
  const known = list.extensions.get(extension)
  return known === undefined
    ? unknown(asked, `real_ext_name ${extension} is not found`)
    : Result.succeed({ extension, sha256: known.sha256 })
}

export interface ControlFile {
  /** Whose it is. */
  readonly extension: string
  readonly name: string
  readonly text: string
}

export const controlFiles = (list: RemoteExtensionList, apiVersion: ApiVersion): ReadonlyArray<ControlFile> =>
  [...list.extensions]
    .filter(([extension]) => isAllowed(extension, list, apiVersion))
    .flatMap(([extension, { controlFiles }]) => [...controlFiles].map(([name, text]) => ({ extension, name, text })))

/** Libraries of the image itself, whatever the index says. */
const ownLibraries: Record<ApiVersion, ReadonlySet<string>> = {
  "2024": new Set(["neon"]),
  head: new Set(["neon", "databricks_auth"])
}

const setting = "shared_preload_libraries"

/** Libraries that the configuration names, in both places: Postgres would not start without them. */
const preloaded = (spec: ParsedSpec): ReadonlyArray<string> =>
  [
    ...readList(settingOf(spec.settings, setting) ?? ""),
    ...readList(readConf(spec.postgresqlConf ?? "").findLast(({ name }) => name === setting)?.value ?? "")
  ].map((name) =>
    name
      .replace(/^'|'$/g, "")
      .replace(/^\$libdir\//, "")
      .trim()
  )

/** The preloaded libraries that have to be fetched: the index knows them. */
export const librariesToFetch = (
  spec: ParsedSpec,
  list: RemoteExtensionList,
  apiVersion: ApiVersion
): ReadonlyArray<string> =>
  [...new Set(preloaded(spec))].filter((name) => list.libraries.has(name) && !ownLibraries[apiVersion].has(name))

// -- archives (docs/reference/compute_ctl.md#remote-extension-urls)

export interface ArchiveLocation {
  readonly apiVersion: ApiVersion
  /** An http(s) URL; slashes at its end do no harm. */
  readonly base: string
  readonly buildTag: string
  /** As Node says it: `x64`, `arm64`. */
  readonly arch: string
  readonly postgresMajor: number
}

/** Clouds' words for what Node and Rust call otherwise; others stay. */
const archName = (arch: string): string => (arch === "x64" ? "amd64" : arch === "arm64" ? "arm64" : arch)

export const archiveName = (extension: string): string => `${extension}.tar.zst`

export const archiveUrl = (
  { arch, base, buildTag, apiVersion, postgresMajor }: ArchiveLocation,
  extension: string
): string =>
  [
    base.replace(/\/+$/, ""),
    ...[
      buildTag,
      ...(apiVersion === "head" ? [archName(arch)] : []),
      `v${postgresMajor}`,
      "extensions",
      archiveName(extension)
    ].map(encodeURIComponent)
  ].join("/")
