/**
 * The bundle's own `require`. A snapshot and an executable have one for Node's own modules alone: what lies beside the
 * program (`apart.ts`) is found from the program's place, or among what the executable carries.
 */
import type { createRequire } from "node:module"
import type * as Sea from "node:sea"
import type * as Vm from "node:vm"

type Require = ReturnType<typeof createRequire>

/** Becomes text, so that it must know nothing but its argument. What it finds can find what lies there, too. */
const requireBeside = (builtin: Require) => {
  const requireOf = (name: string): unknown => {
    if (!name.startsWith("./")) return builtin(name) as unknown
    const { createRequire: requireFrom } = builtin("node:module") as { createRequire: typeof createRequire }
    const { getAsset, isSea } = builtin("node:sea") as typeof Sea
    if (!isSea()) {
      const { realpathSync } = builtin("node:fs") as { realpathSync: (path: string) => string }
      return requireFrom(realpathSync(process.argv[1] ?? ""))(name) as unknown
    }
    const { compileFunction } = builtin("node:vm") as typeof Vm
    const module = { exports: {} }
    const body = compileFunction(getAsset(name.slice(2), "utf8"), ["require", "module", "exports"], { filename: name })
    body(requireOf, module, module.exports)
    return module.exports
  }
  return requireOf
}

/** To stand before the bundle. */
export const requireText = `var require=(${requireBeside.toString()})(require);`
