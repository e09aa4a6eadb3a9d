/**
 * Prints the plain closing line that any CI can read: `N passed, N failed`.
 */
import type { Reporter, SerializedError, TestModule } from "vitest/node"

export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: ReadonlyArray<TestModule>, errors: ReadonlyArray<SerializedError>): void {
    let passed = 0
    // What went wrong outside of any test (a worker that could not start) failed as well.
    let failed = errors.length
    for (const module of modules) {
      let here = 0
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        if (state === "passed") passed++
        if (state === "failed") here++
      }
      // A file that could not even be loaded has no tests, yet it failed.
      failed += here === 0 && module.state() === "failed" ? 1 : here
    }
    process.stdout.write(`${passed} passed, ${failed} failed\n`)
  }
}
