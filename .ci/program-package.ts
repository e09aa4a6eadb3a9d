/**
 * Leaves in package.json only what the program is built of: no tests, no compiler of the library, and of Postgres the
 * one that the training run starts (`train.ts`). For a container's build stage; `npm install` then takes the same
 * versions from the lock as ever.
 */
import * as fs from "node:fs"

type Names = Readonly<Record<string, string>>
interface Package {
  readonly devDependencies: Names
}

const {
  devDependencies,
  peerDependencies: _,
  peerDependenciesMeta: __,
  workspaces: ___,
  ...rest
} = JSON.parse(fs.readFileSync("package.json", "utf8")) as Package & Record<string, unknown>
const needed = ["@effect/platform-node", "@effect/sql-pg", "@grpc/grpc-js", "effect", "esbuild", "protobufjs", "tar"]
const dependencies: { [name: string]: string } = {}
for (const name of needed) {
  const version = devDependencies[name]
  if (version === undefined) throw new Error(`${name} is no devDependency`)
  dependencies[name] = version
}
fs.writeFileSync("package.json", `${JSON.stringify({ ...rest, dependencies }, null, 2)}\n`)
