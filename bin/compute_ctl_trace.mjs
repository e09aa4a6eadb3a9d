#!/usr/bin/env node
// Names the sources in a stack trace of the program as it is shipped, which is one minified file:
//
//   compute_ctl_trace.mjs [MAP] < LOG
//
// prints the log with `src/…` in place of each `compute_ctl.cjs:LINE:COLUMN`. MAP (default: the one of the bundle beside
// this file) must be of the build that wrote the log; its first line says which that was.
import { readFileSync } from "node:fs"
import { SourceMap } from "node:module"
import { fileURLToPath } from "node:url"

const file = process.argv[2] ?? fileURLToPath(new URL("../dist/compute_ctl.cjs.map", import.meta.url))
let map
try {
  map = new SourceMap(JSON.parse(readFileSync(file, "utf8")))
} catch (cause) {
  console.error(`compute_ctl_trace: the source map ${file} cannot be read: ${cause.message}`)
  process.exit(1)
}

// A snapshot and an executable name the file as the bundle does, or by their own name.
const place = /[^\s()]*\bcompute_ctl[^\s():]*:(\d+):(\d+)/g
const resolved = readFileSync(0, "utf8").replace(place, (as, line, column) => {
  const origin = map.findOrigin(Number(line), Number(column))
  if (origin.fileName === undefined) return as
  return `${origin.fileName.replace(/^(\.\.\/)+/, "")}:${origin.lineNumber}:${origin.columnNumber}`
})
process.stdout.write(resolved)
