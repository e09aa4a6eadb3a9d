/**
 * Turns our own `import("./…")` into a static import, in the bundle only.
 *
 * In the sources it keeps modules unread until they are used. In one file there is nothing left to read, and a module
 * that is imported both ways makes the bundler put every module it shares with the rest into a function of its own:
 * measured, that costs a sixth of the program's start. What is heavy in them is loaded on first use by `lazy.ts`.
 */
import type { Plugin } from "esbuild"
import * as fs from "node:fs"
import * as path from "node:path"

const dynamic = /\bimport\(("\.[^"]+")\)/g

export const hoist = (folder: string): Plugin => ({
  name: "hoist",
  setup(build) {
    build.onLoad({ filter: /\.ts$/ }, ({ path: file }) => {
      if (!file.startsWith(folder + path.sep)) return undefined
      const text = fs.readFileSync(file, "utf8")
      const targets = [...new Set([...text.matchAll(dynamic)].map(([, target]) => target))]
      if (targets.length === 0) return undefined
      const imports = targets.map((target, index) => `import * as hoisted${index} from ${target}\n`)
      const replaced = text.replace(
        dynamic,
        (_, target: string) => `Promise.resolve(hoisted${targets.indexOf(target)})`
      )
      return { contents: imports.join("") + replaced, loader: "ts" }
    })
  }
})
