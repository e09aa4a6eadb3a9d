/**
 * Which paths are routes: as they are declared, byte by byte.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { wholeApi } from "../../src/http/Api.ts"
import { Router, splitTarget } from "../../src/http/router.ts"
import { endpointsOf } from "../../src/http/routes.ts"

const router = new Router()
const declared = endpointsOf(wholeApi())
for (const { method, path } of declared) router.add(method, path, { access: "guarded", cached: null, handler: null })

const routeOf = (target: string, method = "POST"): string | undefined => {
  const { path } = splitTarget(target)
  return router.find(method, path)?.route
}

describe("the router", () => {
  it("finds every declared endpoint, HEAD for each GET, and says which methods a path takes", () => {
    for (const { method, path } of declared) {
      const target = path.replace(/:\w+$/, "x")
      assert.isNotNull(router.find(method, target)?.endpoint, `${method} ${path}`)
      if (method === "GET") assert.isNotNull(router.find("HEAD", target)?.endpoint, `HEAD ${path}`)
      const other = router.find("PATCH", target)
      assert.deepStrictEqual([other?.route, other?.endpoint], [path, null])
      assert.include(other?.allowed ?? [], method)
    }
  })

  it("knows a path by one spelling", () => {
    for (const target of [
      "/%63onfigure",
      "/configure;x",
      "/configure;x=1?y",
      "/configure/",
      "//configure",
      "/Configure",
      "/./configure",
      "/x/../configure",
      "/configure%20",
      "/configure%00",
      "/configure#x",
      "/con\\figure",
      "configure",
      "*",
      "",
      "http:///configure/x",
      "ftp://host/configure"
    ])
      assert.isUndefined(routeOf(target), target)
    for (const target of ["/configure", "/configure?x", "/configure?", "http://host:1/configure?x"])
      assert.strictEqual(routeOf(target), "/configure", target)
  })

  it.prop("no other text than the declared one is a route without a parameter", { text: Schema.String }, ({ text }) => {
    const fixed = declared.filter(({ path }) => !path.includes(":")).map(({ path }) => path)
    for (const path of fixed)
      for (const target of [`${path}${text}`, `${text}${path}`, path.replace("/", `/${text}`)]) {
        const found = router.find("GET", target)
        if (found !== null && Object.keys(found.params).length === 0) assert.strictEqual(found.route, target)
      }
  })

  it("decodes parameters once; one of them is the rest of the path, and none climbs out of it", () => {
    const paramsOf = (path: string) => router.find("POST", path)?.params
    assert.deepStrictEqual(paramsOf("/operations/a%2520b"), { id: "a%20b" })
    assert.deepStrictEqual(paramsOf("/operations/a;b"), { id: "a;b" })
    assert.deepStrictEqual(paramsOf("/extension_server/a/b/c.so"), { filename: "a/b/c.so" })
    assert.deepStrictEqual(paramsOf("/extension_server/a%20b"), { filename: "a b" })
    for (const path of [
      "/operations/",
      "/operations/a/b",
      "/operations/%",
      "/operations/%ff",
      "/operations/..",
      "/operations/%2e%2e",
      "/operations/a%2f..%2fb",
      "/extension_server/",
      "/extension_server/../terminate",
      "/extension_server/a//b",
      "/extension_server/a/%2e%2E/b"
    ])
      assert.isUndefined(paramsOf(path), path)
  })
})
