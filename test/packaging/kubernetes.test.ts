/**
 * The manifests of `packaging/kubernetes` against Kubernetes's own types of them: TypeScript's compiler reads each as a
 * value of its kind, and names a field that there is none of, or one of another type.
 */
import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { parse } from "yaml"

const root = path.resolve(import.meta.dirname, "../..")
const folder = path.join(root, "packaging/kubernetes")

interface Manifest {
  readonly apiVersion: string
  readonly kind: string
}
const manifests = fs
  .globSync("*/*.yaml", { cwd: folder })
  .sort()
  .map((file) => ({ file, value: parse(fs.readFileSync(path.join(folder, file), "utf8")) as Manifest }))

/** Of others than Kubernetes: kustomize itself, and the Prometheus operator. */
const others = ["Kustomization", "ServiceMonitor"]
const own = manifests.filter(({ value }) => !others.includes(value.kind))

/** `core` is the group that has no name. */
const moduleOf = (apiVersion: string): string => {
  const [group = "", version] = apiVersion.includes("/") ? apiVersion.split("/") : ["core", apiVersion]
  return `kubernetes-types/${group.replace(/\..*$/, "")}/${version}`
}
const literal = ({ apiVersion, kind }: Manifest, text: string): string =>
  `import type { ${kind} } from "${moduleOf(apiVersion)}"\nexport const it: ${kind} = ${text}\n`

/** What the compiler says of these texts, by the name of the file. */
const complaints = (texts: Readonly<Record<string, string>>): ReadonlyArray<string> => {
  const work = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-manifests-"))
  try {
    fs.symlinkSync(path.join(root, "node_modules"), path.join(work, "node_modules"))
    for (const [name, text] of Object.entries(texts)) fs.writeFileSync(path.join(work, name), text)
    const options = { strict: true, exactOptionalPropertyTypes: true, noEmit: true, types: [], module: "nodenext" }
    fs.writeFileSync(
      path.join(work, "tsconfig.json"),
      JSON.stringify({ compilerOptions: options, files: Object.keys(texts) })
    )
    const compiler = path.join(root, "node_modules/typescript/bin/tsc")
    const { error, stdout } = spawnSync(process.execPath, [compiler, "-p", ".", "--pretty", "false"], {
      cwd: work,
      encoding: "utf8"
    })
    if (error !== undefined) throw error
    return stdout.split("\n").filter((line) => line !== "")
  } finally {
    fs.rmSync(work, { recursive: true, force: true })
  }
}

describe("the manifests for Kubernetes", () => {
  it("are of its types, with no field that it does not know", () => {
    assert.isAbove(own.length, 4)
    const texts = own.map(({ file, value }) => [
      `${file.replaceAll("/", "-")}.ts`,
      literal(value, JSON.stringify(value, null, 2))
    ])
    const wrong = own.map(({ file, value }) => [
      `wrong-${file.replaceAll("/", "-")}.ts`,
      literal(value, JSON.stringify({ ...value, spec: { ...(value as { spec?: object }).spec, replica: 1 } }))
    ])
    const said = complaints(Object.fromEntries([...texts, ...wrong]))
    assert.deepStrictEqual(
      said.map(
        (line): string | ReadonlyArray<string> => /^([^(]*)\(.*'"(\w+)"' does not exist/.exec(line)?.slice(1) ?? line
      ),
      wrong.map(([name = ""]) => [name, "replica"])
    )
  })
})
