/**
 * Makes the bundle load what it does not need for its first answer only when that is first used.
 *
 * Listening for HTTP needs neither OpenSSL's set-up behind `node:crypto` nor tar, and yet every `import` is evaluated
 * before the first line of the program. Each named module is imported through a stand-in whose exports are getters.
 * For modules that are used by export names only: a stand-in cannot be called or extended itself. A snapshot
 * (`snapshot.ts`) can hold nothing of Node's network modules, so no line may touch one before `main` runs.
 */
import type { Plugin } from "esbuild"
import * as fs from "node:fs"
import { isBuiltin } from "node:module"

export const lazily = (names: ReadonlyArray<string>): Plugin => ({
  name: "lazily",
  setup(build) {
    build.onResolve({ filter: /.*/ }, ({ kind, namespace, path, resolveDir }) => {
      if (kind !== "import-statement" || namespace !== "file" || !names.includes(path.replace(/^node:/, "")))
        return undefined
      return { path, namespace: "lazily", pluginData: resolveDir, sideEffects: false }
    })
    build.onLoad({ filter: /.*/, namespace: "lazily" }, async ({ path, pluginData }) => {
      const found = (await import(path)) as Readonly<Record<string, unknown>>
      // Node does not see all names of a CommonJS package from outside; its default is all of it.
      const all = { ...(typeof found["default"] === "object" ? found["default"] : {}), ...found }
      const exported = Object.keys(all).filter(
        (name) => /^[A-Za-z_$][\w$]*$/.test(name) && name !== "default" && name !== "__esModule"
      )
      if (exported.length === 0) throw new Error(`${path} has no names, so nothing can stand in for it`)
      const getters = exported.map((name) => `get ${name}(){return load().${name}}`)
      // The default of a builtin is the builtin, as esbuild makes it by itself; so it is for a CommonJS package.
      const kind = isBuiltin(path) ? [] : ["__esModule:true", "get default(){return load().default??load()}"]
      return {
        contents:
          `let it;const load=()=>it??=require(${JSON.stringify(path)});` +
          `module.exports={${[...kind, ...getters].join(",")}}`,
        resolveDir: String(pluginData),
        loader: "js"
      }
    })
  }
})

/**
 * Effect's server takes `node:http` by a `require` of its own, and reads `createServer` of it for a layer of its tests
 * when it is loaded: here by the stand-ins, and by a function that waits to be called.
 */
export const platformHttp: Plugin = {
  name: "platformHttp",
  setup(build) {
    build.onLoad({ filter: /@effect\/platform-node\/(?:src|dist)\/internal\/http\.[jt]s$/ }, ({ path }) => {
      const text = fs.readFileSync(path, "utf8")
      if (!/\bhttp\b.*require\("node:http"\)[^]*\bhttps\b.*require\("node:https"\)/.test(text))
        throw new Error(`${path} is not what it was: how does Effect take node:http now?`)
      return {
        contents:
          'import * as Http from "node:http"\nimport * as Https from "node:https"\n' +
          "const createServer = (...all) => Http.createServer(...all)\n" +
          "const proxy = (get) => new Proxy({}, { get: (_, name) => get(name) })\n" +
          'export const http = proxy((name) => name === "createServer" ? createServer : Http[name])\n' +
          "export const https = proxy((name) => Https[name])\n",
        loader: "js"
      }
    })
  }
}
