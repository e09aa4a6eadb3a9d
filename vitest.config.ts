import { defineConfig } from "vitest/config"
import { BaseSequencer, type TestSpecification } from "vitest/node"
import { runFolder } from "./test/support/runFolder.ts"

/** The longest files, longest first: whoever begins them last waits for them alone. */
const long = [
  "program/kill9",
  "chaos/chaos",
  "storage/local/crashes",
  "storage/local/bases",
  "program/neon",
  "program/signals",
  "program/lifecycle"
]
const rank = ({ moduleId }: TestSpecification) => long.findIndex((name) => moduleId.includes(`/test/${name}.`)) >>> 0

class LongestFirst extends BaseSequencer {
  override async sort(files: Array<TestSpecification>) {
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b))
  }
}

const run = runFolder()
const real = {
  globalSetup: ["test/support/runFolder.ts"],
  // They wait more than they compute, also on machines with more cores than two.
  maxWorkers: 3,
  testTimeout: 120_000,
  hookTimeout: 120_000
}
const realFiles = ["test/**/*.pg.test.ts", "test/**/*.wire.test.ts", "examples/**/*.pg.test.ts"]
const diskFiles = [
  "test/storage/local/*.pg.test.ts",
  "test/storage/local/*.wire.test.ts",
  "test/storage/volume/*.pg.test.ts",
  "test/program/volume.pg.test.ts",
  "test/program/kill9.pg.test.ts",
  "test/chaos/chaos.pg.test.ts"
]

/**
 * Three projects in one run: `fast` (laws of pure code, services over simulated ones); after it, three files at a time, `real`
 * (real Postgres, sockets, processes; temporary files in memory where there is room) and `disk` (what must survive a
 * crash, on the machine's own disk).
 */
export default defineConfig({
  resolve: { conditions: ["source"] },
  ssr: { resolve: { conditions: ["source"] } },
  test: {
    reporters: ["default", "./.ci/closing-line.ts"],
    sequence: { sequencer: LongestFirst },
    // Only where it is asked for: what the tests in this process reach. Programs that they start are not counted.
    coverage: {
      provider: "v8",
      include: ["src/**/*.ts"],
      reporter: ["json-summary"],
      reportOnFailure: true
    },
    projects: [
      {
        extends: true,
        test: {
          name: "fast",
          include: ["test/**/*.test.ts", "examples/**/*.test.ts"],
          exclude: realFiles,
          testTimeout: 20_000
        }
      },
      {
        extends: true,
        test: {
          ...real,
          name: "real",
          include: realFiles,
          exclude: diskFiles,
          env: run.env,
          sequence: { groupOrder: 1 }
        }
      },
      {
        extends: true,
        test: { ...real, name: "disk", include: diskFiles, env: run.diskEnv, sequence: { groupOrder: 1 } }
      }
    ]
  }
})
