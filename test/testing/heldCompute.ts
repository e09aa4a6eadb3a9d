/**
 * A process that holds a compute until somebody ends it: says `folder F` as soon as the compute has one, and `ready`
 * once it serves. With the argument `worker` the compute is that of a worker thread. Lines of standard input say how to
 * end by itself.
 */
import * as readline from "node:readline"
import { isMainThread, Worker } from "node:worker_threads"
import { startCompute } from "../../src/testing/promise.ts"

const hold = async () => {
  let said = false
  const log = (line: string) => {
    const [, folder] = /local storage ([^ ;]*)\/storage/.exec(line) ?? []
    if (folder === undefined || said) return
    said = true
    process.stdout.write(`folder ${folder}\n`)
  }
  await startCompute({ log })
  process.stdout.write("ready\n")
}

if (isMainThread) {
  const worker = process.argv[2] === "worker" ? new Worker(import.meta.filename) : null
  readline.createInterface({ input: process.stdin }).on("line", (line) => {
    if (line === "exit") process.exit(0)
    if (line === "throw") throw new Error("as asked")
    if (line === "worker") void worker?.terminate()
  })
  if (worker === null) await hold()
} else {
  await hold()
}
