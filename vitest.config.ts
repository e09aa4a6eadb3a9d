import { defineConfig } from "vitest/config"

/**
 * Two projects in one run: `fast` (pure laws, rooms with in-memory neighbours) in parallel, and `real` (real
 * Postgres, sockets, processes) one file at a time, so that two cores are not fought over.
 */
export default defineConfig({
  resolve: { conditions: ["source"] },
  ssr: { resolve: { conditions: ["source"] } },
  test: {
    reporters: ["default", "./.ci/closing-line.ts"],
    projects: [
      {
        extends: true,
        test: { name: "fast", include: ["test/**/*.test.ts", "examples/**/*.test.ts"], exclude: ["test/**/*.pg.test.ts", "test/**/*.wire.test.ts", "examples/**/*.pg.test.ts"], testTimeout: 20_000 }
      },
      {
        extends: true,
        test: {
          name: "real",
          include: ["test/**/*.pg.test.ts", "test/**/*.wire.test.ts", "examples/**/*.pg.test.ts"],
          fileParallelism: false,
          sequence: { groupOrder: 1 },
          testTimeout: 120_000,
          hookTimeout: 120_000
        }
      }
    ]
  }
})
