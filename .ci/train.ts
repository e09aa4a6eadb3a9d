/**
 * A training run: which functions of the bundle does a start of a compute run?
 *
 * V8 compiles a function when it is first called, and a start calls three thousand, most of them once: a fifth of its
 * processor time. Which they are is not guessed but seen: a compute is started on new local storage, stopped, started
 * again and stopped, under V8's own coverage. It needs a Postgres; where there is none, the bundle is not trained.
 */
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { pathToFileURL } from "node:url"

/** A function of the bundle, from its first to behind its last character. */
export interface Ran {
  readonly start: number
  readonly end: number
}

interface Coverage {
  readonly result: ReadonlyArray<{
    readonly url: string
    readonly functions: ReadonlyArray<{
      readonly ranges: ReadonlyArray<{
        readonly startOffset: number
        readonly endOffset: number
        readonly count: number
      }>
    }>
  }>
}

const root = path.resolve(import.meta.dirname, "..")
const patience = 60_000

const freePort = async (): Promise<number> => {
  const server = net.createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const address = server.address()
  server.close()
  await once(server, "close")
  return typeof address === "object" && address !== null ? address.port : 0
}

/** From exec to running, and back down in order. Rejects with what the compute said last. */
const startAndStop = async (bundle: string, folder: string): Promise<void> => {
  const [port, http] = [await freePort(), await freePort()]
  const args = ["--disable-sigusr1", bundle, "--storage", `local:${folder}/storage`, "-D", `${folder}/pgdata`]
  args.push("-S", path.join(root, "examples/spec.json"), "--http-port", `${http}`)
  args.push("-C", `postgresql://cloud_admin@127.0.0.1:${port}/postgres`)
  const env = { ...process.env, NODE_V8_COVERAGE: path.join(folder, "coverage"), NODE_OPTIONS: "" }
  const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "pipe"] })
  const gone = once(child, "exit")
  let said = ""
  const running = new Promise<void>((resolve) => {
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding("utf8").on("data", (text: string) => {
        said += text
        if (/ to running: /.test(said)) resolve()
      })
  })
  const timer = setTimeout(() => child.kill("SIGKILL"), patience)
  await Promise.race([running, gone])
  // The routes are made once the start is over: an answer shows that they are.
  if (child.exitCode === null && child.signalCode === null) await fetch(`http://127.0.0.1:${http}/status`)
  child.kill("SIGTERM")
  await gone
  clearTimeout(timer)
  if (!/ to running: /.test(said)) throw new Error(said.trim().split("\n").slice(-2).join(" "))
}

const ranIn = (file: string, bundle: string): ReadonlyArray<Ran> => {
  const { result }: Coverage = JSON.parse(fs.readFileSync(file, "utf8"))
  const url = pathToFileURL(bundle).href
  const functions = result.filter((script) => script.url === url).flatMap((script) => script.functions)
  return functions
    .flatMap(({ ranges }) => ranges.slice(0, 1))
    .filter(({ count, startOffset }) => count > 0 && startOffset > 0)
    .map(({ endOffset, startOffset }) => ({ start: startOffset, end: endOffset }))
}

/** Each function once, or why nobody knows. */
export const train = async (bundle: string): Promise<ReadonlyArray<Ran> | string> => {
  const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-train-")))
  // As root the program drops to another user, who makes these folders.
  fs.chmodSync(folder, 0o777)
  try {
    for (let run = 0; run < 2; run++) await startAndStop(bundle, folder)
    const coverage = path.join(folder, "coverage")
    const all = fs.readdirSync(coverage).flatMap((name) => ranIn(path.join(coverage, name), bundle))
    return [...new Map(all.map((ran) => [ran.start, ran])).values()]
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}
