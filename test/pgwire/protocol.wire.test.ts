/**
 * Answers as a network may deliver them: cut anywhere, broken off anywhere, with messages in between that nobody asked
 * for, or not Postgres's at all.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { connect, type Wire } from "../../src/pgwire/Wire.ts"
import {
  commandComplete,
  copyData,
  copyDone,
  copyOut,
  error,
  loggedIn,
  readyForQuery,
  table
} from "../../src/testing/peers/serverWire.ts"
import { type Connection, frame, int32, notice, scriptedServer, text } from "./scriptedServer.ts"

const parameter = frame("S", text("TimeZone"), text("UTC"))
const notification = frame("A", int32(7), text("channel"), text("payload"))
const failed = error("ERROR", "22012", "division by zero")
const terminated = error("FATAL", "57P01", "terminating connection due to administrator command")

/** What comes at any time is everywhere in them. */
const tableAnswer = Buffer.concat([
  notice("before"),
  table(
    ["a", "b"],
    [
      ["1", null],
      ["", "zwei 🐘"]
    ]
  )
])
const pipelineAnswer = Buffer.concat([tableAnswer, parameter, failed, notification, readyForQuery, notice("after")])
const copyAnswer = Buffer.concat([
  copyOut,
  copyData(Buffer.from("first\n")),
  notice("between"),
  copyData(Buffer.from("second\n")),
  copyDone,
  commandComplete("COPY 2"),
  readyForQuery
])

/** Waits for the log-in, logs in, and does the rest when the first query is there. */
const afterLogIn = (answer: (connection: Connection) => Promise<void>) => async (connection: Connection) => {
  await connection.read()
  await connection.write(loggedIn)
  if ((await connection.read()) !== null) await answer(connection)
}

const session = <A, E>(script: (connection: Connection) => Promise<void>, use: (wire: Wire) => Effect.Effect<A, E>) =>
  Effect.scoped(Effect.flatMap(Effect.flatMap(scriptedServer(script), connect), use))

const copied = (wire: Wire) => Effect.map(Stream.runCollect(wire.copyOut("COPY")), (chunks) => Buffer.concat(chunks))

const checkPipeline = Effect.fnUntraced(function* (wire: Wire) {
  const [first, second] = yield* wire.pipeline(["one", "two"])
  assert.deepStrictEqual(
    first,
    Result.succeed([
      {
        tag: "SELECT 2",
        rows: [
          ["1", null],
          ["", "zwei 🐘"]
        ]
      }
    ])
  )
  assert.match(String(Result.getOrThrow(Result.flip(second ?? assert.fail("no second answer")))), /division by zero/)
})

describe("an answer in two pieces", () => {
  it.live("is understood wherever it is cut, the log-in too", () => {
    const whole = Buffer.concat([loggedIn, pipelineAnswer])
    return Effect.forEach(
      Array.from({ length: whole.length - 1 }, (_, index) => index + 1),
      (cut) =>
        session(async ({ read, write }) => {
          await read()
          const logIn = Math.min(cut, loggedIn.length)
          await write(whole.subarray(0, logIn))
          await write(whole.subarray(logIn, loggedIn.length))
          await read()
          const rest = Math.max(cut, loggedIn.length)
          await write(whole.subarray(loggedIn.length, rest))
          await write(whole.subarray(rest))
          await read()
        }, checkPipeline),
      { discard: true }
    )
  })

  it.live("is understood byte by byte", () =>
    session(
      afterLogIn(async ({ read, write }) => {
        for (const byte of pipelineAnswer) await write(Buffer.from([byte]))
        await read()
      }),
      checkPipeline
    )
  )

  it.live("is a whole copy wherever it is cut", () =>
    Effect.forEach(
      Array.from({ length: copyAnswer.length - 1 }, (_, index) => index + 1),
      (cut) =>
        session(
          afterLogIn(async ({ read, write }) => {
            await write(copyAnswer.subarray(0, cut))
            await write(copyAnswer.subarray(cut))
            await read()
          }),
          (wire) => Effect.map(copied(wire), (bytes) => assert.strictEqual(bytes.toString(), "first\nsecond\n"))
        ),
      { discard: true }
    )
  )
})

describe("a server that closes in the middle of an answer", () => {
  const cutAt = (answer: Buffer, cut: number, how: "end" | "reset") =>
    afterLogIn(async (connection) => {
      await connection.write(answer.subarray(0, cut))
      connection[how]()
    })

  for (const how of ["end", "reset"] as const) {
    it.live(`fails the query, after any byte (${how})`, () =>
      Effect.forEach(
        Array.from({ length: tableAnswer.length }, (_, index) => index),
        (cut) =>
          session(cutAt(tableAnswer, cut, how), (wire) =>
            Effect.gen(function* () {
              const first = yield* Effect.flip(wire.simple("select"))
              assert.match(first.message, /^connection to 127\.0\.0\.1:\d+: (the server closed|read ECONNRESET)/)
              assert.strictEqual(yield* Effect.flip(wire.simple("select")), first, "later queries fail alike")
            })
          ),
        { discard: true }
      )
    )
  }

  it.live("fails the copy, after any byte: a part is never taken for the whole", () =>
    Effect.forEach(
      Array.from({ length: copyAnswer.length }, (_, index) => index),
      (cut) =>
        session(cutAt(copyAnswer, cut, "end"), (wire) =>
          Effect.map(Effect.flip(copied(wire)), ({ message }) => assert.match(message, /the server closed/))
        ),
      { discard: true }
    )
  )

  for (const [what, before, ask] of [
    ["a query", [], (wire: Wire) => Effect.asVoid(wire.simple("select"))],
    ["a copy", [copyOut, copyData(Buffer.from("x"))], (wire: Wire) => Effect.asVoid(copied(wire))]
  ] as const) {
    it.live(`fails ${what} with what the server said last`, () =>
      session(
        afterLogIn(async ({ end, write }) => {
          await write(...before, terminated)
          end()
        }),
        (wire) =>
          Effect.map(Effect.flip(ask(wire)), ({ message }) =>
            assert.match(message, /: terminating connection due to administrator command \(SQLSTATE 57P01\)$/)
          )
      )
    )
  }

  it.live("does not blame an error that was answered in full", () =>
    session(
      afterLogIn(async ({ end, read, write }) => {
        await write(failed, readyForQuery)
        await read()
        end()
      }),
      (wire) =>
        Effect.gen(function* () {
          assert.match((yield* Effect.flip(wire.simple("select 1/0"))).message, /division by zero \(SQLSTATE 22012\)$/)
          assert.match((yield* Effect.flip(wire.simple("select 1"))).message, /the server closed the connection$/)
        })
    )
  )
})

describe("an error inside a copy", () => {
  for (const [when, before] of [
    ["before it begins", []],
    ["between its bytes", [copyOut, copyData(Buffer.from("x"))]],
    ["after its last byte", [copyOut, copyData(Buffer.from("x")), copyDone]]
  ] as const) {
    it.live(`fails it ${when}, and the connection goes on`, () =>
      session(
        afterLogIn(async ({ read, write }) => {
          await write(...before, failed, readyForQuery)
          await read()
          await write(table(["n"], [["1"]]))
          await read()
        }),
        (wire) =>
          Effect.gen(function* () {
            const { message } = yield* Effect.flip(copied(wire))
            assert.match(message, /^copy out 127\.0\.0\.1:\d+: division by zero \(SQLSTATE 22012\)$/)
            assert.deepStrictEqual(yield* wire.rows("select 1"), [["1"]])
          })
      )
    )
  }
})

describe("a copy and its reader", () => {
  it.live("a slow reader pauses the socket, and gets every byte", () => {
    const piece = Buffer.alloc(64 * 1024, "x")
    const pieces = 300
    const paused = Promise.withResolvers<void>()
    let sent = 0
    return session(
      afterLogIn(async ({ client, read, write }) => {
        client.once("pause", () => paused.resolve())
        await write(copyOut)
        for (; sent < pieces; sent++) await write(copyData(piece))
        await write(copyDone, commandComplete("COPY"), readyForQuery)
        await read()
      }),
      (wire) =>
        Effect.gen(function* () {
          let total = 0
          yield* Stream.runForEach(wire.copyOut("COPY"), (chunk) =>
            Effect.gen(function* () {
              if (total === 0) yield* Effect.promise(() => paused.promise)
              if (total === 0) assert.isBelow(sent, 100, "the server is held up")
              total += chunk.length
            })
          )
          assert.strictEqual(total, pieces * piece.length)
        })
    )
  })

  it.live("one that stops reading leaves a connection that answers, when the whole copy had come already", () =>
    session(
      afterLogIn(async ({ read, write }) => {
        const pieces = Array.from({ length: 100 }, () => copyData(Buffer.from("x")))
        await write(copyOut, ...pieces, copyDone, commandComplete("COPY"), readyForQuery)
        await read()
        await write(table(["n"], [["1"]]))
        await read()
      }),
      (wire) =>
        Effect.gen(function* () {
          yield* Stream.runDrain(Stream.take(wire.copyOut("COPY"), 1))
          assert.deepStrictEqual(yield* wire.rows("select 1"), [["1"]])
        })
    )
  )

  it.live("one that stops reading in the middle breaks the connection off", () =>
    session(
      afterLogIn(async ({ read, write }) => {
        await write(copyOut, copyData(Buffer.from("x")))
        assert.isNull(await read())
      }),
      (wire) =>
        Effect.gen(function* () {
          yield* Stream.runDrain(Stream.take(wire.copyOut("COPY"), 1))
          assert.match((yield* Effect.flip(wire.simple("select 1"))).message, /the copy was abandoned$/)
        })
    )
  )
})

describe("what is not an answer", () => {
  for (const [what, answer, why] of [
    ["an HTTP response", Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"), /the server broke the protocol$/],
    ["a message of a negative length", Buffer.from([0x44, 0xff, 0xff, 0xff, 0xff]), /the server broke the protocol$/],
    ["a message of more than 16 MiB", Buffer.concat([Buffer.from("D"), int32(1 << 25)]), /the server broke the prot/],
    ["a row that is longer than its message", frame("D", Buffer.from([0, 9])), /the server broke the protocol$/],
    ["COPY IN", frame("G", Buffer.from([0, 0, 0])), /the server answered a query with CopyInResponse$/],
    ["COPY OUT", copyOut, /the server answered a query with CopyOutResponse$/]
  ] as const) {
    it.live(`breaks the connection off: ${what}`, () =>
      session(
        afterLogIn(async ({ read, write }) => {
          await write(answer)
          assert.isNull(await read())
        }),
        (wire) =>
          Effect.gen(function* () {
            const first = yield* Effect.flip(wire.simple("select 1"))
            assert.match(first.message, why)
            assert.strictEqual(yield* Effect.flip(wire.simple("select 1")), first)
          })
      )
    )
  }

  it.live("a copy into the server, asked for as one out of it, fails instead of waiting for ever", () =>
    session(
      afterLogIn(async ({ read, write }) => {
        await write(frame("G", Buffer.from([0, 0, 0])))
        assert.isNull(await read())
      }),
      (wire) =>
        Effect.map(Effect.flip(copied(wire)), ({ message }) =>
          assert.match(message, /the server answered a copy out with CopyInResponse$/)
        )
    )
  )
})
