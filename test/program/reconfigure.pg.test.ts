/**
 * A later spec on a running Postgres: a file with a mistake is never put in place, nor one that would lock everybody
 * out or keep Postgres from starting again; what waits for a restart is logged, files of a spec that fails later go
 * back, and the next good spec heals a compute that failed so. Postgres runs all the while.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import { notifySocket } from "../support/notifySocket.ts"
import { installs } from "../support/postgres.ts"
import { eventually, launch, localArguments, place, type Program, rows } from "./harness.ts"

const specWith = (settings: Readonly<Record<string, string>>) => ({
  format_version: 1,
  suspend_timeout_seconds: -1,
  cluster: {
    roles: [],
    databases: [],
    settings: Object.entries({ max_connections: "30", ...settings }).map(([name, value]) => ({
      name,
      value,
      vartype: "string"
    }))
  }
})

const post = (program: Program, spec: unknown) =>
  Effect.promise(() =>
    program.http("/configure", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ spec })
    })
  )

const configure = (program: Program, settings: Readonly<Record<string, string>>) => post(program, specWith(settings))

const times = (text: string, what: string): number => text.split(what).length - 1

describe.each(installs)("reconfiguration on Postgres $major ($postgres)", ({ postgres }) => {
  it.live(
    "mistakes are refused, restarts are waited for, and the next good spec heals",
    () =>
      Effect.scoped(
        Effect.gen(function* () {
          const at = yield* place
          const program = yield* launch(
            localArguments(at, specWith({ work_mem: "5MB" }), ["-b", postgres]),
            at.httpPort
          )
          yield* Effect.promise(() => program.reaches("running"))
          const conf = `${at.directory}/pgdata/postgresql.conf`
          const pid = yield* rows(at, "select pg_backend_pid(), pg_postmaster_start_time()")
          const before = fs.readFileSync(conf, "utf8")
          const reloads = () => times(program.output(), "received SIGHUP, reloading configuration files")
          const reloadsBefore = reloads()

          for (const [settings, why] of [
            [{ work_mem: "a lot" }, /postgresql\.conf line \d+: work_mem: setting could not be applied/],
            [{ no_such_thing: "1" }, /postgresql\.conf line \d+: no_such_thing: unrecognized configuration parameter/],
            [{ max_connections: "many" }, /postgresql\.conf line \d+: max_connections: setting could not be applied/]
          ] as const) {
            const refused = yield* configure(program, settings)
            assert.isAtLeast(refused.status, 400, refused.text)
            const status = yield* Effect.promise(() => program.status())
            assert.strictEqual(status.status, "failed")
            assert.match(status.error ?? "", why)
            assert.strictEqual(fs.readFileSync(conf, "utf8"), before, "the file was put back")
          }
          assert.strictEqual(reloads(), reloadsBefore, "nothing was reloaded")
          assert.deepStrictEqual(yield* rows(at, "show work_mem"), [["5MB"]])

          const healed = yield* configure(program, { work_mem: "6MB", Max_Connections: "40", shared_buffers: "8MB" })
          assert.strictEqual(healed.status, 200, healed.text)
          assert.isNull((yield* Effect.promise(() => program.status())).error)
          assert.match(
            program.output(),
            /setting\(s\) wait for a restart of Postgres: .*max_connections \(30 now, 40 then\)/
          )
          assert.match(program.output(), /shared_buffers \(\d+MB now, 8MB then\)/)
          yield* Effect.promise(() => program.prints(/parameter "work_mem" changed to "6MB"/))
          assert.deepStrictEqual(yield* rows(at, "select count(*) from pg_settings where pending_restart"), [["2"]])
          const reloaded = reloads()

          // Back to what it runs with: nothing waits any more. And once more the same: nothing is reloaded.
          assert.strictEqual((yield* configure(program, { work_mem: "6MB" })).status, 200)
          yield* eventually("another reload", reloads, (now) => now > reloaded)
          assert.strictEqual(times(program.output(), "wait for a restart"), 1, "nothing waits any more")
          const last = reloads()
          assert.strictEqual((yield* configure(program, { work_mem: "6MB" })).status, 200)
          assert.strictEqual(reloads(), last, "the same spec again reloads nothing")
          assert.strictEqual(
            (yield* rows(at, "select 1, pg_postmaster_start_time()"))[0]?.[1],
            pid[0]?.[1],
            "it is the same Postgres"
          )
        })
      ),
    60_000
  )
})

/** What would lock everybody out at once, or keep the next start from being one; and what is said of it. */
const refusals: ReadonlyArray<readonly [string, Readonly<Record<string, string>>, RegExp]> = [
  [
    "a library for every session that is not there",
    { session_preload_libraries: "no_such_lib" },
    /line \d+: session_preload_libraries: no new session would begin: could not access file "no_such_lib"/
  ],
  [
    "one in a list, in the folder of libraries",
    { session_preload_libraries: "auto_explain, $libdir/no_such_lib" },
    /line \d+: session_preload_libraries: no new session would begin: could not access file "\$libdir\/no_such_lib"/
  ],
  [
    "a file that is no library",
    { session_preload_libraries: "/etc/passwd" },
    /line \d+: session_preload_libraries: no new session would begin: could not load library/
  ],
  [
    "a local library that is not there",
    { local_preload_libraries: "no_such_lib" },
    /line \d+: local_preload_libraries: no new session would begin: .* "\$libdir\/plugins\/no_such_lib"/
  ],
  [
    "a local library from elsewhere",
    { local_preload_libraries: "$libdir/auto_explain" },
    /line \d+: local_preload_libraries: no new session would begin: access to library .* is not allowed/
  ],
  [
    "a default that is none",
    { default_transaction_isolation: "junk" },
    /line \d+: default_transaction_isolation: setting could not be applied/
  ],
  [
    "a library for the next start that is not there",
    { shared_preload_libraries: "no_such_lib" },
    /line \d+: Postgres would not start again: could not access file "no_such_lib"/
  ],
  [
    "TLS without a certificate",
    { ssl: "on", ssl_cert_file: "nowhere.crt" },
    /line \d+: Postgres would not start again: could not load server certificate file "nowhere.crt"/
  ],
  [
    "settings that exclude one another",
    { max_connections: "2" },
    /line \d+: Postgres would not start again: .*must be less than/
  ],
  [
    "addresses of other machines",
    { listen_addresses: "192.0.2.1" },
    /line \d+: listen_addresses: none of these is an address of this machine/
  ],
  [
    "a folder for logs that cannot be made",
    { logging_collector: "on", log_directory: "/nowhere/at/all" },
    /line \d+: log_directory: the logging_collector could not write there/
  ]
]

const degraded = (program: Program): Promise<ReadonlyArray<{ readonly code: string }>> =>
  program.http("/conditions").then(({ text }) => JSON.parse(text).degraded)

describe.each(installs)("a spec that would lock everybody out of Postgres $major", ({ postgres }) => {
  it.live("is refused before it is in force, and so is one that would keep it from starting again", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* launch(localArguments(at, specWith({ work_mem: "5MB" }), ["-b", postgres]), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        const conf = `${at.directory}/pgdata/postgresql.conf`
        const before = fs.readFileSync(conf, "utf8")
        for (const [what, settings, why] of refusals) {
          const refused = yield* configure(program, settings)
          assert.isAtLeast(refused.status, 400, what)
          assert.match((yield* Effect.promise(() => program.status())).error ?? "", why, what)
          assert.strictEqual(fs.readFileSync(conf, "utf8"), before, `${what}: the file was put back`)
          assert.deepStrictEqual(yield* rows(at, "select 1"), [["1"]], `${what}: sessions begin`)
        }
        assert.notInclude(program.output(), "received SIGHUP, reloading configuration files\n".repeat(2))
        for (const fine of [
          { session_preload_libraries: "auto_explain" },
          { session_preload_libraries: '"$libdir/auto_explain"', search_path: "nowhere" },
          { shared_preload_libraries: "pg_stat_statements, auto_explain" },
          { logging_collector: "on", log_directory: "logs" }
        ]) {
          const taken = yield* configure(program, fine)
          assert.strictEqual(taken.status, 200, taken.text)
          assert.deepStrictEqual(yield* rows(at, "select 1"), [["1"]])
        }
        const fetchedLater = {
          ...specWith({ shared_preload_libraries: "no_such_lib, pg_stat_statements" }),
          remote_extensions: {
            public_extensions: ["late"],
            custom_extensions: [],
            library_index: { no_such_lib: "late" },
            extension_data: { late: { control_data: {}, archive_path: "" } }
          }
        }
        const taken = yield* post(program, fetchedLater)
        assert.strictEqual(taken.status, 200, `a library that is fetched before the next start: ${taken.text}`)
        yield* eventually(
          "no condition",
          () => degraded(program),
          ({ length }) => length === 0
        )
      })
    )
  )
})

describe("the files of a spec that fails after they are in force", () => {
  it.live("go back when its catalog cannot be applied", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* launch(localArguments(at, specWith({ work_mem: "5MB" })), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        const conf = `${at.directory}/pgdata/postgresql.conf`
        const before = fs.readFileSync(conf, "utf8")
        const spec = specWith({ work_mem: "7MB", max_connections: "50" })
        const refused = yield* post(program, {
          ...spec,
          cluster: { ...spec.cluster, databases: [{ name: "shop", owner: "nobody-of-this-name" }] }
        })
        assert.strictEqual(refused.status, 500, refused.text)
        assert.strictEqual(fs.readFileSync(conf, "utf8"), before)
        yield* eventually(
          "the old setting",
          () => Effect.runPromise(rows(at, "show work_mem")),
          ([row]) => row?.[0] === "5MB"
        )
        yield* eventually(
          "no condition",
          () => degraded(program),
          ({ length }) => length === 0
        )
        assert.include(program.output(), "the configuration files are back to what they were before the failed spec")
        assert.strictEqual((yield* configure(program, { work_mem: "6MB" })).status, 200)
        assert.strictEqual((yield* Effect.promise(() => program.status())).status, "running")
      })
    )
  )

  it.live("go back when new sessions no longer begin, also where there is no catalog to apply", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const program = yield* launch(localArguments(at, specWith({})), at.httpPort)
        yield* Effect.promise(() => program.reaches("running"))
        const spec = specWith({ post_auth_delay: "2000" })
        const refused = yield* post(program, { ...spec, skip_pg_catalog_updates: true })
        assert.isAtLeast(refused.status, 500, refused.text)
        yield* eventually(
          "a session that begins",
          () => Effect.runPromise(rows(at, "show post_auth_delay")),
          ([row]) => row?.[0] === "0"
        )
        assert.strictEqual((yield* configure(program, {})).status, 200)
        yield* eventually(
          "no condition",
          () => degraded(program),
          ({ length }) => length === 0
        )
      })
    )
  )
})

describe("under a service manager", () => {
  it.live("SIGHUP reads the spec again; the manager is told of that, of readiness, of life and of the end", () =>
    Effect.scoped(
      Effect.gen(function* () {
        const at = yield* place
        const path = `${at.directory}/notify`
        const messages = yield* notifySocket(path)
        const args = localArguments(at, specWith({ work_mem: "5MB" }))
        const file = args[args.indexOf("-S") + 1] ?? ""
        const program = yield* launch(args, at.httpPort, { NOTIFY_SOCKET: path, WATCHDOG_USEC: "600000000" })
        const count = (message: string | RegExp) => messages().filter((one) => one.search(message) === 0).length
        const told = (message: string | RegExp, times = 1) =>
          eventually(
            `${times} times ${message} among ${messages().join(", ")}`,
            () => count(message),
            (found) => found >= times
          )
        yield* told("READY=1 STATUS=Postgres accepts connections")
        yield* told("WATCHDOG=1")

        fs.writeFileSync(file, JSON.stringify(specWith({ work_mem: "7MB" })))
        program.signal("SIGHUP")
        yield* told(/RELOADING=1 MONOTONIC_USEC=\d+$/)
        yield* told(/READY=1$/)
        assert.deepStrictEqual(yield* rows(at, "show work_mem"), [["7MB"]])

        fs.writeFileSync(file, "{")
        program.signal("SIGHUP")
        yield* told(/READY=1$/, 2)
        assert.include(program.output(), "the spec was read again and is not applied, so the compute stays as it is")
        assert.strictEqual((yield* Effect.promise(() => program.status())).status, "running")

        program.signal("SIGTERM")
        yield* told(/STOPPING=1 STATUS=Stopping Postgres/)
        assert.deepStrictEqual(yield* Effect.promise(() => program.exit), { code: 0, signal: null })
      })
    )
  )
})
