/**
 * Where the archive of an extension is kept, in the words of both generations (reference section 10.2).
 */
import type { Dialect } from "./plan.ts"

export interface ArchivePlace {
  readonly dialect: Dialect
  /** An http(s) URL; slashes at its end do no harm. */
  readonly base: string
  readonly buildTag: string
  /** As Node says it: `x64`, `arm64`. */
  readonly arch: string
  readonly postgresMajor: number
}

/** Clouds' words for what Node and Rust call otherwise; others stay. */
const archName = (arch: string): string => arch === "x64" ? "amd64" : arch === "arm64" ? "arm64" : arch

export const archiveName = (extension: string): string => `${extension}.tar.zst`

export const archiveUrl = ({ arch, base, buildTag, dialect, postgresMajor }: ArchivePlace, extension: string): string =>
  [
    base.replace(/\/+$/, ""),
    ...[buildTag, ...(dialect === "head" ? [archName(arch)] : []), `v${postgresMajor}`, "extensions", archiveName(extension)]
      .map(encodeURIComponent)
  ].join("/")
