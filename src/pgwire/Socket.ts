/**
 * One authenticated connection that speaks the Postgres protocol: bytes in, messages out.
 *
 * Knows start-up, authentication (trust, cleartext, MD5, SCRAM-SHA-256), termination and cancel requests; what is
 * asked and answered after the first `ReadyForQuery` belongs to `Wire.ts`. Never reconnects. The socket is terminated
 * and destroyed when the scope closes.
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
import { printHostPort } from "./address.ts"
import { makeSplitter } from "./copyData.ts"

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
  /** What the server says of itself, such as `server_version`; also when the log-in fails after that. */
  readonly onParameter?: (name: string, value: string) => void
}

type BackendMessage = PgProtocol.BackendMessage

/** Who reads the answers right now. */
export interface Listener {
  readonly onMessage: (message: BackendMessage) => void
  readonly onFailure: (failure: WireFailed) => void
}

/** The live connection. Mutable on purpose: it is the single reader of one socket. */
export interface WireSocket {
  readonly peer: string
  readonly socket: Net.Socket
  /** What was connected to, resolved: a host name may stand for several servers. Cancel requests go there. */
  readonly address: Net.NetConnectOpts
  /** Set once the connection can no longer be used. */
  failure: WireFailed | undefined
  listener: Listener | undefined
  readonly backend: { pid: number; secret: number }
  /** Breaks the connection off. Only the first reason counts. */
  readonly fail: (detail: string, cause?: unknown) => void
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

const addressOf = ({ host, port }: Pick<WireConfig, "host" | "port">): Net.NetConnectOpts =>
  host.startsWith("/") ? { path: `${host}/.s.PGSQL.${port}` } : { host, port }

const dial = (config: WireConfig, peer: string) =>
  Effect.callback<Net.Socket, WireFailed>((resume) => {
    const socket = Net.connect({ ...addressOf(config), noDelay: true, keepAlive: true })
    socket.once("error", (cause) =>
      resume(Effect.fail(new WireFailed({ operation: "connect to", peer, detail: cause.message, cause })))
    )
    socket.once("connect", () => resume(Effect.succeed(socket)))
    return Effect.sync(() => socket.destroy())
  })

const unsupported = "the server wants a kind of authentication this client does not speak"

/** Answers one authentication message; the result is what to send, a failure text, or nothing. */
const authenticate = (config: WireConfig) => {
  const password = config.password === undefined ? "" : Redacted.value(config.password)
  let first: PgAuth.ScramFirst | undefined
  let final: PgAuth.ScramFinal | undefined
  let proven = false
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
        if (!message.mechanisms.includes(PgAuth.SCRAM_SHA_256)) return Result.fail(unsupported)
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
        if (Result.isFailure(answer)) return Result.fail(answer.failure.message)
        proven = true
        return Result.succeed(null)
      }
      case "AuthenticationOk":
        // SCRAM proves both ways: a server that cuts it short may not know the password at all.
        return first === undefined || proven
          ? Result.succeed(null)
          : Result.fail("the server did not prove that it knows the password")
      case "AuthenticationUnsupported":
        return Result.fail(unsupported)
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
      onFailure: (failure) => resume(Effect.fail(failure)),
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

/** Terminates in order, then closes: a half-open peer must not hold us. */
const close = (socket: Net.Socket) =>
  Effect.sync(() => {
    if (socket.writable) socket.end(PgProtocol.encodeTerminate())
    socket.destroySoon()
    socket.on("error", () => {})
  })

/** Puts the protocol onto a connected socket. Notices may come at any time and are dropped here. */
const attach = (socket: Net.Socket, config: WireConfig): WireSocket => {
  const peer = printHostPort(config)
  const parser = PgProtocol.makeParser()
  /** The server's last error as long as no `ReadyForQuery` followed: when it closes now, this is why. */
  let unfinished: PgProtocol.ErrorFields | undefined
  const address = addressOf(config)
  const broken = (failure: WireFailed) => {
    if (wire.failure !== undefined) return
    wire.failure = failure
    socket.destroy()
    wire.listener?.onFailure(failure)
  }
  const wire: WireSocket = {
    peer,
    socket,
    address: "path" in address ? address : { ...address, host: socket.remoteAddress ?? config.host },
    failure: undefined,
    listener: undefined,
    backend: { pid: 0, secret: 0 },
    fail: (detail, cause) =>
      broken(new WireFailed({ operation: "connection to", peer, detail, ...(cause === undefined ? {} : { cause }) }))
  }
  const closed = (detail: string, cause?: unknown) =>
    unfinished === undefined ? wire.fail(detail, cause) : broken(failureOf("connection to", peer, unfinished))
  socket.on("error", (cause) => closed(cause.message, cause))
  socket.on("close", () => closed("the server closed the connection"))
  const take = (message: BackendMessage): void => {
    if (message._tag === "NoticeResponse") return
    if (message._tag === "ParameterStatus") return config.onParameter?.(message.name, message.value)
    if (message._tag === "ErrorResponse") unfinished = message.fields
    if (message._tag === "ReadyForQuery") unfinished = undefined
    wire.listener?.onMessage(message)
  }
  const split = makeSplitter({
    copy: (data) => wire.listener?.onMessage({ _tag: "CopyData", data }),
    rest: (bytes) => parser.pushEach(bytes, take)
  })
  socket.on("data", (chunk: Buffer) => {
    try {
      split(chunk)
    } catch (cause) {
      wire.fail("the server broke the protocol", cause)
    }
  })
  return wire
}

const open = Effect.fnUntraced(function* (config: WireConfig) {
  // Interruptible, or a peer that never answers the dial outlives every deadline.
  const socket = yield* Effect.acquireRelease(dial(config, printHostPort(config)), close, { interruptible: true })
  const wire = attach(socket, config)
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
            peer: printHostPort(config),
            detail: `no answer within ${Duration.toMillis(config.connectWithin)} ms`
          })
        )
    })
  )

/**
 * Sends `Terminate` and waits until the server closed, at most two seconds: its process does that as the last thing,
 * once it is in no list of Postgres any more.
 */
export const terminate = (wire: WireSocket): Effect.Effect<void> =>
  Effect.callback<void>((resume) => {
    const { socket } = wire
    if (wire.failure !== undefined || socket.closed) return resume(Effect.void)
    socket.once("close", () => resume(Effect.void))
    socket.end(PgProtocol.encodeTerminate())
  }).pipe(Effect.timeoutOption(Duration.seconds(2)), Effect.asVoid)

/**
 * Asks the server, on a connection of its own, to give up what it is doing for this one. Nobody answers a cancel
 * request, so nothing is waited for.
 */
export const sendCancel = ({ address, backend }: WireSocket): void => {
  if (backend.pid === 0) return
  const socket = Net.connect(address)
  socket.on("error", () => {})
  socket.once("connect", () => socket.end(PgProtocol.encodeCancelRequest(backend)))
  socket.setTimeout(2000, () => socket.destroy())
  socket.unref()
}
