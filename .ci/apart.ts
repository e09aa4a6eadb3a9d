/**
 * Keeps a package out of the bundle, in a file of its own beside it, for what few computes ever use.
 *
 * Even code that never runs is read and pre-parsed at every start; a third of the bundle would be gRPC.
 */
import { build, type Plugin } from "esbuild"
import * as path from "node:path"

/** `files` says which package goes to which file; everything that imports the package then loads the file. */
export const apart = (files: Readonly<Record<string, string>>): Plugin => ({
  name: "apart",
  setup(bundle) {
    bundle.onResolve({ filter: /.*/ }, ({ path: name }) => {
      const file = files[name]
      return file === undefined ? undefined : { path: `./${file}`, external: true }
    })
  }
})

/** Answers what went into the files of packages, relative to `root`. */
export const buildApart = async (
  root: string,
  folder: string,
  files: Readonly<Record<string, string>>
): Promise<ReadonlyArray<string>> => {
  const inputs: Array<string> = []
  for (const [name, file] of Object.entries(files)) {
    const { metafile } = await build({
      absWorkingDir: root,
      stdin: { contents: `module.exports = require(${JSON.stringify(name)})`, resolveDir: root },
      outfile: path.join(folder, file),
      bundle: true,
      platform: "node",
      format: "cjs",
      target: "node22",
      minify: true,
      legalComments: "eof",
      metafile: true,
      logLevel: "warning"
    })
    inputs.push(...Object.keys(metafile.inputs))
  }
  return inputs
}
