/**
 * A real rsyslogd that sends audit records and Postgres's log to a real listener; and what there is to see without one.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { execFileSync } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as net from "node:net"
import * as path from "node:path"
import { exportAudit, exportLog, type RsyslogPlace } from "../../src/sidecars/rsyslog.ts"
import type { ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { runAs, temporaryFolder } from "../support/postgres.ts"
import { programAt, startProgram } from "../support/programs.ts"
import { emptySpec } from "../support/specs.ts"
import { eventually } from "../support/waiting.ts"

const program = programAt("rsyslogd")

const listener: Effect.Effect<{ readonly port: number; readonly received: () => string }, never, Scope.Scope> =
  Effect.acquireRelease(
    Effect.promise(async () => {
      let text = ""
      const open = new Set<net.Socket>()
      const server = net
        .createServer((socket) => {
          open.add(socket)
          socket
            .setEncoding("utf8")
            .on("data", (chunk: string) => (text += chunk))
            .on("error", () => {})
        })
        .listen(0, "127.0.0.1")
      await once(server, "listening")
      return { server, open, received: () => text }
    }),
    ({ open, server }) =>
      Effect.sync(() => {
        for (const socket of open) socket.destroy()
        server.close()
      })
  ).pipe(Effect.map(({ received, server }) => ({ port: (server.address() as net.AddressInfo).port, received })))

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
  for (const at of [place.directory, place.workDirectory]) make(at)
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

if (program !== null) {
  describe("a real rsyslogd", () => {
    it.live(
      "sends audit records away, whole and with who we are",
      () =>
        Effect.gen(function* () {
          const { folder, make, pgdata, place } = yield* setUp
          const receiver = yield* listener
          const { pid, running } = yield* init(program, folder)
          const before = pid()
          yield* exportAudit(place, audited, { plain: `127.0.0.1:${receiver.port}`, tls: "" }, pgdata)
          assert.notStrictEqual(pid(), before, "only a new rsyslogd reads new files")
          // The data directory is built while rsyslogd waits for it.
          make(pgdata)
          make(path.join(pgdata, "log"))
          const record =
            "2026-01-31 12:00:00.000 GMT,AUDIT: SESSION,1,1,READ,SELECT,,,\"select 'a\\b'\n  from t\",<none>"
          const next = "2026-01-31 12:00:01.000 GMT,AUDIT: SESSION,2,1,READ,SELECT,,,select 2,<none>"
          const file = path.join(pgdata, "log", "audit-20260131_1200.log")
          fs.writeFileSync(file, `${record}\n${next}\n`)
          if (runAs !== null) fs.chownSync(file, runAs.uid, runAs.gid)
          const lines = yield* eventually(
            "both records",
            () => {
              const whole = receiver
                .received()
                .split("\n")
                .filter((line) => line.includes("pgaudit_log"))
              return whole.length >= 2 ? whole : null
            },
            () => `${receiver.received()}\n${running.said()}`
          )
          const [first, second] = lines.map(
            (line) => /^<\d+>1 \S+ \S+ pgaudit_log - - - (\{.*\})$/.exec(line)?.[1] ?? assert.fail(line)
          )
          assert.deepStrictEqual(JSON.parse(first ?? ""), {
            endpoint_id: "ep-\"odd'$msg%msg%-1",
            project_id: "prj\\é",
            msg: record
          })
          assert.deepStrictEqual(JSON.parse(second ?? ""), {
            endpoint_id: "ep-\"odd'$msg%msg%-1",
            project_id: "prj\\é",
            msg: next
          })
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
          const spec = { ...emptySpec, logsExportHost: `127.0.0.1:${receiver.port}` }
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
}

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
      const odd = yield* Effect.flip(exportLog(soon, { ...emptySpec, logsExportHost: "a:b:c" }))
      assert.strictEqual(
        odd.message,
        "logs_export_host is not supported: expected host:port, with an IPv6 address in brackets"
      )
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
