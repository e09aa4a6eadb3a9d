/**
 * One compute for a whole run of vitest: started before the first file, gone after the last. Tests know its URL alone.
 */
import { startCompute } from "compute-ctl/promise"
import type { TestProject } from "vitest/node"

declare module "vitest" {
  export interface ProvidedContext {
    postgres: string
  }
}

export default async function setup(project: TestProject) {
  const pg = await startCompute({ spec: { format_version: 1, cluster: { roles: [{ name: "web" }], databases: [] } } })
  project.provide("postgres", pg.url)
  return pg.stop
}
