/**
 * One authenticated connection that speaks the Postgres protocol: bytes in, messages out.
 *
 * Knows start-up and authentication (cleartext, MD5, SCRAM-SHA-256); everything after the first `ReadyForQuery`
 * belongs to `Wire.ts`. The socket is destroyed when the scope closes.
 */
import * as PgAuth from "@effect/sql-pg/PgAuth"
import * as PgProtocol from "@effect/sql-pg/PgProtocol"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { randomBytes } from "node:crypto"
import * as Net from "node:net"
import { WireFailed } from "../errors/Failure.ts"
import { printPeer } from "./ConnString.ts"

export interface WireConfig {
  /** Starts with `/`: the folder of a unix socket. */
  readonly host: string
  readonly port: number
  readonly user: string
  readonly database?: string
  readonly password?: Redacted.Redacted<string>
  readonly applicationName?: string
  /** Startup `options`, such as `-c search_path=`. */
  readonly options?: string
  /** Covers dialling, start-up and authentication together. */
  readonly connectWithin: Duration.Duration
}

export type BackendMessage = PgProtocol.BackendMessage

export interface Listener {
  readonly onMessage: (message: BackendMessage) => void
  readonly onDead: (failure: WireFailed) => void
}

/** The live connection. Mutable on purpose: it is the single reader of one socket. */
export interface WireSocket {
  readonly peer: string
  readonly socket: Net.Socket
  /** Set once the connection can no longer be used. */
  dead: WireFailed | undefined
  listener: Listener | undefined
  readonly backend: { pid: number; secret: number }
  readonly die: (detail: string, cause?: unknown) => void
}

export const failureOf = (operation: string, peer: string, fields: PgProtocol.ErrorFields): WireFailed =>
  new WireFailed({
    operation,
    peer,
    detail: fields.message ?? "the server gave no message",
    ...(fields.code === undefined ? {} : { sqlState: fields.code }),
    ...(fields.detail === undefined ? {} : { serverDetail: fields.detail }),
    ...(fields.hint === undefined ? {} : { serverHint: fields.hint })
  })

const dial = (config: WireConfig, peer: string) =>
  Effect.callback<Net.Socket, WireFailed>((resume) => {
    const socket = config.host.startsWith("/")
      ? Net.connect({ path: `${config.host}/.s.PGSQL.${config.port}` })
      : Net.connect({ host: config.host, port: config.port, noDelay: true, keepAlive: true })
    socket.once("error", (cause) =>
      resume(Effect.fail(new WireFailed({ operation: "connect to", peer, detail: cause.message, cause })))
    )
    socket.once("connect", () => resume(Effect.succeed(socket)))
    return Effect.sync(() => socket.destroy())
  })

/** Answers one authentication message; the result is what to send, a failure text, or nothing. */
const authenticate = (config: WireConfig) => {
  const password = config.password === undefined ? "" : Redacted.value(config.password)
  let first: PgAuth.ScramFirst | undefined
  let final: PgAuth.ScramFinal | undefined
  return (message: BackendMessage): Result.Result<Uint8Array | null, string> => {
    switch (message._tag) {
      case "AuthenticationCleartextPassword":
        return Result.succeed(PgProtocol.encodePasswordMessage({ password }))
      case "AuthenticationMD5Password": {
        const answer = PgAuth.md5Password({ user: config.user, password, salt: message.salt })
        return Result.isFailure(answer)
          ? Result.fail(answer.failure.message)
          : Result.succeed(PgProtocol.encodePasswordMessage({ password: answer.success }))
      }
      case "AuthenticationSASL": {
        const answer = PgAuth.scramInit({ password, nonce: randomBytes(18).toString("base64") })
        if (Result.isFailure(answer)) return Result.fail(answer.failure.message)
        first = answer.success.state
        return Result.succeed(
          PgProtocol.encodeSASLInitialResponse({
            mechanism: PgAuth.SCRAM_SHA_256,
            initialResponse: answer.success.response
          })
        )
      }
      case "AuthenticationSASLContinue": {
        if (first === undefined) return Result.fail("the server continued an exchange that was not begun")
        const answer = PgAuth.scramContinue(first, message.data)
        if (Result.isFailure(answer)) return Result.fail(answer.failure.message)
        final = answer.success.state
        return Result.succeed(PgProtocol.encodeSASLResponse({ data: answer.success.response }))
      }
      case "AuthenticationSASLFinal": {
        if (final === undefined) return Result.fail("the server ended an exchange that was not begun")
        const answer = PgAuth.scramFinish(final, message.data)
        return Result.isFailure(answer) ? Result.fail(answer.failure.message) : Result.succeed(null)
      }
      case "AuthenticationUnsupported":
        return Result.fail("the server wants a kind of authentication this client does not speak")
      default:
        return Result.succeed(null)
    }
  }
}

const startUp = (wire: WireSocket, config: WireConfig) =>
  Effect.callback<void, WireFailed>((resume) => {
    const answer = authenticate(config)
    const { peer, socket } = wire
    wire.listener = {
      onDead: (failure) => resume(Effect.fail(failure)),
      onMessage: (message) => {
        if (message._tag === "ErrorResponse") return resume(Effect.fail(failureOf("log in to", peer, message.fields)))
        if (message._tag === "ReadyForQuery") return resume(Effect.void)
        if (message._tag === "BackendKeyData")
          return void Object.assign(wire.backend, { pid: message.pid, secret: message.secret })
        const reply = answer(message)
        if (Result.isFailure(reply)) {
          return resume(Effect.fail(new WireFailed({ operation: "log in to", peer, detail: reply.failure })))
        }
        if (reply.success !== null) socket.write(reply.success)
      }
    }
    socket.write(
      PgProtocol.encodeStartupMessage({
        user: config.user,
        database: config.database,
        application_name: config.applicationName,
        options: config.options
      })
    )
  })

const open = Effect.fnUntraced(function* (config: WireConfig) {
  const peer = printPeer(config)
  const socket = yield* Effect.acquireRelease(
    dial(config, peer),
    (socket) =>
      Effect.sync(() => {
        // A polite goodbye, then the end: a half-open peer must not hold us.
        if (socket.writable) socket.end(PgProtocol.encodeTerminate())
        socket.destroySoon()
        socket.on("error", () => {})
      }),
    { interruptible: true }
  ) // Or a peer that never answers the dial outlives every deadline.
  const parser = PgProtocol.makeParser()
  const wire: WireSocket = {
    peer,
    socket,
    dead: undefined,
    listener: undefined,
    backend: { pid: 0, secret: 0 },
    die: (detail, cause) => {
      if (wire.dead !== undefined) return
      wire.dead = new WireFailed({
        operation: "connection to",
        peer,
        detail,
        ...(cause === undefined ? {} : { cause })
      })
      socket.destroy()
      wire.listener?.onDead(wire.dead)
    }
  }
  socket.on("error", (cause) => wire.die(cause.message, cause))
  socket.on("close", () => wire.die("the server closed the connection"))
  socket.on("data", (chunk: Buffer) => {
    try {
      parser.pushEach(chunk, (message) => {
        if (message._tag !== "NoticeResponse" && message._tag !== "ParameterStatus") wire.listener?.onMessage(message)
      })
    } catch (cause) {
      wire.die("the server broke the protocol", cause)
    }
  })
  yield* startUp(wire, config)
  wire.listener = undefined
  return wire
})

/** Dials, logs in, and hands over an idle connection. */
export const openWireSocket = (config: WireConfig): Effect.Effect<WireSocket, WireFailed, Scope.Scope> =>
  open(config).pipe(
    Effect.timeoutOrElse({
      duration: config.connectWithin,
      orElse: () =>
        Effect.fail(
          new WireFailed({
            operation: "connect to",
            peer: printPeer(config),
            detail: `no answer within ${Duration.toMillis(config.connectWithin)} ms`
          })
        )
    })
  )

/** The server's process closes its end as the last thing it does, once it is in no list of Postgres any more. */
export const sayGoodbye = (wire: WireSocket): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    const { socket } = wire
    if (wire.dead !== undefined || socket.closed) return resume(Effect.void)
    socket.once("close", () => resume(Effect.void))
    socket.end(PgProtocol.encodeTerminate())
  }).pipe(Effect.timeoutOption(Duration.seconds(2)), Effect.asVoid)

/**
 * Asks the server, on a connection of its own, to give up what it is doing for this one. Nobody answers a cancel
 * request, so nothing is waited for.
 */
export const sendCancel = (wire: WireSocket): void => {
  const { remoteAddress, remotePort } = wire.socket
  if (wire.backend.pid === 0 || remoteAddress === undefined || remotePort === undefined) return
  const side = Net.connect({ host: remoteAddress, port: remotePort })
  side.on("error", () => {})
  side.once("connect", () => side.end(PgProtocol.encodeCancelRequest(wire.backend)))
  side.setTimeout(2000, () => side.destroy())
  side.unref()
}
