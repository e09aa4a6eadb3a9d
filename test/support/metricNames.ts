/**
 * The names of all metrics that the program can answer, as its sources declare them; those of the vm-monitor, which are
 * made of parts, by their beginning alone.
 */
import * as fs from "node:fs"
import * as path from "node:path"

const source = path.resolve(import.meta.dirname, "../../src")

const declared =
  /(?:name: |name,|counter\(\s*|gauge\(\s*|histogram\(\s*|[?:] )"((?:compute|pg_cctl|installed)_[a-z_]+)"/g

export const vmMetrics = "compute_vm_"

export const metricNames = (): ReadonlySet<string> =>
  new Set(
    fs
      .readdirSync(source, { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts"))
      .flatMap((file) => [...fs.readFileSync(path.join(source, file), "utf8").matchAll(declared)])
      .map(([, name = ""]) => name)
      .filter((name) => name !== "compute_ctl" && !name.startsWith(vmMetrics))
  )
