/**
 * What the spec says about extensions that are fetched, from the wire's words. Whether one may be had is a plan's
 * question (`plan/outfit/remoteExtensions.ts`).
 */
import type { RemoteExtensionsWire } from "./ExtensionSpec.ts"
import type { RemoteExtensionList } from "./ParsedSpec.ts"

const setOf = (names: ReadonlyArray<string> | null | undefined): ReadonlySet<string> | null => names == null ? null : new Set(names)

export const readRemoteExtensions = (wire: RemoteExtensionsWire | null): RemoteExtensionList | null =>
  wire === null ? null : {
    public: setOf(wire.public_extensions),
    custom: setOf(wire.custom_extensions),
    libraries: new Map(Object.entries(wire.library_index)),
    extensions: new Map(Object.entries(wire.extension_data).map(([name, one]) => [name, {
      controlFiles: new Map(Object.entries(one.control_data)),
      sha256: one.sha256?.toLowerCase() ?? null
    }]))
  }
