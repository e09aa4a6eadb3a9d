/**
 * Who may have which extension, by both generations' rules, and where its archive is.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { archiveUrl, controlFiles, findExtension, isAllowed, librariesToFetch } from "../../src/extensions/plan.ts"
import type { ApiVersion, RemoteExtensionList } from "../../src/spec/ParsedSpec.ts"
import { emptySpec } from "../support/specs.ts"

const one = { controlFiles: new Map([["x.control", "text"]]), sha256: null }
const list = (more: Partial<RemoteExtensionList> = {}): RemoteExtensionList => ({
  public: new Set(["x"]),
  custom: null,
  libraries: new Map([
    ["xlib", "x"],
    ["lost", "y"]
  ]),
  extensions: new Map([["x", one]]),
  ...more
})

const apiVersions = ["2024", "head"] as const

describe("the list of who may have it", () => {
  const without = new Set(["other"])
  const withIt = new Set(["x"])
  const matrix = [
    [null, null, true, false],
    [null, without, true, false],
    [null, withIt, true, true],
    [without, null, true, false],
    [without, without, false, false],
    [without, withIt, true, true],
    [withIt, null, true, true],
    [withIt, without, true, true],
    [withIt, withIt, true, true]
  ] as const
  it.each(matrix)("public %o, custom %o: %s in 2024, %s at head", (open, custom, older, newer) => {
    const allowed = apiVersions.map((apiVersion) => isAllowed("x", list({ public: open, custom }), apiVersion))
    assert.deepStrictEqual(allowed, [older, newer])
    // What is announced is what may be had.
    const announced = apiVersions.map(
      (apiVersion) => controlFiles(list({ public: open, custom }), apiVersion).length === 1
    )
    assert.deepStrictEqual(announced, allowed)
  })
})

describe("a lookup", () => {
  const find = (
    asked: string,
    isLibrary: boolean,
    apiVersion: ApiVersion = "head",
    more: Partial<RemoteExtensionList> = {}
  ) =>
    Result.match(findExtension(asked, isLibrary, list(more), apiVersion), {
      onSuccess: ({ extension }) => extension,
      onFailure: (failure) => failure.message
    })

  it("strips a library's name from the first .so on", () => {
    for (const asked of ["xlib", "xlib.so", "xlib.so.1.2", "xlib.so.1.so"]) assert.strictEqual(find(asked, true), "x")
  })

  it("says which step failed", () => {
    assert.strictEqual(find("no.so", true), "library no is not found")
    assert.strictEqual(find("y", false), "extension y is not found")
    assert.strictEqual(find("lost", true), "extension y is not found")
    assert.strictEqual(find("y", false, "2024"), "real_ext_name y is not found")
    assert.strictEqual(find("x", false, "head", { extensions: new Map() }), "real_ext_name x is not found")
  })

  it("does not take a library for an extension of the same name", () => {
    assert.strictEqual(find("xlib", false), "extension xlib is not found")
    assert.strictEqual(find("x", true), "library x is not found")
  })
})

describe("libraries to fetch before the start", () => {
  const libraries = list({ libraries: new Map(["a", "b", "neon", "databricks_auth"].map((name) => [name, "x"])) })
  const fetched = (setting: string | null, text: string | null, apiVersion: ApiVersion = "head") =>
    librariesToFetch(
      {
        ...emptySpec,
        settings: setting === null ? null : [{ name: "shared_preload_libraries", value: setting, quoted: true }],
        postgresqlConf: text
      },
      libraries,
      apiVersion
    )

  it("come from the setting and from the last such line of the text, once each", () => {
    assert.deepStrictEqual(fetched("neon, a,unknown", null), ["a"])
    assert.deepStrictEqual(
      fetched(null, "shared_preload_libraries = 'a'\nport = 1\nshared_preload_libraries='$libdir/b, neon'  # so\n"),
      ["b"]
    )
    assert.deepStrictEqual(fetched("a,b", "shared_preload_libraries = a"), ["a", "b"])
    assert.deepStrictEqual(fetched("'a', \"b\"", null), ["a", "b"])
    assert.deepStrictEqual(fetched(null, null), [])
  })

  it("never are the image's own", () => {
    assert.deepStrictEqual(fetched("neon,databricks_auth", null), [])
    assert.deepStrictEqual(fetched("neon,databricks_auth", null, "2024"), ["databricks_auth"])
  })
})

describe("the archive's place", () => {
  const place = { base: "http://gateway/prefix/", buildTag: "1234", arch: "x64", postgresMajor: 17 }

  it("is what each generation calls it", () => {
    assert.strictEqual(
      archiveUrl({ ...place, apiVersion: "2024", base: "http://gateway" }, "anon"),
      "http://gateway/1234/v17/extensions/anon.tar.zst"
    )
    assert.strictEqual(
      archiveUrl({ ...place, apiVersion: "head" }, "anon"),
      "http://gateway/prefix/1234/amd64/v17/extensions/anon.tar.zst"
    )
    assert.include(archiveUrl({ ...place, apiVersion: "head", arch: "arm64" }, "anon"), "/arm64/")
    assert.include(archiveUrl({ ...place, apiVersion: "head", arch: "riscv64" }, "anon"), "/riscv64/")
  })

  const name = Arbitrary.schema(Schema.String.check(Schema.makeFilter((text: string) => text.isWellFormed())))
  it.prop("never leaves its folder, whatever the extension is called", [name], ([extension]) => {
    const url = new URL(archiveUrl({ ...place, apiVersion: "head" }, extension))
    assert.isTrue(url.pathname.startsWith("/prefix/1234/amd64/v17/extensions/"))
    assert.strictEqual(url.host, "gateway")
    assert.strictEqual(url.search + url.hash, "")
  })
})
