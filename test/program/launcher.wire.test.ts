/**
 * `bin/compute_ctl` as it is shipped, in a folder of its own with stand-ins for the program and its Node.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { spawn, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"

const launcher = path.resolve(import.meta.dirname, "../../bin/compute_ctl")

/** An installation: only what the test puts into it. */
const installation = Effect.acquireRelease(
  Effect.sync(() => {
    const home = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-launcher ")))
    fs.mkdirSync(path.join(home, "bin"))
    fs.copyFileSync(launcher, path.join(home, "bin/compute_ctl"))
    return home
  }),
  (home) => Effect.sync(() => fs.rmSync(home, { recursive: true, force: true }))
)

const put = (home: string, file: string, text: string, mode = 0o644): void => {
  fs.mkdirSync(path.dirname(path.join(home, file)), { recursive: true })
  fs.writeFileSync(path.join(home, file), text, { mode })
}

const program = (kind: string) => `
  process.stdout.write(JSON.stringify({ kind: "${kind}", args: process.argv.slice(2), flags: process.execArgv }))
  process.exit(7)`

const withBundle = (home: string) => put(home, "dist/compute_ctl.cjs", program("bundle"))
const withSources = (home: string) => {
  put(home, "src/main.ts", program("sources"))
  put(home, "package.json", '{"type":"module"}')
  fs.mkdirSync(path.join(home, "node_modules/effect"), { recursive: true })
}
/** The very Node that runs this test, under the name that npm gives it. */
const withNode = (home: string, at = "node_modules/.bin") => {
  fs.mkdirSync(path.join(home, at), { recursive: true })
  fs.symlinkSync(process.execPath, path.join(home, at, "node"))
}
const fakeNode = (version: string) =>
  `#!/bin/sh\nif [ "$1" = --version ]; then echo ${version}; else echo "fake $*"; fi\n`

const launch = (
  command: string,
  args: ReadonlyArray<string> = [],
  extraPath = "",
  env: Record<string, string> = {}
) => {
  const { status, stderr, stdout } = spawnSync(command, args, {
    encoding: "utf8",
    cwd: "/",
    env: { PATH: `${extraPath}:/usr/bin:/bin`, ...env },
    timeout: 20_000
  })
  return { status, stderr, stdout }
}
interface Started {
  readonly kind: string
  readonly args: ReadonlyArray<string>
  readonly flags: ReadonlyArray<string>
}
const started = (stdout: string) => JSON.parse(stdout) as Started

describe("bin/compute_ctl", () => {
  it.effect("starts the bundle with its arguments as they are, and leaves with its exit code", () =>
    Effect.gen(function* () {
      const home = yield* installation
      withBundle(home)
      withNode(home)
      const { status, stdout } = launch(path.join(home, "bin/compute_ctl"), ["-S", "a b", "", "*", "--x='y'"])
      assert.strictEqual(status, 7)
      const { args, flags, kind } = started(stdout)
      assert.strictEqual(kind, "bundle")
      assert.deepStrictEqual(args, ["-S", "a b", "", "*", "--x='y'"])
      assert.include(flags, "--disable-sigusr1")
    })
  )

  it.effect("finds its home through links, absolute, relative and chained", () =>
    Effect.gen(function* () {
      const home = yield* installation
      withBundle(home)
      withNode(home, "node_modules/node/bin")
      fs.symlinkSync("../bin/compute_ctl", path.join(home, "dist/relative"))
      fs.symlinkSync(path.join(home, "dist/relative"), path.join(home, "absolute"))
      assert.strictEqual(started(launch(path.join(home, "absolute")).stdout).kind, "bundle")
    })
  )

  it.effect("starts the sources where there is no bundle", () =>
    Effect.gen(function* () {
      const home = yield* installation
      withSources(home)
      withNode(home)
      const { stderr, stdout } = launch(path.join(home, "bin/compute_ctl"))
      assert.strictEqual(started(stdout).kind, "sources")
      assert.strictEqual(stderr, "")
    })
  )

  it.effect("starts the sources of a checkout that are newer than its bundle", () =>
    Effect.gen(function* () {
      const home = yield* installation
      withBundle(home)
      withSources(home)
      withNode(home)
      const age = (file: string, seconds: number) => fs.utimesSync(path.join(home, file), seconds, seconds)
      age("dist/compute_ctl.cjs", 2_000_000)
      age("src/main.ts", 3_000_000)
      const kind = () => started(launch(path.join(home, "bin/compute_ctl")).stdout).kind
      assert.strictEqual(kind(), "bundle", "an installed package is not a checkout")
      fs.mkdirSync(path.join(home, ".git"))
      assert.strictEqual(kind(), "sources")
      age("src/main.ts", 1_000_000)
      assert.strictEqual(kind(), "bundle")
    })
  )

  it.effect("starts the snapshot, and the bundle where that is of another Node or another program", () =>
    Effect.gen(function* () {
      const home = yield* installation
      withBundle(home)
      withNode(home)
      const node = path.join(home, "node_modules/.bin/node")
      const snapshot = path.join(home, "dist/compute_ctl.snapshot")
      const main = program("snapshot").replace("process.execArgv", "[]")
      put(home, "main.cjs", `require("node:v8").startupSnapshot.setDeserializeMainFunction(() => {${main}})`)
      const built = launch(node, ["--snapshot-blob", snapshot, "--build-snapshot", path.join(home, "main.cjs")])
      assert.strictEqual(built.status, 0, built.stderr)
      const kind = (env: Record<string, string> = {}) =>
        started(launch(path.join(home, "bin/compute_ctl"), ["a b"], "", env).stdout).kind

      assert.strictEqual(kind(), "bundle", "nobody says whose the snapshot is")
      put(home, "dist/compute_ctl.snapshot.node", `${node}\n${process.version}\n`)
      assert.strictEqual(kind(), "snapshot")
      const { stdout } = launch(path.join(home, "bin/compute_ctl"), ["-S", "a b", "", "--help"])
      assert.deepStrictEqual(started(stdout).args, ["-S", "a b", "", "--help"])
      assert.strictEqual(kind({ NODE_OPTIONS: "--no-warnings" }), "bundle", "Node's options may not suit a snapshot")

      const later = Date.now() / 1000 + 60
      fs.utimesSync(path.join(home, "dist/compute_ctl.cjs"), later, later)
      assert.strictEqual(kind(), "bundle", "the program is newer")
      fs.utimesSync(path.join(home, "dist/compute_ctl.cjs"), 0, 0)
      assert.strictEqual(kind(), "snapshot")

      put(home, "dist/compute_ctl.snapshot.node", `/usr/bin/node\n${process.version}\n`)
      assert.strictEqual(kind(), "bundle", "another Node made it")
    })
  )

  it.effect("starts the bundle where the Node of the PATH has another version than the snapshot's", () =>
    Effect.gen(function* () {
      const home = yield* installation
      withBundle(home)
      put(home, "path/node", fakeNode("v26.1.0"), 0o755)
      fs.utimesSync(path.join(home, "path/node"), 0, 0)
      put(home, "dist/compute_ctl.snapshot", "")
      const starts = () => launch(path.join(home, "bin/compute_ctl"), ["x"], path.join(home, "path")).stdout
      put(home, "dist/compute_ctl.snapshot.node", `${home}/path/node\nv26.1.0\n`)
      assert.match(starts(), /^fake --snapshot-blob /)
      put(home, "dist/compute_ctl.snapshot.node", `${home}/path/node\nv26.0.9\n`)
      assert.notMatch(starts(), /--snapshot-blob/)
    })
  )

  it.effect("takes a Node from the PATH if it is new enough", () =>
    Effect.gen(function* () {
      const home = yield* installation
      withBundle(home)
      for (const version of ["v22.19.0", "v22.20.1", "v23.0.0", "v100.1.0"]) {
        put(home, "path/node", fakeNode(version), 0o755)
        const { status, stdout } = launch(path.join(home, "bin/compute_ctl"), ["x"], path.join(home, "path"))
        assert.strictEqual(status, 0)
        assert.match(stdout, /^fake .*\/dist\/compute_ctl\.cjs x$/m)
      }
    })
  )

  it.effect.each([["v22.18.9"], ["v20.20.2"], ["v9.99.0"], ["nonsense"]])("refuses %s in one line", ([version]) =>
    Effect.gen(function* () {
      const home = yield* installation
      withBundle(home)
      put(home, "path/node", fakeNode(version ?? ""), 0o755)
      const { status, stderr, stdout } = launch(path.join(home, "bin/compute_ctl"), [], path.join(home, "path"))
      assert.deepStrictEqual({ status, stdout }, { status: 1, stdout: "" })
      assert.match(stderr, /^compute_ctl: .*Node\.js 22\.19 or newer is needed\n$/)
    })
  )

  it.effect(
    "falls back to a Node of the PATH where its own does not run, and says of each why not where none does",
    () =>
      Effect.gen(function* () {
        const home = yield* installation
        withBundle(home)
        const own = path.join(home, "node_modules/node/bin/node")
        const libatomic = "libatomic.so.1: cannot open shared object file: No such file or directory"
        put(
          home,
          "node_modules/node/bin/node",
          `#!/bin/sh\necho "node: ${libatomic}" >&2\necho more >&2\nexit 127\n`,
          0o755
        )
        put(home, "old/node", fakeNode("v20.20.2"), 0o755)
        put(home, "path/node", fakeNode("v24.1.0"), 0o755)
        const [old, good] = [path.join(home, "old"), path.join(home, "path")]
        const found = launch(path.join(home, "bin/compute_ctl"), ["x"], `${home}/node_modules/.bin:${old}:${good}`)
        assert.deepStrictEqual([found.status, found.stderr], [0, ""])
        assert.match(found.stdout, /^fake .*\/dist\/compute_ctl\.cjs x$/m)
        const { status, stderr } = launch(path.join(home, "bin/compute_ctl"), ["x"], old)
        assert.strictEqual(status, 1)
        assert.include(stderr, `${own} does not run (node: ${libatomic}; install it (apt-get install libatomic1`)
        assert.include(stderr, `${old}/node is v20.20.2; `)
        assert.match(stderr, /^compute_ctl: [^\n]*Node\.js 22\.19 or newer is needed\n$/)
      })
  )

  it.effect("tries no Node again that has made the snapshot", () =>
    Effect.gen(function* () {
      const home = yield* installation
      withBundle(home)
      const own = path.join(home, "node_modules/node/bin/node")
      put(home, "node_modules/node/bin/node", `#!/bin/sh\necho "$*" >> '${home}/asked'; echo v26.1.0\n`, 0o755)
      fs.utimesSync(own, 0, 0)
      fs.utimesSync(path.join(home, "dist/compute_ctl.cjs"), 0, 0)
      const asked = () => fs.readFileSync(path.join(home, "asked"), "utf8").trim().split("\n")
      launch(path.join(home, "bin/compute_ctl"), ["x"])
      assert.strictEqual(asked().shift(), "--version")
      put(home, "dist/compute_ctl.snapshot", "")
      put(home, "dist/compute_ctl.snapshot.node", `${own}\nv26.1.0\n`)
      fs.rmSync(path.join(home, "asked"))
      launch(path.join(home, "bin/compute_ctl"), ["x"])
      assert.match(asked().join("\n"), /^--snapshot-blob [^\n]+ x$/)
    })
  )

  it.effect("sets a compile cache under the user's own home, unless one is set or the home is somebody else's", () =>
    Effect.gen(function* () {
      const home = yield* installation
      withNode(home)
      put(home, "dist/compute_ctl.cjs", "process.stdout.write(String(process.env.NODE_COMPILE_CACHE))")
      const cache = (env: Record<string, string>) => launch(path.join(home, "bin/compute_ctl"), [], "", env).stdout
      assert.strictEqual(cache({}), "undefined")
      assert.strictEqual(cache({ HOME: home }), path.join(home, ".cache/compute-ctl"))
      assert.strictEqual(cache({ HOME: "/nowhere", XDG_CACHE_HOME: home }), path.join(home, "compute-ctl"))
      assert.strictEqual(cache({ HOME: home, NODE_COMPILE_CACHE: "" }), "")
      assert.strictEqual(cache({ HOME: "/nowhere" }), "undefined")
      if (process.getuid?.() !== 0) return assert.strictEqual(cache({ HOME: "/" }), "undefined")
      const theirs = path.join(home, "theirs")
      fs.mkdirSync(theirs)
      fs.chownSync(theirs, 65534, 65534)
      assert.strictEqual(cache({ HOME: theirs }), "undefined")
    })
  )

  it.effect("tunes the allocator, where nobody else has, and says which variables are its own", () =>
    Effect.gen(function* () {
      const home = yield* installation
      withNode(home)
      const names = ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "COMPUTE_CTL_OWN_VARIABLES"]
      put(
        home,
        "dist/compute_ctl.cjs",
        `process.stdout.write(${JSON.stringify(names)}.map((name) => process.env[name]).join())`
      )
      const seen = (env: Record<string, string>) => launch(path.join(home, "bin/compute_ctl"), [], "", env).stdout
      assert.strictEqual(seen({}), "1,131072,MALLOC_ARENA_MAX MALLOC_TRIM_THRESHOLD_")
      assert.strictEqual(seen({ MALLOC_ARENA_MAX: "4" }), "4,,")
      assert.strictEqual(seen({ MALLOC_TRIM_THRESHOLD_: "" }), ",,")
      assert.strictEqual(seen({ GLIBC_TUNABLES: "glibc.malloc.arena_max=4" }), ",,")
    })
  )

  it.effect("names what is missing in one line", () =>
    Effect.gen(function* () {
      const home = yield* installation
      withNode(home)
      const nothing = launch(path.join(home, "bin/compute_ctl"))
      assert.strictEqual(nothing.status, 1)
      assert.match(nothing.stderr, /^compute_ctl: neither [^\n]+ not whole\n$/)
      put(home, "src/main.ts", program("sources"))
      const packages = launch(path.join(home, "bin/compute_ctl"))
      assert.strictEqual(packages.status, 1)
      assert.match(packages.stderr, /^compute_ctl: [^\n]+npm ci[^\n]+\n$/)
    })
  )
})

describe("npm start", () => {
  it.effect("passes a SIGTERM on to the compute, and waits for its end", () =>
    Effect.gen(function* () {
      const home = yield* installation
      fs.copyFileSync(path.resolve(path.dirname(launcher), "../package.json"), path.join(home, "package.json"))
      const compute =
        "#!/bin/sh\ntrap 'sleep 0.2; echo stopped in order; exit 0' TERM\necho up\nwhile :; do sleep 0.1; done\n"
      put(home, "bin/compute_ctl", compute, 0o755)
      const npm = spawn("npm", ["start", "--silent"], { cwd: home, stdio: ["ignore", "pipe", "inherit"] })
      let said = ""
      npm.stdout.on("data", (chunk: Buffer) => {
        const first = said === ""
        said += chunk.toString()
        if (first) npm.kill("SIGTERM")
      })
      const code = yield* Effect.promise(() => new Promise((resolve) => npm.on("close", resolve)))
      assert.deepStrictEqual([code, said], [0, "up\nstopped in order\n"])
    })
  )
})
