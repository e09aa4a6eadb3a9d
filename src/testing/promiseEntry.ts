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

/** Of the file, by the build: V8 takes code for that of any text of the same length. */
declare const PROMISE_DIGEST: string

/** Of how many versions of ours and of Node, 3 MB each. */
const kept = 4
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

const readOrUndefined = (place: string): Buffer | undefined => {
  try {
    return fs.readFileSync(place)
  } catch {
    return undefined
  }
}

/** What the CommonJS file `file` exports, and what keeps its machine code, where that is worth it. */
const load = (file: string) => {
  const { folder, usable } = sharedCache()
  const place = path.join(folder, "code", `${PROMISE_DIGEST}-${process.version}-${process.arch}`)
  const cachedData = usable ? readOrUndefined(place) : undefined
  const text = fs.readFileSync(file, "utf8")
  const script = new vm.Script(`(function(exports,require,module,__filename,__dirname){${text}\n})`, {
    filename: file,
    ...(cachedData === undefined ? {} : { cachedData }),
    importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER
  })
  const module = { exports: {} }
  // oxlint-disable-next-line no-unsafe-type-assertion
  const run = script.runInThisContext() as (...all: ReadonlyArray<unknown>) => void
  run(module.exports, createRequire(file), module, file, path.dirname(file))
  let isKept = !usable || (cachedData !== undefined && script.cachedDataRejected !== true)
  const keepOnce = () => {
    if (!isKept) keep(script, place)
    isKept = true
  }
  // oxlint-disable-next-line no-unsafe-type-assertion
  return { loaded: module.exports as typeof Promised, keepOnce }
}

const { keepOnce, loaded } = load(path.join(import.meta.dirname, "promise.cjs"))

export const { databaseAt, makeAncestor, startFake, verifierOf } = loaded

/** By the time that the first one runs all that a start needs is compiled. */
export const startCompute: typeof Promised.startCompute = async (options) => {
  const started = await loaded.startCompute(options)
  keepOnce()
  return started
}
