/**
 * Builds the image with the engine of this machine (docker, podman, or `CONTAINER_ENGINE`), and does with it what
 * README says. `npm run proof:image`: some five minutes. Where the registry of the base image does not answer, the
 * base is a bare Debian with the pinned Node (`debianRoot.ts`); where the packages of the PostgreSQL project do not,
 * name a major version of Debian's by `POSTGRES_MAJOR`.
 */
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import { cannot, certificates, checkout, copyCheckout, makeRoot, run, within } from "./debianRoot.ts"

const found = [process.env["CONTAINER_ENGINE"], "docker", "podman"].find(
  (name) => name !== undefined && spawnSync(name, ["info"]).status === 0
)
const engine = found ?? cannot("neither docker nor podman answers on this machine")
const isPodman = /podman/.test(run(engine, ["--version"]))
const call = (...args: ReadonlyArray<string>): string => run(engine, args).trim()
const image = `compute-ctl-proof-${process.pid}`
const tag = `proof-${process.pid}`

const assert = (fact: boolean, text: string): void => {
  if (!fact) throw new Error(`not so: ${text}`)
  console.log(`ok: ${text}`)
}

const nodeImage = (work: string): string => {
  const wanted = process.env["NODE_IMAGE"] ?? /^ARG NODE_IMAGE=(.*)$/m.exec(dockerfile)?.[1] ?? cannot("no NODE_IMAGE")
  const known = spawnSync(engine, ["image", "inspect", wanted]).status === 0
  if (known || spawnSync(engine, ["pull", "--quiet", wanted], { timeout: within }).status === 0) return wanted
  const { devDependencies } = JSON.parse(fs.readFileSync(path.join(checkout, "package.json"), "utf8")) as {
    readonly devDependencies: { readonly node: string }
  }
  const root = makeRoot(work, devDependencies.node, "11")
  // Where the official images have it, as a file.
  const node = path.join(root, "usr/local/bin/node")
  fs.copyFileSync(fs.realpathSync(node), `${node}.new`)
  fs.renameSync(`${node}.new`, node)
  const more = Object.entries(certificates(root)).flatMap(([name, value]) => ["--change", `ENV ${name}=${value}`])
  run("tar", ["-C", root, "-cf", path.join(work, "base.tar"), "."])
  call("import", ...more, path.join(work, "base.tar"), `localhost/${image}-base`)
  return `localhost/${image}-base`
}
const dockerfile = fs.readFileSync(path.join(checkout, "Dockerfile"), "utf8")

const build = (work: string): void => {
  copyCheckout(path.join(work, "context"))
  const major = process.env["POSTGRES_MAJOR"]
  const args = [`NODE_IMAGE=${nodeImage(work)}`, `BUILD_TAG=${tag}`, ...(major ? [`POSTGRES_MAJOR=${major}`] : [])]
  const format = isPodman ? ["--format", "docker"] : []
  const options = [...format, "--network", "host", ...args.flatMap((one) => ["--build-arg", one])]
  call("build", ...options, "-t", image, path.join(work, "context"))
}

const name = `${image}-container`
const volume = `${image}-volume`
const inside = (...command: ReadonlyArray<string>): string => call("exec", name, ...command)

const logged = (): string => {
  const { stderr, stdout } = spawnSync(engine, ["logs", name], { encoding: "utf8" })
  return stdout + stderr
}

/** As the engine would ask: the command of HEALTHCHECK. */
const untilHealthy = async (): Promise<void> => {
  const [, ...command] = JSON.parse(call("inspect", "-f", "{{json .Config.Healthcheck.Test}}", name)) as Array<string>
  for (let left = 600; ; left--) {
    if (spawnSync(engine, ["exec", name, ...command]).status === 0) return
    const state = call("inspect", "-f", "{{.State.Status}}", name)
    if (left === 0 || state === "exited") throw new Error(`${state}, not healthy: ${logged()}`)
    await pause(100)
  }
}

/** Postgres's answer to the wish for TLS: one letter. */
const answersOn = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1", () => socket.write(Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])))
    socket.once("data", (data) => resolve(/^[SN]$/.test(data.toString())) === socket.destroy())
    socket.once("error", () => resolve(false))
  })

/** README's own line, with another name, volume and port, and more flags. */
const start = (port: number, ...flags: ReadonlyArray<string>): void => {
  const readme = fs.readFileSync(path.join(checkout, "README.md"), "utf8")
  const line =
    /^docker (run -d --name compute .* compute-ctl)$/m.exec(readme)?.[1] ?? cannot("README has no docker run")
  const words = line.replace("--name compute", `--name ${name}`).replace("-v compute:", `-v ${volume}:`).split(" ")
  const own = words.slice(1, -1).map((word) => word.replace(":5432:", `:${port}:`))
  call("run", ...own, ...flags, image)
}

const sql = (statement: string): string => {
  const password = inside("cat", "/var/db/postgres/storage/pgpass").split(":").at(-1) ?? ""
  const url = "host=127.0.0.1 user=app dbname=app"
  return call("exec", "-e", `PGPASSWORD=${password}`, name, "psql", "-XAtqc", statement, url)
}

const stop = (remove: boolean): void => {
  const began = Date.now()
  call("stop", name)
  const code = call("inspect", "-f", "{{.State.ExitCode}}", name)
  assert(code === "0", `it stops with exit code 0, in ${((Date.now() - began) / 1000).toFixed(1)} s`)
  if (remove) clean()
}
const clean = (): void => {
  spawnSync(engine, ["rm", "-f", name])
  spawnSync(engine, ["volume", "rm", volume])
}

const asReadme = async (port: number): Promise<void> => {
  start(port)
  await untilHealthy()
  assert(await answersOn(port), "README's line starts a compute that is healthy and answers on its port")
  assert(logged().includes(`build_tag: ${tag}`), "the log says the BUILD_TAG")
  sql("create table kept as select 1 as n")
  call("kill", "-s", "KILL", name)
  call("start", name)
  await untilHealthy()
  assert(sql("select n from kept") === "1", "what was committed is there after a kill -9 of the container")
  assert(inside("compute_ctl", "status").includes(": running"), "compute_ctl status finds it")
  for (const file of ["third-party-licences.txt", "bill-of-materials.json", "compute_ctl.cjs.map"])
    inside("test", "-s", `/opt/compute-ctl/dist/${file}`)
  assert(true, "licences, the list of what is in it and its source map are there")
  const frame = inside(
    "sh",
    "-c",
    "echo 'at a (compute_ctl.cjs:500:100)' | node /opt/compute-ctl/bin/compute_ctl_trace.mjs"
  )
  assert(/(src|node_modules)\/.*\.[jt]s:\d+/.test(frame), "compute_ctl_trace.mjs names sources")
  stop(true)
}
const variants: Readonly<Record<string, ReadonlyArray<string>>> = {
  "a read-only root": ["--read-only", "--tmpfs", "/tmp", "--tmpfs", "/run/compute-ctl"],
  "any user of the group root, without a name": ["--user", "12345:0", ...(isPodman ? ["--passwd=false"] : [])],
  "no capabilities and no new privileges": ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
}
const all = Object.values(variants).flat()

const freePort = (): Promise<number> =>
  new Promise((resolve) => {
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as net.AddressInfo
      server.close(() => resolve(port))
    })
  })

const work = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-image-"))
fs.chmodSync(work, 0o755)
try {
  build(work)
  assert(call("inspect", "-f", "{{json .Config.Labels}}", image).includes(`"${tag}"`), "the image has OCI labels")
  await asReadme(await freePort())
  for (const [what, flags] of [...Object.entries(variants), ["all of that", all] as const]) {
    const port = await freePort()
    start(port, ...flags)
    await untilHealthy()
    assert((await answersOn(port)) && sql("select 1") === "1", `it runs with ${what}`)
    stop(true)
  }
} finally {
  clean()
  spawnSync(engine, ["rmi", "-f", image, `localhost/${image}-base`])
  fs.rmSync(work, { recursive: true, force: true })
}
