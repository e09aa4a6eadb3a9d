/**
 * The autoscaler's protocol as text: the handshake, what the agent sends, what we send
 * (docs/reference/vm_monitor.md#protocol).
 *
 * Reads leniently where the original does and never throws; what it cannot read it names, so that it can be
 * answered. The two directions have different shapes: the agent nests its payload, we do not.
 */
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/** The agent drops a connection that brings it a message of 32 KiB. */
export const maxMessageBytes = 32_767

const Byte = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))

/** The agent's ids and sizes are 64-bit integers: one that no number holds is a bigint here. */
const keepInteger = (_: string, value: unknown, { source }: { readonly source?: string } = {}): unknown =>
  typeof value === "number" && !Number.isSafeInteger(value) && source !== undefined && /^\d+$/.test(source)
    ? BigInt(source)
    : value

const parseJson = (text: string): Option.Option<unknown> =>
  Option.liftThrowable(() => JSON.parse(text, keepInteger) as unknown)()

const Unsigned = Schema.Union([
  Schema.Natural,
  Schema.BigInt.check(Schema.isBetweenBigInt({ minimum: 0n, maximum: 2n ** 64n - 1n }))
])
type Unsigned = typeof Unsigned.Type

// -- handshake

const Range = Schema.Struct({ min: Byte, max: Byte })
type Range = typeof Range.Type
const decodeRange = Schema.decodeUnknownOption(Range)

const printVersion = (version: number): string =>
  version === 0 ? "<invalid: zero>" : version === 1 ? "v1.0" : `<unknown: ${version}>`
const printRange = ({ max, min }: Range): string =>
  min === max ? printVersion(min) : `${printVersion(min)} to ${printVersion(max)}`

/** The only version there is, on both sides. */
const spoken = 1

/** The first message: versions the agent speaks, both ends included. The failure is the `error` of the answer. */
export const negotiate = (text: string): Result.Result<number, string> => {
  const range = Option.getOrNull(Option.flatMap(parseJson(text), decodeRange))
  if (range === null) return Result.fail(`Received no protocol version range: expected {"min": 1, "max": 1}`)
  if (range.min > range.max)
    return Result.fail(`Received protocol version range ${printRange(range)} whose ends are the wrong way round`)
  return range.min <= spoken && spoken <= range.max
    ? Result.succeed(Math.min(spoken, range.max))
    : Result.fail(
        `Received protocol version range ${printRange(range)} which does not overlap with ${printVersion(spoken)}`
      )
}

export const printGreeting = (answer: Result.Result<number, string>): string =>
  JSON.stringify(Result.isSuccess(answer) ? { version: answer.success } : { error: clipped(answer.failure) })

// -- from the agent

/** Bytes of nominal memory; the CPU share is of no use here. */
export type AgentMessage =
  | { readonly _tag: "HealthCheck"; readonly id: Unsigned }
  | { readonly _tag: "UpscaleNotification"; readonly id: Unsigned; readonly mem: number }
  | { readonly _tag: "DownscaleRequest"; readonly id: Unsigned; readonly mem: number }
  /** The agent could not use something we sent, or failed at it. Never answered. */
  | { readonly _tag: "AgentError"; readonly id: Unsigned; readonly kind: string; readonly error: string }
  /** `id` is 0 when none could be read: no message of either side has that one. */
  | { readonly _tag: "Unusable"; readonly id: Unsigned; readonly because: string }

const Message = Schema.Struct({ type: Schema.String, id: Unsigned, content: Schema.Unknown })
const decodeMessage = Schema.decodeUnknownOption(Message)
const decodeId = Schema.decodeUnknownOption(Schema.Struct({ id: Unsigned }))

const Resources = Schema.Struct({ cpu: Schema.Union([Schema.Finite, Schema.BigInt]), mem: Unsigned })
const decodeGranted = Schema.decodeUnknownOption(Schema.Struct({ granted: Resources }))
const decodeTarget = Schema.decodeUnknownOption(Schema.Struct({ target: Resources }))
const decodeError = Schema.decodeUnknownOption(Schema.Struct({ error: Schema.String }))
const decodeEmpty = Schema.decodeUnknownOption(Schema.Struct({}))

const unusable = (id: Unsigned, because: string): AgentMessage => ({ _tag: "Unusable", id, because })

/** The start of a text, for logs and answers: what a peer sends may be long. */
const clipped = (text: string, length = 512): string => (text.length > length ? `${text.slice(0, length)}…` : text)

export const readMessage = (text: string): AgentMessage => {
  const json = parseJson(text)
  if (Option.isNone(json)) return unusable(0, "Received a message that is not JSON")
  const known = Option.getOrNull(decodeMessage(json.value))
  if (known === null) {
    const id = Option.match(decodeId(json.value), { onNone: () => 0, onSome: ({ id }) => id })
    return unusable(id, "Received a message without type, id or content")
  }
  const { content, id, type } = known
  const wrong = () =>
    unusable(id, `Received message of type ${JSON.stringify(clipped(type, 64))} with unusable content`)
  const read = <A>(decoded: Option.Option<A>, message: (content: A) => AgentMessage): AgentMessage =>
    Option.match(decoded, { onNone: wrong, onSome: message })
  switch (type) {
    case "HealthCheck":
      return read(decodeEmpty(content), () => ({ _tag: "HealthCheck", id }))
    case "UpscaleNotification":
      return read(decodeGranted(content), ({ granted }) => ({
        _tag: "UpscaleNotification",
        id,
        mem: Number(granted.mem)
      }))
    case "DownscaleRequest":
      return read(decodeTarget(content), ({ target }) => ({ _tag: "DownscaleRequest", id, mem: Number(target.mem) }))
    case "InvalidMessage":
    case "InternalError":
      return read(decodeError(content), ({ error }) => ({ _tag: "AgentError", id, kind: type, error: clipped(error) }))
    default:
      return unusable(id, `Received message of unknown type: ${JSON.stringify(clipped(type, 64))}`)
  }
}

// -- to the agent

/** Ids of replies are the request's; ids of requests are ours and odd. */
export type MonitorMessage =
  | { readonly type: "UpscaleRequest" | "UpscaleConfirmation" | "HealthCheck"; readonly id: Unsigned }
  | { readonly type: "DownscaleResult"; readonly Ok: boolean; readonly Status: string; readonly id: Unsigned }
  | { readonly type: "InternalError" | "InvalidMessage"; readonly error: string; readonly id: Unsigned }

/** Compact, `id` last, and always below the agent's read limit: free text is clipped. */
export const printMessage = (message: MonitorMessage): string => {
  const { id, type } = message
  const fields =
    "Status" in message
      ? { type, Ok: message.Ok, Status: clipped(message.Status) }
      : "error" in message
        ? { type, error: clipped(message.error) }
        : { type }
  return `${JSON.stringify(fields).slice(0, -1)},"id":${id}}`
}

/** Own ids: 3, 5, 7, …; the agent's are even. */
export const firstOwnId = 3
export const nextOwnId = (id: number): number => id + 2

/** Unusable messages in a row after which the connection is closed. */
export const maxUnusableInRow = 32
