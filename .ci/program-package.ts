/**
 * Leaves in package.json only what the program is built of: no tests, no Postgres, no compiler of the library. For a
 * container's build stage; `npm install` then takes the same versions from the lock as ever.
 */
import * as fs from "node:fs"

type Names = Readonly<Record<string, string>>
interface Package {
  readonly dependencies: Names
  readonly devDependencies: Names
  readonly peerDependencies: Names
}

const {
  dependencies,
  devDependencies,
  optionalDependencies: _,
  peerDependencies,
  workspaces: __,
  ...rest
} = JSON.parse(fs.readFileSync("package.json", "utf8")) as Package & Record<string, unknown>
const needed = [...Object.keys(peerDependencies), "esbuild"].map((name) => [name, devDependencies[name]] as const)
for (const [name, version] of needed) if (version === undefined) throw new Error(`${name} is no devDependency`)
const built = { ...rest, dependencies: { ...dependencies, ...Object.fromEntries(needed) } }
fs.writeFileSync("package.json", `${JSON.stringify(built, null, 2)}\n`)
