/**
 * What a start costs, beside a bare HTTP server and beside a plain shell script that does the same Postgres work.
 *
 * `npm run bench:start [-- RUNS [BUNDLE]]`. All kinds of start take turns, so what slows the machine slows them all:
 * read ratios, not milliseconds. Builds the bundle when it is missing or old. Leaves no process and no folder behind.
 */
import * as Result from "effect/Result"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { makeSnapshot } from "../../.ci/snapshot.ts"
import { startPlan } from "../../src/postgres/startPlan.ts"
import { parseSpec } from "../../src/spec/parseSpec.ts"
import { type Phase, printPhases, watchPhases } from "./startPhases.ts"
import { endAll, endPostgres, freePort, memoryOf, postmasterOf, start, type Started, until, user } from "./startRuns.ts"

const rounds = Number(process.argv[2] ?? 10)
const root = path.resolve(import.meta.dirname, "../..")
const node = path.join(root, "node_modules/node/bin/node")
const given = process.argv[3]
const built = given ?? path.join(root, "dist/compute_ctl.cjs")
const psql = ["/usr/bin/psql", "/usr/local/bin/psql"].find((file) => fs.existsSync(file))

const newest = (folder: string): number =>
  fs
    .readdirSync(folder, { recursive: true, encoding: "utf8" })
    .reduce((last, name) => Math.max(last, fs.statSync(path.join(folder, name)).mtimeMs), 0)
if (given === undefined && (!fs.existsSync(built) || fs.statSync(built).mtimeMs < newest(path.join(root, "src")))) {
  console.log("building the bundle")
  execFileSync(process.execPath, [path.join(root, ".ci/build.ts")], { cwd: root, stdio: "ignore" })
}

const home = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-bench-")))
fs.chmodSync(home, 0o755)
const at = (...names: ReadonlyArray<string>) => path.join(home, ...names)
const folder = (name: string): string => {
  fs.mkdirSync(at(name), { recursive: true })
  if (user !== null) fs.chownSync(at(name), user.uid, user.gid)
  return at(name)
}
const env = {
  ...Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^PG|^NEON_|^LC_|^LANG|^NODE_|^XDG_/.test(name))
  ),
  XDG_CACHE_HOME: at("cache")
}
fs.mkdirSync(at("cache"))
// An installation of its own: as users have it, and untouched by whoever edits the sources meanwhile.
for (const part of ["bin", "dist"]) fs.mkdirSync(at(part))
fs.symlinkSync(path.join(root, "node_modules"), at("node_modules"))
const [bundle, launcher] = [at("dist/compute_ctl.cjs"), at("bin/compute_ctl")]
fs.copyFileSync(built, bundle)
fs.copyFileSync(path.join(root, "bin/compute_ctl"), launcher)
makeSnapshot(at("dist"))
// Where the launcher finds this very Node in this installation.
fs.writeFileSync(at("dist/compute_ctl.snapshot.node"), `${at("node_modules/node/bin/node")}\n${process.version}\n`)
const [port, httpPort, internalPort] = [await freePort(), await freePort(), await freePort()]

// -- the specs ---------------------------------------------------------------------------------------------------

interface SpecText {
  readonly cluster: {
    readonly roles: ReadonlyArray<{ readonly name: string; readonly encrypted_password: string }>
    readonly databases: ReadonlyArray<{ readonly name: string; readonly owner: string }>
  }
}
const example: SpecText = JSON.parse(fs.readFileSync(path.join(root, "examples/spec.json"), "utf8"))
const specs = {
  empty: { ...example, cluster: { ...example.cluster, roles: [], databases: [] }, delta_operations: [] },
  example
} as const
type Name = keyof typeof specs
const names = ["empty", "example"] as const
for (const name of names) fs.writeFileSync(at(`${name}.json`), JSON.stringify(specs[name]))
fs.writeFileSync(at("none.json"), JSON.stringify({ spec: null, compute_ctl_config: { jwks: { keys: [] } } }))
const sql = [
  ...example.cluster.roles.map(
    (role) => `CREATE ROLE "${role.name}" LOGIN CREATEDB CREATEROLE PASSWORD '${role.encrypted_password}';`
  ),
  ...example.cluster.databases.map(({ name, owner }) => `CREATE DATABASE "${name}" OWNER "${owner}";`)
]
fs.writeFileSync(at("example.sql"), [...sql, "SELECT 1;"].join("\n"))
fs.writeFileSync(at("empty.sql"), "SELECT 1;")

// -- figures -----------------------------------------------------------------------------------------------------

const figures = new Map<string, Array<number>>()
const keep = (name: string, value: number): void => void figures.set(name, [...(figures.get(name) ?? []), value])
const phasesOf = new Map<string, Array<ReadonlyArray<Phase>>>()
const median = (name: string): number => {
  const sorted = [...(figures.get(name) ?? [])].sort((one, other) => one - other)
  return (
    ((sorted[Math.floor((sorted.length - 1) / 2)] ?? NaN) + (sorted[Math.ceil((sorted.length - 1) / 2)] ?? NaN)) / 2
  )
}
const show = (name: string, against: string | null = null, unit = "ms"): void => {
  const all = figures.get(name) ?? [NaN]
  const range = `(${Math.min(...all).toFixed(0)}..${Math.max(...all).toFixed(0)})`
  const ratio = against === null ? "" : `   ${(median(name) / median(against)).toFixed(2)} x ${against}`
  console.log(`  ${name.padEnd(52)} ${median(name).toFixed(1).padStart(7)} ${unit} ${range.padEnd(14)}${ratio}`)
}

// -- (a) HTTP ----------------------------------------------------------------------------------------------------

const bare = `require("node:http").createServer((_, answer) => answer.end("ok")).listen(${httpPort})`
const waiting = [
  `--storage=local:${at("waiting")}`,
  `--config=${at("none.json")}`,
  `--external-http-port=${httpPort}`,
  `--internal-http-port=${internalPort}`
]

const http = async (name: string, command: string, args: ReadonlyArray<string>): Promise<void> => {
  const run = start(command, args, env)
  keep(name, await run.accepts(httpPort))
  await run.end("SIGTERM")
}
const httpRound = async (): Promise<void> => {
  await http("bare node:http", node, ["-e", bare])
  await http("node dist/compute_ctl.cjs", node, [bundle, ...waiting])
  await http("bin/compute_ctl", launcher, waiting)
}

// -- (b) running -------------------------------------------------------------------------------------------------

const launch = (name: Name, place: string): Started =>
  start(
    launcher,
    [
      `--storage=local:${at(place)}/storage`,
      `--pgdata=${at(place)}/pgdata`,
      `--spec-path=${at(`${name}.json`)}`,
      `--connstr=postgresql://cloud_admin@127.0.0.1:${port}/postgres`,
      `--http-port=${httpPort}`,
      ...(user === null ? [] : ["--run-as", user.name])
    ],
    env
  )

/** From when the first step began until the second had ended, by the log's own times. */
const between = (text: string, first: string, last: string): number => {
  const line = (step: string) => new RegExp(`^(\\S+) .*INFO ${step}: (\\d+) ms(?: \\{.*\\})?$`, "m").exec(text)
  const [from, to] = [line(first), line(last)]
  return Date.parse(to?.[1] ?? "") - Date.parse(from?.[1] ?? "") + Number(from?.[2])
}

const running = async (name: Name, kind: string, place: string): Promise<Started> => {
  const run = launch(name, place)
  const up = run.accepts(httpPort)
  const phases = watchPhases(run)
  keep(`ours, ${name}, ${kind}`, await run.says(/ to running: /))
  keep(`${name}, ${kind}: until HTTP answers`, await up)
  phasesOf.set(`${name}, ${kind}`, [...(phasesOf.get(`${name}, ${kind}`) ?? []), await phases])
  const text = run.said()
  keep(`${name}, ${kind}: wipe to ready`, between(text, "build PGDATA", "start Postgres"))
  keep(`${name}, ${kind}: wipe to applied`, between(text, "build PGDATA", "apply the spec"))
  return run
}

/** The upkeep after a start has come to its end: the next spare lies ready, and nothing is being said. */
const settled = async (run: Started, place: string, name: Name): Promise<void> => {
  const timeline = at(place, "storage", "3d1f7595b468230304e0b73cecbcb081", "7f1a2c9be04d4d5c8a6e90b1f2c3d4e5")
  await until(`the spare of ${name}`, () => fs.existsSync(path.join(timeline, "spare.id")))
  await until("quiet", () => performance.now() - run.saidAt() > 300)
}

const ours = async (name: Name, round: number): Promise<void> => {
  const place = `ours-${name}-${round}`
  folder(place)
  fs.mkdirSync(at(place, "storage"))
  if (user !== null) fs.chownSync(at(place, "storage"), user.uid, user.gid)
  fs.cpSync(at("seed/storage/templates"), at(place, "storage/templates"), { recursive: true })
  if (user !== null) execFileSync("chown", ["-R", `${user.uid}:${user.gid}`, at(place, "storage")])
  const cold = await running(name, "first start", place)
  await settled(cold, place, name)
  await cold.end("SIGTERM")
  const warm = await running(name, "after a clean stop", place)
  await settled(warm, place, name)
  const { own, resident } = memoryOf(warm.pid)
  keep(`resident, ${name}`, resident)
  keep(`of it our own (RssAnon), ${name}`, own)
  await warm.end("SIGKILL")
  const crashed = await running(name, "after kill -9", place)
  await crashed.end("SIGTERM")
}

// -- the plain script --------------------------------------------------------------------------------------------

const template = (): string => {
  const templates = at("seed/storage/templates")
  return path.join(templates, fs.readdirSync(templates).find((name) => !name.startsWith(".")) ?? "")
}
const osUser = user?.name ?? os.userInfo().username
const client = `const s = require("node:net").connect(process.argv[1]);
const body = Buffer.from("\\0\\x03\\0\\0user\\0cloud_admin\\0database\\0postgres\\0\\0", "latin1");
const frame = (type, bytes) => {
  const size = Buffer.alloc(4)
  size.writeInt32BE(bytes.length + 4)
  return Buffer.concat([Buffer.from(type), size, bytes])
};
const sql = require("node:fs").readFileSync(process.argv[2], "utf8").split(";\\n");
let got = 0, sent = 0;
s.write(frame("", body));
s.on("data", (bytes) => { if (bytes.subarray(-6, -5).toString() !== "Z") return;
  if (sent === sql.length) process.exit(0); s.write(frame("Q", Buffer.from(sql[sent++] + "\\0"))) });`

const conf = (name: Name): void => {
  const spec = Result.getOrThrow(parseSpec(specs[name], { source: "bench", storage: "local", under: [] }))
  const pgdata = at(`plain-${name}`, "pgdata")
  const plan = startPlan(spec, {
    apiVersion: "head",
    postgresMajor: 17,
    platform: process.platform,
    overcommitMemory: null,
    extensionServerPort: httpPort,
    privilegedRole: "neon_superuser",
    storage: { _tag: "Local", durability: "os", superuser: "cloud_admin", pgdata, sockets: pgdata, osUsers: [osUser] },
    port
  })
  folder(`conf-${name}`)
  for (const file of plan.starting) fs.writeFileSync(at(`conf-${name}`, file.name), file.content)
  const { label } = JSON.parse(fs.readFileSync(path.join(template(), "template.json"), "utf8")) as {
    readonly label: string
  }
  fs.writeFileSync(at(`conf-${name}`, "backup_label"), label)
}

const script = async (name: Name, kind: string, postgres: string, extra: NodeJS.ProcessEnv = {}): Promise<void> => {
  const place = `plain-${name}`
  const file = at(kind === "first start" ? `${name}.sql` : "empty.sql")
  const sockets = at(place, "pgdata")
  const ask =
    psql === undefined
      ? [node, "-e", client, `${sockets}/.s.PGSQL.${port}`, file]
      : [
          psql,
          ..."-X -q -o /dev/null -U cloud_admin -d postgres".split(" "),
          "-h",
          sockets,
          "-p",
          String(port),
          "-f",
          file
        ]
  const run = start(
    "/bin/bash",
    [path.join(home, "plainStart.sh"), ...ask],
    {
      ...env,
      PGDATA: at(place, "pgdata"),
      WAL: at(place, "wal"),
      TRASH: at(place, `trash-${performance.now()}`),
      LOG: at(place, "log"),
      TEMPLATE: template(),
      CONF: at(`conf-${name}`),
      POSTGRES: postgres,
      ...extra
    },
    user
  )
  keep(`shell, ${name}, ${kind}`, await run.says(/^answered$/m))
}

const plain = async (name: Name, postgres: string): Promise<void> => {
  const pgdata = at(`plain-${name}`, "pgdata")
  fs.rmSync(at(`plain-${name}`), { recursive: true, force: true })
  folder(`plain-${name}`)
  await script(name, "first start", postgres)
  await endPostgres(pgdata, "SIGINT")
  await script(name, "after a clean stop", postgres)
  await script(name, "after kill -9", postgres, { LEFT: String(postmasterOf(pgdata)) })
  await endPostgres(pgdata, "SIGINT")
}

// -- all of it ---------------------------------------------------------------------------------------------------

const kinds = ["first start", "after a clean stop", "after kill -9"] as const
const report = (): void => {
  console.log(`\n(a) exec until a connect to the HTTP port succeeds (tried each millisecond)`)
  show("bare node:http")
  show("node dist/compute_ctl.cjs", "bare node:http")
  show("bin/compute_ctl", "bare node:http")
  console.log(
    `\n(b) exec of bin/compute_ctl until it logs running; ` +
      `the script until ${psql === undefined ? "a small node client" : "psql"} has its answer`
  )
  for (const name of names) {
    for (const kind of kinds) {
      show(`shell, ${name}, ${kind}`)
      show(`ours, ${name}, ${kind}`, `shell, ${name}, ${kind}`)
    }
  }
  show("first of a machine, initdb and all")
  console.log("\n(c) inside: PGDATA wiped and built, Postgres ready (the floor is about 50 ms)")
  for (const name of names)
    for (const kind of kinds) for (const to of ["ready", "applied"]) show(`${name}, ${kind}: wipe to ${to}`)
  for (const [what, runs] of phasesOf) printPhases(what, runs)
  console.log("\n(d) memory of compute_ctl while Postgres runs and nothing happens")
  for (const name of names) {
    show(`resident, ${name}`, null, "MB")
    show(`of it our own (RssAnon), ${name}`, null, "MB")
  }
}

try {
  fs.copyFileSync(path.join(import.meta.dirname, "plainStart.sh"), at("plainStart.sh"))
  // The first start of all makes the template, and its clean end writes the compiled code that later ones find.
  folder("seed")
  const seed = launch("empty", "seed")
  keep("first of a machine, initdb and all", await seed.says(/ to running: /))
  const postgres = fs.readlinkSync(`/proc/${postmasterOf(at("seed/pgdata"))}/exe`)
  await seed.end("SIGTERM")
  for (const name of names) conf(name)
  const began = performance.now()
  for (let round = 0; round < rounds; round++) {
    await httpRound()
    for (const name of names) {
      await ours(name, round)
      await plain(name, postgres)
    }
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(0)
  console.log(
    `${rounds} rounds in ${seconds} s, load ${os.loadavg()[0]?.toFixed(1)}, ${os.cpus().length} CPUs, ` +
      `Node ${execFileSync(node, ["--version"], {
        encoding: "utf8"
      }).trim()}, ${user === null ? "not root" : "as root, Postgres as nobody"}`
  )
  console.log("median (min..max)")
  report()
} finally {
  await endAll(home)
  fs.rmSync(home, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })
}
