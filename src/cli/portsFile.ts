/**
 * The file in which a running compute says where it listens, so that `compute_ctl health` and `status` find it without
 * flags: in a run folder, readable by everybody, named by the process, and gone with it. One that was left by a kill is
 * known by its process, and removed by the next compute.
 *
 * `bin/compute_ctl_health` reads the same files, in shell.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as FS from "node:fs"
import * as Path from "node:path"
import type { FileFailed } from "../errors/Failure.ts"
import { reachable } from "../pgwire/address.ts"
import { attempt } from "../platform/files.ts"
import { isAlive, processOf } from "../platform/processes.ts"
import type { Environment } from "./given.ts"

/** One HTTP port as a caller on this machine reaches it. */
export interface Port {
  readonly host: string
  readonly port: number
  readonly tls: boolean
}

export interface Ports {
  /** Where the API with everything is. */
  readonly api: Port
  /** Where the probes are asked: the port without TLS, where there are two. */
  readonly probes: Port
}

/** Of a run. With TLS the probes are asked on the other port, which has none, where there is one. */
export const portsOf = (
  { httpHost, httpTls }: { readonly httpHost: string; readonly httpTls: unknown },
  { httpPort, internalHttpPort }: { readonly httpPort: number; readonly internalHttpPort: number | null }
): Ports => {
  const api = { host: reachable(httpHost), port: httpPort, tls: httpTls !== null }
  const inside = api.tls && internalHttpPort !== null
  return { api, probes: inside ? { host: "127.0.0.1", port: internalHttpPort, tls: false } : api }
}

/**
 * The folders that may have it, best first. What a service manager made for us is the only one; of the others the first
 * that can be written to, which for an ordinary user is mostly the last.
 */
const foldersOf = (env: Environment): ReadonlyArray<string> => {
  const given = env["RUNTIME_DIRECTORY"]?.split(":")[0]
  if (given) return [given]
  const own = env["XDG_RUNTIME_DIR"]
  return [
    ...(own ? [Path.join(own, "compute-ctl")] : []),
    "/run/compute-ctl",
    `/tmp/compute-ctl-${process.geteuid?.() ?? 0}`
  ]
}

/** In /tmp anybody may have made a folder of that name. */
const isSafe = (folder: string): boolean => {
  const stat = FS.lstatSync(folder, { throwIfNoEntry: false })
  const uid = process.geteuid?.()
  return stat?.isDirectory() === true && (!folder.startsWith("/tmp/") || stat.uid === uid)
}

const named = /^ports-(\d{1,10})$/

const textOf = (pid: number, { api, probes }: Ports): string =>
  [
    `pid=${pid}`,
    `started=${processOf(pid)?.startedAt ?? ""}`,
    `host=${api.host}`,
    `port=${api.port}`,
    `scheme=${api.tls ? "https" : "http"}`,
    `probe_host=${probes.host}`,
    `probe_port=${probes.port}`,
    `probe_scheme=${probes.tls ? "https" : "http"}`,
    ""
  ].join("\n")

const portOf = (fields: ReadonlyMap<string, string>, prefix: string): Port | null => {
  const host = fields.get(`${prefix}host`)
  const port = Number(fields.get(`${prefix}port`))
  if (!host || !Number.isInteger(port) || port < 1 || port > 65535) return null
  return { host, port, tls: fields.get(`${prefix}scheme`) === "https" }
}

/** `null`: it is not whole, or whoever left it is gone. */
const read = (file: string): Ports | null => {
  try {
    const lines = FS.readFileSync(file, "utf8").slice(0, 10_000).split("\n")
    const fields = new Map(lines.map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]))
    const pid = Number(fields.get("pid"))
    const startedAt = fields.get("started") ?? ""
    if (!(startedAt === "" ? isAlive(pid) : isAlive({ pid, name: "", startedAt }))) return null
    const api = portOf(fields, "")
    const probes = portOf(fields, "probe_")
    return api === null || probes === null ? null : { api, probes }
  } catch {
    return null
  }
}

const filesIn = (folder: string): ReadonlyArray<string> => {
  try {
    return isSafe(folder) ? FS.readdirSync(folder).filter((name) => named.test(name)) : []
  } catch {
    return []
  }
}

/** Of every compute that runs here and can be seen. */
export const portsOfComputes = (env: Environment): ReadonlyArray<Ports> =>
  foldersOf(env).flatMap((folder) =>
    filesIn(folder).flatMap((name) => {
      const ports = read(Path.join(folder, name))
      return ports === null ? [] : [ports]
    })
  )

const write = (folder: string, ports: Ports): string => {
  FS.mkdirSync(folder, { recursive: true, mode: 0o755 })
  if (!isSafe(folder)) throw new Error(`${folder} is somebody else's`)
  for (const name of filesIn(folder)) {
    if (read(Path.join(folder, name)) === null) FS.rmSync(Path.join(folder, name), { force: true })
  }
  const file = Path.join(folder, `ports-${process.pid}`)
  FS.rmSync(`${file}.new`, { force: true })
  FS.writeFileSync(`${file}.new`, textOf(process.pid, ports), { mode: 0o644, flag: "wx" })
  FS.renameSync(`${file}.new`, file)
  return file
}

const writeSomewhere = (env: Environment, ports: Ports): Effect.Effect<string, FileFailed> => {
  const [first = "", ...rest] = foldersOf(env)
  return rest.reduce(
    (sooner, folder) => Effect.catch(sooner, () => attempt("write to", folder, () => write(folder, ports))),
    attempt("write to", first, () => write(first, ports))
  )
}

const remove = (file: string): void => {
  FS.rmSync(file, { force: true })
  try {
    FS.rmdirSync(Path.dirname(file))
  } catch {
    // Another compute's is there, or the folder is not ours to remove.
  }
}

/** Leaves it until the scope closes. Where there is no place for it, whoever asks needs flags: nothing fails. */
export const leavePorts = (env: Environment, ports: Ports): Effect.Effect<void, never, Scope.Scope> =>
  Effect.acquireRelease(
    writeSomewhere(env, ports).pipe(
      Effect.catch(({ message }) =>
        Effect.as(Effect.logDebug(`${message}; compute_ctl health and status need the flags of this run`), null)
      )
    ),
    (file) => Effect.sync(() => file !== null && remove(file))
  ).pipe(Effect.asVoid)
