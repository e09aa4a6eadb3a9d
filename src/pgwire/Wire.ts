/**
 * A Postgres connection at the level we need it: simple queries, pipelines of them, and COPY OUT.
 *
 * `@effect/sql-pg`'s client speaks only the extended protocol and refuses COPY; its codec is public, and this is
 * the rest. Calls on one connection wait for each other. One that is interrupted or times out takes the connection
 * with it: an answer nobody waits for would be mistaken for the next one's. Gone with the scope it was opened in.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import type { TimedOut, WireFailed } from "../errors/Failure.ts"
import { within } from "../errors/within.ts"
import {
  failureOf,
  type Listener,
  openWireSocket,
  sendCancel,
  terminate,
  type WireConfig,
  type WireSocket
} from "./Socket.ts"

export type { WireConfig } from "./Socket.ts"

/** One statement's answer. Values are text, as the simple protocol sends them. */
export interface StatementResult {
  readonly tag: string
  readonly rows: ReadonlyArray<ReadonlyArray<string | null>>
}

export type Answer = Result.Result<ReadonlyArray<StatementResult>, WireFailed>

export interface Wire {
  readonly peer: string
  /** The server's process for this connection. */
  readonly backendPid: number
  /** Our end's port, by which the server calls this client; `null` over a unix socket. */
  readonly localPort: number | null
  /** One message; it may hold many `;`-separated statements, which then are one implicit transaction. */
  readonly simple: (
    sql: string,
    deadline?: Duration.Input
  ) => Effect.Effect<ReadonlyArray<StatementResult>, WireFailed | TimedOut>
  /** Rows of the last statement that returned any. */
  readonly rows: (
    sql: string,
    deadline?: Duration.Input
  ) => Effect.Effect<StatementResult["rows"], WireFailed | TimedOut>
  /** n messages in one write; each is its own implicit transaction, fails alone, and is answered in order. */
  readonly pipeline: (
    sqls: ReadonlyArray<string>,
    deadline?: Duration.Input
  ) => Effect.Effect<ReadonlyArray<Answer>, WireFailed | TimedOut>
  /**
   * Any command whose answer is COPY OUT. Back-pressure reaches the socket. The stream fails if the server
   * reports an error at any point, also after the last byte of the copy.
   */
  readonly copyOut: (command: string) => Stream.Stream<Uint8Array, WireFailed>
  /**
   * Terminates the session and waits until the server's process is gone, at most two seconds. The end of the scope
   * alone does not wait, and until then the server counts us among the database's users.
   */
  readonly terminate: Effect.Effect<void>
}

/** A statement may take long (DROP DATABASE waits for a checkpoint), but not for ever. */
const defaultDeadline = Duration.minutes(2)

/** A value may begin with U+FEFF, which a decoder takes for a mark and drops unless told otherwise. */
const utf8 = new TextDecoder("utf-8", { ignoreBOM: true })

const encodeQuery = (sql: string): Uint8Array => {
  const length = Buffer.byteLength(sql)
  const bytes = Buffer.allocUnsafe(length + 6)
  bytes[0] = 0x51
  bytes.writeInt32BE(length + 5, 1)
  bytes.write(sql, 5, "utf8")
  bytes[length + 5] = 0
  return bytes
}

const runPipeline = (wire: WireSocket, sqls: ReadonlyArray<string>) =>
  Effect.callback<ReadonlyArray<Answer>, WireFailed>((resume) => {
    const answers: Array<Answer> = []
    let statements: Array<StatementResult> = []
    let rows: Array<ReadonlyArray<string | null>> = []
    let failure: WireFailed | undefined
    const listener: Listener = {
      onFailure: (broken) => resume(Effect.fail(broken)),
      onMessage: (message) => {
        switch (message._tag) {
          case "RowDescription":
            rows = []
            return
          case "DataRow":
            rows.push(message.values.map((value) => (value === null ? null : utf8.decode(value))))
            return
          case "CommandComplete":
            statements.push({ tag: message.commandTag, rows })
            rows = []
            return
          case "ErrorResponse":
            failure = failureOf("query", wire.peer, message.fields)
            return
          case "CopyInResponse":
          case "CopyOutResponse":
          case "CopyBothResponse":
            return wire.fail(`the server answered a query with ${message._tag}`)
          case "ReadyForQuery":
            answers.push(failure === undefined ? Result.succeed(statements) : Result.fail(failure))
            statements = []
            rows = []
            failure = undefined
            if (answers.length === sqls.length) {
              wire.listener = undefined
              resume(Effect.succeed(answers))
            }
        }
      }
    }
    wire.listener = listener
    // A deep pipeline can deadlock only if neither side reads; Node always reads, so one write is safe.
    wire.socket.write(Buffer.concat(sqls.map(encodeQuery)))
    return Effect.sync(() => {
      sendCancel(wire)
      wire.fail("the caller gave up waiting")
    })
  })

/** Chunks held between the socket and a slow reader before the socket is paused. */
const highWater = 64

const runCopyOut = Effect.fnUntraced(function* (wire: WireSocket, command: string) {
  // Bounded by pausing the socket: at most `highWater` chunks plus one socket read are ever queued.
  const queue = yield* Queue.unbounded<Uint8Array, WireFailed | Cause.Done>()
  const started = yield* Deferred.make<void, WireFailed>()
  let paused = false
  let finished = false
  let failure: WireFailed | undefined
  const resume = () => {
    if (!paused) return
    paused = false
    wire.socket.resume()
  }
  const end = (result: WireFailed | undefined) => {
    finished = true
    wire.listener = undefined
    // Nobody may read on, and the next answer must come through.
    resume()
    Deferred.doneUnsafe(started, result === undefined ? Effect.void : Effect.fail(result))
    if (result === undefined) Queue.endUnsafe(queue)
    else Queue.failCauseUnsafe(queue, Cause.fail(result))
  }
  wire.listener = {
    onFailure: end,
    onMessage: (message) => {
      switch (message._tag) {
        case "CopyOutResponse":
          Deferred.doneUnsafe(started, Effect.void)
          return
        case "CopyData":
          Queue.offerUnsafe(queue, message.data)
          if (!paused && Queue.sizeUnsafe(queue) > highWater) {
            paused = true
            wire.socket.pause()
          }
          return
        case "CopyInResponse":
        case "CopyBothResponse":
          return wire.fail(`the server answered a copy out with ${message._tag}`)
        case "ErrorResponse":
          failure = failureOf("copy out", wire.peer, message.fields)
          return
        case "ReadyForQuery":
          end(failure)
      }
    }
  }
  yield* Effect.addFinalizer(() => Effect.sync(() => (finished ? undefined : wire.fail("the copy was abandoned"))))
  wire.socket.write(encodeQuery(command))
  yield* Deferred.await(started)
  return Stream.fromPull(
    Effect.succeed(
      Effect.map(Queue.takeAll(queue), (chunks) => {
        resume()
        return chunks
      })
    )
  )
})

export const connect: (config: WireConfig) => Effect.Effect<Wire, WireFailed, Scope.Scope> = Effect.fnUntraced(
  function* (config) {
    const wire = yield* openWireSocket(config)
    const oneAtATime = yield* Semaphore.make(1)
    const alive = Effect.suspend(() => (wire.failure === undefined ? Effect.void : Effect.fail(wire.failure)))

    const pipeline: Wire["pipeline"] = (sqls, deadline = defaultDeadline) =>
      sqls.length === 0
        ? Effect.succeed([])
        : oneAtATime
            .withPermit(Effect.andThen(alive, runPipeline(wire, sqls)))
            .pipe(within(`a query to ${wire.peer}`, deadline))
    const simple: Wire["simple"] = (sql, deadline) =>
      Effect.flatMap(pipeline([sql], deadline), ([answer]) =>
        answer === undefined ? Effect.die("a pipeline of one has one answer") : Effect.fromResult(answer)
      )
    const rows: Wire["rows"] = (sql, deadline) =>
      Effect.map(simple(sql, deadline), (results) => results.findLast((result) => result.rows.length > 0)?.rows ?? [])
    const copyOut: Wire["copyOut"] = (command) =>
      Stream.unwrap(
        Effect.gen(function* () {
          yield* Effect.acquireRelease(oneAtATime.take(1), () => oneAtATime.release(1))
          yield* alive
          return yield* runCopyOut(wire, command)
        })
      )

    return {
      peer: wire.peer,
      backendPid: wire.backend.pid,
      localPort: wire.socket.localPort ?? null,
      simple,
      rows,
      pipeline,
      copyOut,
      terminate: oneAtATime.withPermit(terminate(wire))
    }
  }
)
