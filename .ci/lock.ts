/**
 * Takes out of package-lock.json which Node each package asks for. The Node that runs them is one of them, pinned in
 * the lock; npm knows only the Node that it runs on itself, may be an older one, and would warn of every package.
 * `npm run lock`, after each `npm install` that changed the lock.
 */
import * as fs from "node:fs"

interface Entry {
  engines?: unknown
}
const lock = JSON.parse(fs.readFileSync("package-lock.json", "utf8")) as { packages: Record<string, Entry> }
for (const [folder, entry] of Object.entries(lock.packages)) if (folder !== "") delete entry.engines
fs.writeFileSync("package-lock.json", `${JSON.stringify(lock, null, 2)}\n`)
