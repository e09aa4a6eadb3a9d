/**
 * A real rsyslogd that sends audit records and Postgres's log to a real listener; and what there is to see without one.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { execFileSync } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { exportAudit, exportLog, type RsyslogPlace } from "../../src/sidecars/rsyslog.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { freePort, runAs, temporaryFolder } from "../support/postgres.ts"
import { programAt, startProgram, whereInstalled } from "../support/programs.ts"
import { emptySpec } from "../support/specs.ts"
import { eventually } from "../support/waiting.ts"

const stamp = "2026-01-31 12:00:00.000 GMT,"
const newline = Buffer.from("\n")

/** One that can go away and come back. */
const listener = Effect.gen(function* () {
  const port = yield* freePort
  let text = Buffer.alloc(0)
  let server: net.Server | null = null
  const open = new Set<net.Socket>()
  const away = () => {
    for (const socket of open) socket.destroy()
    server?.close()
    server = null
  }
  const back = Effect.promise(async () => {
    server = net
      .createServer((socket) => {
        open.add(socket)
        socket.on("data", (chunk: Buffer) => (text = Buffer.concat([text, chunk]))).on("error", () => {})
      })
      .listen(port, "127.0.0.1")
    await once(server, "listening")
  })
  yield* Effect.acquireRelease(back, () => Effect.sync(away))
  /** Whole lines of audit records; JSON that is no UTF-8 is none. */
  const records = () =>
    text
      .subarray(0, text.lastIndexOf("\n") + 1)
      .toString("latin1")
      .split("\n")
      .slice(0, -1)
      .map((line) => {
        const json = /^<\d+>1 \S+ \S+ pgaudit_log - - - (\{.*\})$/s.exec(line)?.[1] ?? assert.fail(line.slice(0, 200))
        return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Buffer.from(json, "latin1")))
      })
  return { port, away, back, received: () => text.toString(), records }
})

const setUp = Effect.gen(function* () {
  const folder = yield* temporaryFolder
  const place: RsyslogPlace = {
    directory: path.join(folder, "rsyslog.d"),
    workDirectory: path.join(folder, "work"),
    pidFiles: [path.join(folder, "none.pid"), path.join(folder, "rsyslogd.pid")],
    search: false,
    restartWithin: Duration.seconds(20)
  }
  const pgdata = path.join(folder, "pgdata")
  const make = (at: string) => {
    fs.mkdirSync(at)
    if (runAs !== null) fs.chownSync(at, runAs.uid, runAs.gid)
  }
  make(place.directory)
  return { folder, place, pgdata, make }
})

const audited: ParsedSpec = {
  ...emptySpec,
  auditLevel: "Extended",
  endpointId: "ep-\"odd'$msg%msg%-1",
  projectId: "prj\\é"
}

/** An init system in one line: starts it again whenever it leaves. */
const init = (at: string, folder: string) =>
  Effect.gen(function* () {
    const conf = path.join(folder, "rsyslog.conf")
    fs.writeFileSync(
      conf,
      `module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="${folder}/log.sock")
include(file="${folder}/rsyslog.d/*.conf" mode="optional")
*.* ${folder}/rest.log
`
    )
    const pidFile = path.join(folder, "rsyslogd.pid")
    const running = yield* startProgram("bash", [
      "-c",
      `while :; do ${at} -n -f ${conf} -i ${pidFile}; sleep 0.05; done`
    ])
    yield* eventually("rsyslogd", () => fs.existsSync(pidFile) && fs.existsSync(`${folder}/log.sock`), running.said)
    return { running, pid: () => fs.readFileSync(pidFile, "utf8").trim() }
  })

whereInstalled("rsyslogd", (program) =>
  describe("a real rsyslogd", { concurrent: true }, () => {
    const audit = Effect.gen(function* () {
      const { folder, make, pgdata, place } = yield* setUp
      const receiver = yield* listener
      const { pid, running } = yield* init(program, folder)
      const before = pid()
      yield* exportAudit(place, audited, { plain: `127.0.0.1:${receiver.port}`, tls: "" }, pgdata)
      assert.notStrictEqual(pid(), before, "only a new rsyslogd reads new files")
      // The data directory is built while rsyslogd waits for it.
      make(pgdata)
      make(path.join(pgdata, "log"))
      const file = path.join(pgdata, "log", "audit-20260131_1200.log")
      fs.writeFileSync(file, "")
      if (runAs !== null) fs.chownSync(file, runAs.uid, runAs.gid)
      const write = (record: string | Buffer) => fs.appendFileSync(file, Buffer.concat([Buffer.from(record), newline]))
      const arrived = (count: number) =>
        eventually(
          `${count} records`,
          () => (receiver.records().length >= count ? receiver.records() : null),
          () => `${receiver.received().slice(-2000)}\n${running.said()}`
        )
      /** Without a chance to say how far it was. */
      const kill = (meanwhile: Effect.Effect<void>) =>
        Effect.gen(function* () {
          const killed = pid()
          process.kill(Number(killed), "SIGKILL")
          yield* meanwhile
          yield* eventually("another rsyslogd", () => fs.existsSync(place.pidFiles[1] ?? "") && pid() !== killed)
        })
      return { place, receiver, write, arrived, kill }
    })

    it.live(
      "sends audit records away with who we are, whole or cut, and always as JSON",
      () =>
        Effect.gen(function* () {
          const { arrived, place, write } = yield* audit
          const whole = [
            `${stamp}AUDIT: SESSION,1,1,READ,SELECT,,,"select 'a\\b'\n  from t",<none>`,
            `${stamp}${"x".repeat(20_000)}`,
            `${stamp}${"\u0001".repeat(65_000)}`
          ]
          for (const record of whole) write(record)
          write(`${stamp}${"\u00e9".repeat(40_000)}`)
          write(`${stamp}${"\u65e5".repeat(1_000_000)}`)
          write(Buffer.concat([Buffer.from(stamp), Buffer.from([0xff, 0xe9, 0x20])]))
          write(`${stamp}last`)
          const records = yield* arrived(7)
          for (const record of records)
            assert.include(record, { endpoint_id: "ep-\"odd'$msg%msg%-1", project_id: "prj\\é" })
          const texts = records.map(({ msg }) => String(msg))
          assert.deepStrictEqual(texts.slice(0, 3), whole)
          assert.match(texts[3] ?? "", /GMT,\u00e9{32754} \[cut: the record is longer than 65536 bytes\]$/)
          assert.match(texts[4] ?? "", /GMT,\u65e5{21836} \[cut: the record is longer than 65536 bytes\]$/)
          assert.deepStrictEqual(texts.slice(5), [`${stamp}   `, `${stamp}last`])

          const { mode, uid } = fs.statSync(place.workDirectory)
          assert.deepStrictEqual({ mode: mode & 0o777, uid }, { mode: 0o700, uid: runAs?.uid ?? process.getuid?.() })
          assert.isTrue(fs.readdirSync(place.workDirectory).some((name) => name.startsWith("imfile-state")))
        }),
      60_000
    )

    it.live(
      "loses no record when it is killed, also while the receiver is away, and sends none twice but the one under way",
      () =>
        Effect.gen(function* () {
          const { kill, place, receiver, write } = yield* audit
          const texts = () => receiver.records().map(({ msg }) => String(msg))
          const numbered = (what: string, count: number) =>
            Array.from({ length: count }, (_, at) => `${stamp}${what} ${at}`)
          const seen = (record: string) => eventually(record, () => texts().includes(record))
          const first = numbered("sent", 3)
          for (const record of first) write(record)
          // A record ends where the next one begins, or after two seconds.
          yield* seen(first[2] ?? "")
          yield* kill(Effect.void)
          receiver.away()
          const missed = numbered("missed", 50)
          for (const record of missed) write(record)
          const waits = () =>
            fs
              .readdirSync(place.workDirectory)
              .filter((name) => /^compute_audit\.\d+$/.test(name))
              .some((name) => fs.readFileSync(path.join(place.workDirectory, name), "latin1").includes("missed 48"))
          yield* eventually("the queue on disk", waits)
          yield* kill(receiver.back)
          write(`${stamp}end`)
          yield* seen(`${stamp}end`)
          assert.deepStrictEqual([...new Set(texts())], [...first, ...missed, `${stamp}end`])
          assert.isAtMost(texts().length, first.length + missed.length + 1 + 2, "one for each that killed it")
        }),
      60_000
    )

    it.live(
      "exports Postgres's log and no other program's; the same again restarts nothing",
      () =>
        Effect.gen(function* () {
          const { folder, place } = yield* setUp
          const receiver = yield* listener
          const { pid, running } = yield* init(program, folder)
          const spec = { ...emptySpec, logsExportHost: { host: "127.0.0.1", port: receiver.port } }
          yield* exportLog(place, spec)
          const after = pid()
          yield* exportLog(place, spec)
          yield* exportLog(place, { ...spec, logsExportHost: null })
          assert.strictEqual(pid(), after)
          yield* eventually("the socket", () => fs.existsSync(`${folder}/log.sock`))
          const say = (who: string, text: string) =>
            execFileSync(programAt("logger") ?? "logger", ["-u", `${folder}/log.sock`, "-t", who, "--id=42", text])
          say("somebody", "not for export")
          say("postgres", "LOG:  for export")
          const received = yield* eventually(
            "the record",
            () => receiver.received().includes("for export") && receiver.received(),
            () => running.said()
          )
          assert.match(received, /^<\d+>1 \S+ \S+ postgres 42 - - {1,2}LOG: {2}for export\n$/)
        }),
      60_000
    )
  })
)

describe("without a rsyslogd", () => {
  it.live("a compute that must be audited says why it can not be", () =>
    Effect.gen(function* () {
      const { pgdata, place } = yield* setUp
      const soon = { ...place, restartWithin: Duration.millis(100) }
      const failureOf = (endpoints: { readonly plain: string | null; readonly tls: string | null }) =>
        Effect.map(Effect.flip(exportAudit(soon, audited, endpoints, pgdata)), ({ message }) => message)
      assert.strictEqual(
        yield* failureOf({ plain: null, tls: "" }),
        "audit_log_level Extended is not supported: " +
          "AUDIT_LOGGING_ENDPOINT and AUDIT_LOGGING_TLS_ENDPOINT are both empty"
      )
      assert.strictEqual(
        yield* failureOf({ plain: null, tls: "no port" }),
        "audit_log_level Extended is not supported: AUDIT_LOGGING_TLS_ENDPOINT is not usable: " +
          "expected host:port, with an IPv6 address in brackets"
      )
      assert.strictEqual(yield* failureOf({ plain: "127.0.0.1:1", tls: null }), "rsyslogd: it does not run")
      assert.deepStrictEqual(fs.readdirSync(place.directory), [], "so that the next try is not taken for done")
    })
  )

  it.live("nothing is asked of a compute that exports nothing", () =>
    Effect.gen(function* () {
      const { pgdata, place } = yield* setUp
      yield* exportAudit(place, { ...emptySpec, auditLevel: "Base" }, { plain: null, tls: null }, pgdata)
      yield* exportLog(place, emptySpec)
      assert.deepStrictEqual(fs.readdirSync(place.directory), [])
    })
  )
})
