/**
 * The crash report: a sentence for every way to leave, and what the log says about it. The logs in `crashLogs` are
 * those of real servers, 14 to 18, each brought to its end in the way its heading says.
 */
import { assert, describe, it } from "@effect/vitest"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { crashReport } from "../../src/postgres/crashReport.ts"

const gaveUp = "it gave up on a fatal error: "
const killed = /; it was killed outright: by the kernel if memory ran out .*, or by an operator$/.source

/** By the heading in the logs. */
const ends: Readonly<Record<string, string | RegExp>> = {
  "port taken": `${gaveUp}its port is taken`,
  "foreign address": `${gaveUp}an address of listen_addresses is not one of this machine`,
  "bad host": `${gaveUp}a name in listen_addresses has no address`,
  "priv port": `${gaveUp}it may not listen on its port: ports below 1024 are root's`,
  "no socket dir": `${gaveUp}the folder of unix_socket_directories is missing, or it may not write there`,
  "long socket": `${gaveUp}the path of unix_socket_directories is too long`,
  "lib missing": `${gaveUp}a library that it is to load is missing, broken or of another version`,
  "unknown setting": `${gaveUp}its configuration has an error: a setting that it does not know`,
  "bad value": `${gaveUp}its configuration has an error`,
  "conf error": `${gaveUp}its configuration has an error: a setting that it does not know`,
  "conf syntax": `${gaveUp}its configuration has an error: a file that is missing or cannot be read`,
  "include missing": `${gaveUp}its configuration has an error: a file that is missing or cannot be read`,
  "too big": `${gaveUp}its configuration has an error`,
  maxconn: /configuration has an error|add up to more processes than there can be/,
  hugepages: /not enough memory, or there are not enough huge pages, for shared_buffers and max_connections/,
  "bad locale": `${gaveUp}a locale is missing on this machine`,
  "bad locale time": `${gaveUp}a locale is missing on this machine`,
  "ssl missing": `${gaveUp}its TLS certificate or key is missing or unusable`,
  perms: `${gaveUp}the data directory has the wrong owner or mode`,
  version: `${gaveUp}the data directory was made by another version or build`,
  "no control": /refused its arguments or its data directory; the data directory is missing or is none$/,
  "no hba": `${gaveUp}pg_hba.conf is missing or has an error`,
  "bad hba": `${gaveUp}pg_hba.conf is missing or has an error`,
  "recovery no restore": /^the startup process \(pid \d+\) exited with exit code 1; its configuration has an error$/,
  "recovery fail": /^the startup process \(pid \d+\) exited .*; there is less WAL than its recovery needs$/,
  "no checkpoint": /^the startup process \(pid \d+\) .*; the data directory has no checkpoint to recover from$/,
  walmissing: `${gaveUp}its configuration has an error`,
  owner: /^the startup process \(pid \d+\) .*; it may not use one of its files$/,
  "killed backend": new RegExp(
    `^a backend \\(pid \\d+\\) was terminated by signal 9: Killed, and restart_after_crash is off${killed}`
  ),
  "killed segv": /^a backend \(pid \d+\) was terminated by signal 11: Segmentation fault.*a bug in Postgres or in a/,
  "killed checkpointer": new RegExp(`^the checkpointer \\(pid \\d+\\) was terminated by signal 9: Killed.*${killed}`),
  "killed walwriter": new RegExp(`^the WAL writer \\(pid \\d+\\) was terminated by signal 9: Killed.*${killed}`),
  "second postmaster": `${gaveUp}another Postgres runs in this data directory`
}

const logsOf = (major: number) =>
  fs
    .readFileSync(path.join(import.meta.dirname, "crashLogs", `${major}.txt`), "utf8")
    .split("=== ")
    .slice(1)
    .map((section) => {
      const [heading = "", ...records] = section.trimEnd().split("\n")
      const [name = "", code = ""] = heading.split(": ")
      return { name, code: Number(code), records }
    })

/** What cannot be provoked on any machine, in Postgres's words. */
const lines: ReadonlyArray<readonly [line: string, says: string]> = [
  ["FATAL:  could not create semaphores: No space left on device", "the kernel has too few semaphores"],
  ["DETAIL:  Failed system call was semget(5432001, 17, 03600).", "the kernel has too few semaphores"],
  [
    "FATAL:  could not create shared memory segment: No space left on device",
    "the kernel has no System V shared memory left"
  ],
  ["DETAIL:  Failed system call was shmget(key=5432001, size=56, 03600).", "the kernel has no System V shared memory"],
  [
    'FATAL:  could not resize shared memory segment "/PostgreSQL.1804289383" to 1048576 bytes: No space left on device',
    "/dev/shm is full"
  ],
  [
    "FATAL:  pre-existing shared memory block (key 10015693, ID 786485) is still in use",
    "processes of an earlier Postgres still use this data directory"
  ],
  ["FATAL:  huge pages not supported on this platform", "huge_pages is on"],
  [
    "LOG:  could not fork checkpointer process: Resource temporarily unavailable",
    "it may start no more processes (ulimit -u, or pids.max of its cgroup)"
  ],
  ["FATAL:  out of memory", "memory ran out"],
  ['PANIC:  could not write to file "pg_wal/xlogtemp.77": No space left on device', "the disk is full"],
  ['FATAL:  could not write lock file "postmaster.pid": No space left on device', "the disk is full"],
  ['FATAL:  could not extend file "base/5/2674": Disk quota exceeded', "the disk quota is used up"],
  ['FATAL:  could not create lock file "postmaster.pid": Read-only file system', "its file system is read-only"],
  ['PANIC:  could not fsync file "pg_wal/000000010000000000000001": Input/output error', "the disk has errors"],
  ['FATAL:  could not open file "base/5/1259": Too many open files', "it may open no more files"],
  ['FATAL:  lock file "/tmp/.s.PGSQL.5432.lock" already exists', "another Postgres has its Unix socket"],
  [
    'FATAL:  could not load library "/usr/lib/x.so": /usr/lib/x.so: undefined symbol: pgstat_init',
    "a library that it is to load"
  ],
  ['FATAL:  incompatible library "/usr/lib/x.so": version mismatch', "a library that it is to load"],
  ['FATAL:  data directory "/data/d" has wrong ownership', "the data directory has the wrong owner or mode"],
  ['FATAL:  "/data/d" is not a valid data directory', "the data directory is missing or is none"],
  ["FATAL:  incorrect checksum in control file", "the control file of the data directory is damaged"],
  ["FATAL:  database locale is incompatible with operating system", "a locale is missing"],
  [
    "FATAL:  recovery aborted because of insufficient parameter settings",
    "a setting of this replica is lower than on its primary"
  ],
  ["FATAL:  highest timeline 1 of the primary is behind recovery timeline 2", "its WAL is of another timeline"],
  ['FATAL:  private key file "server.key" has group or world access', "its TLS certificate or key"],
  ["FATAL:  something that nobody has seen before", "it gave up on a fatal error: something that nobody has seen"]
]

describe("the crash report", () => {
  it("has a sentence for every code and every signal", () => {
    for (let code = 0; code < 256; code++)
      assert.match(crashReport({ _tag: "Code", code }), /^(it|its|the|a) .{10,}/, String(code))
    for (const signal of Object.keys(os.constants.signals)) {
      assert.match(crashReport({ _tag: "Signal", signal }), /^(it|somebody|memory) .{10,}/, signal)
    }
  })

  it("suspects the kernel of a SIGKILL, also when a shell passed it on as a code", () => {
    for (const exit of [
      { _tag: "Signal", signal: "SIGKILL" },
      { _tag: "Code", code: 137 }
    ] as const) {
      assert.match(crashReport(exit), /memory ran out/)
    }
  })

  for (const major of [14, 15, 16, 17, 18]) {
    const logs = logsOf(major)
    it(`says of the log of Postgres ${major} why it ended, for each of ${Object.keys(ends).length} ends`, () => {
      assert.deepStrictEqual(logs.map(({ name }) => name).sort(), Object.keys(ends).sort())
      for (const { code, name, records } of logs) {
        const report = crashReport({ _tag: "Code", code }, records)
        const end = ends[name] ?? ""
        if (typeof end === "string") assert.strictEqual(report, end, name)
        else assert.match(report, end, name)
      }
    })
  }

  it("knows Postgres's other words for what the machine refuses, each for what it is", () => {
    for (const [line, says] of lines) {
      for (const log of [
        [line],
        [`2026-01-01 00:00:00.000 UTC [7] ${line}`, "2026-01-01 00:00:00.001 UTC [7] LOG:  x"]
      ])
        assert.include(crashReport({ _tag: "Code", code: 1 }, log), says, line)
    }
  })

  it("the newest record with a known cause counts, and a vague one only when nothing else says why", () => {
    const log = [
      "FATAL:  could not write: No space left on device",
      'LOG:  could not bind IPv4 address "127.0.0.1": Address already in use',
      "FATAL:  could not create any TCP/IP sockets",
      "LOG:  database system is shut down"
    ]
    assert.strictEqual(crashReport({ _tag: "Code", code: 1 }, log), `${gaveUp}its port is taken`)
    assert.match(crashReport({ _tag: "Code", code: 1 }, log.slice(2)), /can listen on none of its addresses$/)
    assert.notInclude(crashReport({ _tag: "Code", code: 1 }, ["LOG:  hello"]), ";")
  })

  it("does not take a session's errors, or what it asked for, for the end of the server", () => {
    const stamp = (pid: number, text: string) => `2026-01-01 00:00:00.000 UTC [${pid}] ${text}`
    const log = [
      stamp(1, "LOG:  database system is ready to accept connections"),
      stamp(7, 'ERROR:  could not extend file "base/5/1": No space left on device'),
      stamp(7, "STATEMENT:  select 'out of memory'"),
      stamp(8, 'FATAL:  could not access file "no_such_lib": No such file or directory'),
      stamp(1, "LOG:  server process (PID 9) was terminated by signal 9: Killed"),
      stamp(1, "DETAIL:  Failed process was running: select 'No space left on device'"),
      stamp(1, "LOG:  database system is shut down")
    ]
    assert.match(crashReport({ _tag: "Code", code: 1 }, log), new RegExp(`^a backend \\(pid 9\\) was .*${killed}`))
    assert.notInclude(crashReport({ _tag: "Signal", signal: "SIGKILL" }, log.slice(0, 4)), "library")
  })

  it("a crash that Postgres recovered from by itself is not the reason of a later end", () => {
    const log = [
      "LOG:  server process (PID 9) was terminated by signal 9: Killed",
      "LOG:  all server processes terminated; reinitializing",
      "LOG:  database system is ready to accept connections",
      "LOG:  received immediate shutdown request",
      "LOG:  database system is shut down"
    ]
    assert.notInclude(crashReport({ _tag: "Code", code: 0 }, log), "pid 9")
  })

  it("adds the disk to a backend that aborted because of it", () => {
    const log = [
      'PANIC:  could not write to file "pg_wal/xlogtemp.77": No space left on device',
      "LOG:  server process (PID 77) was terminated by signal 6: Aborted",
      "LOG:  shutting down because restart_after_crash is off"
    ]
    assert.match(
      crashReport({ _tag: "Code", code: 1 }, log),
      /^a backend \(pid 77\) was terminated by signal 6: Aborted.*; the disk is full$/
    )
  })
})
