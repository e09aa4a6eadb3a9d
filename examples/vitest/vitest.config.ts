import { defineConfig } from "vitest/config"

export default defineConfig({
  // In this checkout alone, where `compute-ctl` is its sources.
  ssr: { resolve: { conditions: ["source"] } },
  test: { include: ["*.spec.ts"], globalSetup: "globalSetup.ts" }
})
