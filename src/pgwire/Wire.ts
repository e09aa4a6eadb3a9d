/**
 * A Postgres connection at the level we need it: simple queries, pipelines of them, and COPY OUT.
 *
 * `@effect/sql-pg`'s client speaks only the extended protocol and refuses COPY; its codec is public, and this is
 * the rest. A call that is interrupted or times out takes the connection with it: an answer nobody waits for
 * would be mistaken for the next one's.
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
import { TimedOut, type WireFailed } from "../errors/Failure.ts"
import {
  failureOf,
  type Listener,
  openWireSocket,
  sayGoodbye,
  sendCancel,
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
  /** One message; it may hold many `;`-separated statements, which then are one implicit transaction. */
  readonly simple: (
    sql: string,
    within?: Duration.Input
  ) => Effect.Effect<ReadonlyArray<StatementResult>, WireFailed | TimedOut>
  /** Rows of the last statement that returned any. */
  readonly rows: (sql: string, within?: Duration.Input) => Effect.Effect<StatementResult["rows"], WireFailed | TimedOut>
  /** n messages in one write; each is its own implicit transaction, fails alone, and is answered in order. */
  readonly pipeline: (
    sqls: ReadonlyArray<string>,
    within?: Duration.Input
  ) => Effect.Effect<ReadonlyArray<Answer>, WireFailed | TimedOut>
  /**
   * Any command whose answer is COPY OUT. Back-pressure reaches the socket. The stream fails if the server
   * reports an error at any point, also after the last byte of the copy.
   */
  readonly copyOut: (command: string) => Stream.Stream<Uint8Array, WireFailed>
  /**
   * Says goodbye and waits until the server's process is gone, at most two seconds. The end of the scope alone does
   * not wait, and until then the server counts us among the database's users.
   */
  readonly leave: Effect.Effect<void>
}

/** A statement may take long (DROP DATABASE waits for a checkpoint), but not for ever. */
export const defaultWithin = Duration.minutes(2)

const utf8 = new TextDecoder()

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
      onDead: (dead) => resume(Effect.fail(dead)),
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
            return wire.die(`the server answered a query with ${message._tag}`)
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
      wire.die("the caller gave up waiting")
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
  const end = (result: WireFailed | undefined) => {
    finished = true
    wire.listener = undefined
    Deferred.doneUnsafe(started, result === undefined ? Effect.void : Effect.fail(result))
    if (result === undefined) Queue.endUnsafe(queue)
    else Queue.failCauseUnsafe(queue, Cause.fail(result))
  }
  wire.listener = {
    onDead: end,
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
        case "ErrorResponse":
          failure = failureOf("copy out", wire.peer, message.fields)
          return
        case "ReadyForQuery":
          end(failure)
      }
    }
  }
  yield* Effect.addFinalizer(() => Effect.sync(() => (finished ? undefined : wire.die("the copy was abandoned"))))
  wire.socket.write(encodeQuery(command))
  yield* Deferred.await(started)
  return Stream.fromPull(
    Effect.succeed(
      Effect.map(Queue.takeAll(queue), (chunks) => {
        if (paused) {
          paused = false
          wire.socket.resume()
        }
        return chunks
      })
    )
  )
})

export const connect: (config: WireConfig) => Effect.Effect<Wire, WireFailed, Scope.Scope> = Effect.fnUntraced(
  function* (config) {
    const wire = yield* openWireSocket(config)
    const turn = yield* Semaphore.make(1)
    const alive = Effect.suspend(() => (wire.dead === undefined ? Effect.void : Effect.fail(wire.dead)))

    const pipeline: Wire["pipeline"] = (sqls, within = defaultWithin) =>
      sqls.length === 0
        ? Effect.succeed([])
        : turn.withPermit(Effect.andThen(alive, runPipeline(wire, sqls))).pipe(
            Effect.timeoutOrElse({
              duration: within,
              orElse: () =>
                Effect.fail(new TimedOut({ what: `a query to ${wire.peer}`, millis: Duration.toMillis(within) }))
            })
          )
    const simple: Wire["simple"] = (sql, within) =>
      Effect.flatMap(pipeline([sql], within), ([answer]) =>
        answer === undefined ? Effect.die("a pipeline of one has one answer") : Effect.fromResult(answer)
      )
    const rows: Wire["rows"] = (sql, within) =>
      Effect.map(simple(sql, within), (results) => results.findLast((result) => result.rows.length > 0)?.rows ?? [])
    const copyOut: Wire["copyOut"] = (command) =>
      Stream.unwrap(
        Effect.gen(function* () {
          yield* Effect.acquireRelease(turn.take(1), () => turn.release(1))
          yield* alive
          return yield* runCopyOut(wire, command)
        })
      )

    const leave: Wire["leave"] = turn.withPermit(sayGoodbye(wire))

    return { peer: wire.peer, backendPid: wire.backend.pid, simple, rows, pipeline, copyOut, leave }
  }
)
