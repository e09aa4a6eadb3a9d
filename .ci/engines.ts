/**
 * Which Node package.json asks for: `packed`, the one that the package runs on (bin/compute_ctl has the number); in a
 * `checkout` the one that npm runs on, since the Node that runs the rest is a package itself. For npm's prepack and
 * postpack. `npm publish` reads package.json once more after postpack, so it gets its checkout back after the publish.
 */
import * as fs from "node:fs"

const checkout = ">=20"
const packed = (): string => {
  const number = /^needed="(.+)"$/m.exec(fs.readFileSync("bin/compute_ctl", "utf8"))?.[1]
  if (number === undefined) throw new Error("bin/compute_ctl says no longer which Node it needs (needed=...)")
  return `>=${number}`
}

const [wanted] = process.argv.slice(2)
const isInPublish = process.env["npm_command"] === "publish" && process.env["npm_lifecycle_event"] === "postpack"
if (wanted !== "packed" && wanted !== "checkout") throw new Error("say packed or checkout")
if (!isInPublish) {
  const text = fs.readFileSync("package.json", "utf8")
  const engines = wanted === "packed" ? packed() : checkout
  const changed = text.replace(/("engines": \{\s*"node": )"[^"]*"/, `$1${JSON.stringify(engines)}`)
  fs.writeFileSync("package.json", changed)
}
