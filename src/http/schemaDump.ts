/**
 * A database's schema as `pg_dump` says it, passed on while it speaks.
 *
 * The child lives as long as the answer: a caller that goes away ends it. What it says before its first byte of output
 * decides the status; a dump that breaks off later breaks the answer off, so that nobody takes half for the whole.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as HttpEffect from "effect/http/HttpEffect"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Ref from "effect/Ref"
import * as Sink from "effect/Sink"
import * as Stream from "effect/Stream"
import { CommandFailed, TimedOut } from "../errors/Failure.ts"
import type { PostgresInstall } from "../postgres/PostgresInstall2.ts"
import { helperLadder } from "../platform/run.ts"
import { Spawn } from "../platform/Spawn.ts"
import type { Admin } from "../pgwire/Admin.ts"
import { refusal } from "./httpAnswer.ts"
import { queryWithin } from "./adminSession.ts"
import { sqlType } from "./paths.ts"

const noDump = refusal(
  503,
  "pg_dump_missing",
  "this installation of Postgres has no pg_dump",
  "install the client programs beside the postgres that -b names"
)
const notYet = refusal(503, "postgres_not_located", "Postgres was not looked for yet", "wait until GET /status says running")
const noDatabase = refusal(404, "database_unknown", "database does not exist", "GET /dbs_and_roles lists what there is")

/** Characters kept of what it complains about. */
const kept = 4_000

const exists = /database ".*" does not exist/

/** `database` is passed by the environment: as an argument it could be read as a whole connection string. */
export const schemaDump = Effect.fn("Http.schemaDump")(function*(
  install: PostgresInstall["Service"] | null,
  { at, superuser }: Admin["Service"],
  database: string
) {
  if (install === null) return yield* Effect.fail(notYet)
  if (install.pgDump === null) return yield* Effect.fail(noDump)
  const command = install.pgDump
  const { spawn } = yield* Spawn
  const child = yield* spawn({
    command,
    args: ["--schema-only", "--no-password", "--host", at.host, "--port", String(at.port), "--username", superuser],
    env: {
      PGDATABASE: database,
      PGAPPNAME: "compute_ctl:schema_dump",
      PGPASSWORD: at.password === null ? undefined : Redacted.value(at.password)
    },
    runAs: install.runAs,
    ladder: helperLadder
  })
  const complaint = yield* Ref.make("")
  const listening = yield* child.stderr.pipe(
    Stream.decodeText(),
    Stream.runForEach((text) => Ref.update(complaint, (old) => (old + text).slice(-kept))),
    Effect.forkScoped
  )
  const failed = Effect.gen(function*() {
    const exit = yield* child.exit
    yield* Effect.timeoutOption(Fiber.await(listening), Duration.seconds(1))
    const output = (yield* Ref.get(complaint)).trim()
    if (exit._tag === "Code" && exit.code === 0) return
    return yield* exists.test(output) ? Effect.fail(noDatabase) : Effect.fail(new CommandFailed({ command, exit, output }))
  })

  const [first, rest] = yield* Stream.peel(child.stdout, Sink.head<Uint8Array>()).pipe(Effect.timeoutOrElse({
    duration: queryWithin,
    orElse: () => Effect.fail(new TimedOut({ what: "the first words of pg_dump", millis: Duration.toMillis(queryWithin) }))
  }))
  if (Option.isNone(first)) {
    yield* failed
    return HttpServerResponse.text("", { contentType: sqlType })
  }
  const body = Stream.succeed(first.value).pipe(Stream.concat(rest), Stream.concat(Stream.fromEffectDrain(failed)))
  return HttpEffect.scopeTransferToStream(HttpServerResponse.stream(body, { contentType: sqlType }))
})
