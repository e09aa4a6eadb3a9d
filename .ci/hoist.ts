/**
 * Turns our own `import("./…")` into a static import, in the bundle only.
 *
 * In the sources it keeps modules unread until they are used. In one file there is nothing left to read, and a module
 * that is imported both ways makes the bundler put every module it shares with the rest into a function of its own:
 * measured, that costs a sixth of the program's start. What is heavy in them is loaded on first use by `lazy.ts`. A
 * module that is a file of its own (`apart.ts`) stays out: it is required when its import is reached.
 */
import type { Plugin } from "esbuild"
import * as fs from "node:fs"
import * as path from "node:path"

const dynamic = /\bimport\(("\.[^"]+")\)/g

export const hoist = (folder: string, own: Readonly<Record<string, string>>): Plugin => ({
  name: "hoist",
  setup(build) {
    build.onLoad({ filter: /\.ts$/ }, ({ path: file }) => {
      if (!file.startsWith(folder + path.sep)) return undefined
      const text = fs.readFileSync(file, "utf8")
      const isOwn = (target: string) => JSON.parse(target) in own
      const found = [...new Set([...text.matchAll(dynamic)].map(([, target = ""]) => target))]
      if (found.length === 0) return undefined
      const targets = found.filter((target) => !isOwn(target))
      const imports = targets.map((target, index) => `import * as hoisted${index} from ${target}; `)
      // Before the first line, not above it: the source map counts lines.
      const replaced = text.replace(dynamic, (_, target: string) =>
        isOwn(target)
          ? `Promise.resolve().then(() => require(${target}))`
          : `Promise.resolve(hoisted${targets.indexOf(target)})`
      )
      return { contents: imports.join("") + replaced, loader: "ts" }
    })
  }
})
