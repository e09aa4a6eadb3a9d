/**
 * What a parsed spec holds about extensions, the host, and the local file cache.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import { inspect } from "node:util"
import { specOf, problemLines, fixtures, least } from "../support/fixtures.ts"

const withExtensions = (data: Readonly<Record<string, unknown>>, more: Readonly<Record<string, unknown>> = {}) => ({
  ...least,
  remote_extensions: { library_index: {}, extension_data: data, ...more }
})
const entry = { control_data: {}, archive_path: "unused" }

describe("remote extensions", () => {
  it("are read as they are sent", () => {
    const list = specOf(fixtures.cloud2024, "neon").remoteExtensions
    assert.deepStrictEqual([...(list?.public ?? [])], ["hypothetical"])
    assert.isNull(list?.custom)
    assert.deepStrictEqual([...(list?.libraries ?? [])], [["hypothetical", "hypothetical"]])
    assert.strictEqual(
      list?.extensions.get("hypothetical")?.controlFiles.get("hypothetical.control"),
      "default_version = '1.0'"
    )
  })

  it("may carry a digest, which is checked for shape", () => {
    const digest = "AB".repeat(32)
    const list = specOf(withExtensions({ x: { ...entry, sha256: digest } }), "local").remoteExtensions
    assert.strictEqual(list?.extensions.get("x")?.sha256, digest.toLowerCase())
    assert.isNull(specOf(withExtensions({ x: entry }), "local").remoteExtensions?.extensions.get("x")?.sha256)
    assert.match(
      problemLines(withExtensions({ x: { ...entry, sha256: "short" } }), "local").join(),
      /64 hexadecimal digits/
    )
  })

  it.each(["../x.control", "/etc/x", "a/b", "..", "", "a\0b"])("cannot name a file %j", (name) => {
    assert.match(
      problemLines(withExtensions({ x: { ...entry, control_data: { [name]: "" } } }), "local").join(),
      /the plain name of a file/
    )
    assert.match(problemLines(withExtensions({ [name]: entry }), "local").join(), /the name of an extension/)
  })
})

describe("fields for the host and the local file cache", () => {
  it("is read, and absent without being said", () => {
    const spec = specOf(
      {
        ...least,
        swap_size_bytes: 1024,
        disk_quota_bytes: 2048,
        endpoint_storage_addr: "store:1",
        endpoint_storage_token: "canary",
        autoprewarm: true,
        offload_lfc_interval_seconds: 60
      },
      "local"
    )
    assert.deepInclude(spec, {
      swapSizeBytes: 1024,
      diskQuotaBytes: 2048,
      autoprewarm: true,
      offloadLfcIntervalSeconds: 60
    })
    assert.strictEqual(spec.endpointStorage.token === null ? "" : Redacted.value(spec.endpointStorage.token), "canary")
    assert.notInclude(inspect(spec, { depth: 9 }), "canary")
    assert.deepInclude(specOf(least, "local"), {
      remoteExtensions: null,
      swapSizeBytes: null,
      endpointStorage: { address: null, token: null },
      autoprewarm: false,
      offloadLfcIntervalSeconds: null
    })
  })
})
