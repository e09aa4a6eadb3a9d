/**
 * What `import "compute-ctl/promise"` runs in the package, where `promise.cjs` beside it has all of `promise.ts`.
 *
 * It is loaded with the machine code that an earlier process kept of it: reading two megabytes of JavaScript takes
 * longer than running it. Such code is run unseen, so it is taken from a folder that only we can write to. V8 refuses
 * what another V8 made; without any, the file is compiled as ever.
 */
import * as fs from "node:fs"
import { createRequire } from "node:module"
import * as path from "node:path"
import * as vm from "node:vm"
import type * as Promised from "./promise.ts"
import { sharedCache } from "./sharedCache.ts"

/** Of how many versions of ours and of Node, 3 MB each. */
const kept = 4
/** By then a start has compiled what it needs, which is kept as well. */
const keptAfterMillis = 2_000

const keep = (script: vm.Script, place: string): void => {
  try {
    fs.mkdirSync(path.dirname(place), { recursive: true })
    const fresh = `${place}.${process.pid}`
    fs.writeFileSync(fresh, script.createCachedData())
    fs.renameSync(fresh, place)
    const ages = fs.readdirSync(path.dirname(place)).map((name) => {
      const at = path.join(path.dirname(place), name)
      return { at, age: fs.statSync(at).mtimeMs }
    })
    for (const { at } of ages.sort((one, other) => other.age - one.age).slice(kept)) fs.rmSync(at, { force: true })
  } catch {
    // The next process compiles, too.
  }
}

/** At the end of the process, or before, for those that are killed. */
const keepLater = (script: vm.Script, place: string): void => {
  const timer = setTimeout(() => end(), keptAfterMillis).unref()
  const end = () => {
    clearTimeout(timer)
    process.off("exit", end)
    keep(script, place)
  }
  process.once("exit", end)
}

const readOrUndefined = (place: string): Buffer | undefined => {
  try {
    return fs.readFileSync(place)
  } catch {
    return undefined
  }
}

/** What the CommonJS file `file` exports. */
const load = (file: string): unknown => {
  const { folder, usable } = sharedCache()
  const { mtimeMs, size } = fs.statSync(file)
  const place = path.join(folder, "code", `${size}-${mtimeMs}-${process.version}-${process.arch}`)
  const cachedData = usable ? readOrUndefined(place) : undefined
  const text = fs.readFileSync(file, "utf8")
  const script = new vm.Script(`(function(exports,require,module,__filename,__dirname){${text}\n})`, {
    filename: file,
    ...(cachedData === undefined ? {} : { cachedData }),
    importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER
  })
  if (usable && (cachedData === undefined || script.cachedDataRejected === true)) keepLater(script, place)
  const module = { exports: {} }
  // oxlint-disable-next-line no-unsafe-type-assertion
  const run = script.runInThisContext() as (...all: ReadonlyArray<unknown>) => void
  run(module.exports, createRequire(file), module, file, path.dirname(file))
  return module.exports
}

export const { databaseAt, makeAncestor, startCompute, startFake, verifierOf } =
  // oxlint-disable-next-line no-unsafe-type-assertion
  load(path.join(import.meta.dirname, "promise.cjs")) as typeof Promised
