/**
 * An imitation pageserver that answers `basebackup` by COPY OUT, and `lease lsn`, over a real socket, well or badly.
 *
 * It serves one archive and knows no other command. Gone, with its port, when the scope ends.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { gunzipSync, gzipSync } from "node:zlib"
import type * as Duration from "effect/Duration"
import type { ListenFailed } from "../../errors/Failure.ts"
import { FaultQueue, SeenList } from "./faults.ts"
import {
  commandComplete,
  copyData,
  copyDone,
  copyOut,
  error,
  inUrl,
  type ListenAt,
  loggedIn,
  neonError,
  readyForQuery,
  serve,
  type Session,
  table,
  unauthorized
} from "./serverWire.ts"

/**
 * What goes wrong. `refuse`: nobody listens. `starting up`: it says so at log-in. `hang`: it accepts and says nothing.
 * `wrong token`: it takes none. `another tenant's token`: it takes it, and refuses the command. `unknown timeline`: it
 * does not have it. `collected`: the LSN is below its GC cutoff; a lease on it is granted all the same. `ahead of the
 * tip`: it waits for WAL up to the LSN, until `arrival` says that it came. `cut`: at `at` the copy ends as if whole.
 * `stall`: at `at` it stops sending. `reset`: at `at` the connection breaks. `error mid-way`: at `at` it reports an
 * error. `error after the end`: the archive is whole, then it reports an error. `corrupt gzip`: bytes are turned over
 * at `at`. `truncated tar`: the gzip is whole, the tar in it ends at `at`. `slow drip`: small pieces with pauses.
 */
export type PageserverFault =
  | "refuse"
  | "starting up"
  | "hang"
  | "wrong token"
  | "another tenant's token"
  | "unknown timeline"
  | "collected"
  | "ahead of the tip"
  | "cut"
  | "stall"
  | "reset"
  | "error mid-way"
  | "error after the end"
  | "corrupt gzip"
  | "truncated tar"
  | "slow drip"

/** What one attempt meets. `at`, where it is not given, is that of the options. */
export interface PageserverAttempt<F = PageserverFault> {
  readonly fault?: F
  /** 0 to 1. */
  readonly at?: number
  /** Before it is answered. */
  readonly delay?: Duration.Duration
}

export interface PageserverOptions {
  readonly tenant: string
  readonly timeline: string
  /** Asked for as the password; without it everybody may log in. */
  readonly token?: string
  /** A gzipped tar, such as `basebackupOf` makes. */
  readonly archive: Uint8Array
  readonly fault?: PageserverFault
  /** Where in the archive a fault happens, 0 to 1. Default 0.5. */
  readonly at?: number
  /** `ahead of the tip`: when the WAL is there. Default: never. */
  readonly arrival?: Effect.Effect<void>
  /** Only the first so many attempts meet the fault; default: all of them. `refuse` cannot be counted. */
  readonly failFirst?: number
  /** Bytes per message. Default 64 KiB. */
  readonly pieceBytes?: number
  /** For how many milliseconds a lease is given; `refused`: none is. Default: an hour. */
  readonly lease?: number | "refused"
  readonly listen?: ListenAt
  /** Instead of `fault` and `failFirst`: what the next attempts meet, to be armed while it runs. */
  readonly attempts?: FaultQueue<PageserverAttempt>
  readonly record?: SeenList<PageserverSeen>
}

/** Those of the options, when nobody arms any. */
export const attemptsOf = <F>({ failFirst, fault }: { readonly fault?: F; readonly failFirst?: number }) => {
  const attempts = new FaultQueue<PageserverAttempt<F>>()
  if (fault !== undefined) attempts.arm({ fault }, failFirst ?? Infinity)
  return attempts
}

/** One attempt, as the client made it. */
export interface PageserverSeen {
  readonly user: string
  readonly applicationName: string
  readonly options: string
  readonly password: string | null
  readonly command: string | null
}

export interface FakePageserver {
  /** For a spec's `libpq_url` or `pageserver_connstring`. */
  readonly url: string
  readonly port: number
  readonly seen: Effect.Effect<ReadonlyArray<PageserverSeen>>
  /** How many clients are connected right now. */
  readonly connections: Effect.Effect<number>
}

/** The archive as a fault leaves it. */
export const spoiled = (archive: Uint8Array, fault: PageserverFault | undefined, at: number): Uint8Array => {
  if (fault === "truncated tar") {
    const tar = gunzipSync(archive)
    return gzipSync(tar.subarray(0, Math.floor(tar.length * at)))
  }
  if (fault !== "corrupt gzip") return archive
  const from = Math.floor(archive.length * at)
  return archive.map((byte, index) => (index >= from && index < from + 16 ? byte ^ 0xff : byte))
}

const copy = Effect.fnUntraced(function* (
  session: Session,
  pieceBytes: number,
  bytes: Uint8Array,
  from: number,
  to: number,
  drip: boolean
) {
  const step = drip ? Math.min(pieceBytes, 1024) : pieceBytes
  for (let start = from; start < to; start += step) {
    yield* session.send(copyData(bytes.subarray(start, Math.min(start + step, to))))
    if (drip) yield* Effect.sleep("1 millis")
  }
})

/** The answer to the command, with what goes wrong in it. */
const serveArchive = Effect.fnUntraced(function* (
  session: Session,
  { archive, at = 0.5, pieceBytes = 64 * 1024 }: PageserverOptions,
  now: PageserverFault | undefined
) {
  const bytes = spoiled(archive, now, at)
  const stop = Math.floor(bytes.length * at)
  const breaks = now === "cut" || now === "stall" || now === "reset" || now === "error mid-way"
  yield* session.send(copyOut)
  yield* copy(session, pieceBytes, bytes, 0, breaks ? stop : bytes.length, now === "slow drip")
  if (now === "stall") return yield* Effect.never
  if (now === "reset") return yield* session.reset
  if (now === "error mid-way") return yield* session.send(neonError("a layer file could not be read"), readyForQuery)
  if (now === "error after the end") {
    return yield* session.send(neonError("the timeline was shut down while it was read"), readyForQuery)
  }
  yield* session.send(copyDone, commandComplete("COPY"), readyForQuery)
})

/** The answer to `lease lsn`. */
const grantLease = Effect.fnUntraced(function* (
  session: Session,
  options: PageserverOptions,
  words: ReadonlyArray<string>
) {
  const known =
    words[1] === "lsn" && words[2]?.replace(/-[0-9a-f]{4}$/, "") === options.tenant && words[3] === options.timeline
  if (!known) {
    return yield* session.send(neonError(`Not found: Timeline ${words[2]}/${words[3]} was not found`), readyForQuery)
  }
  const { lease = 3_600_000 } = options
  const until = lease === "refused" ? null : String((yield* Clock.currentTimeMillis) + lease)
  yield* session.send(table(["valid_until"], [[until]], "SELECT 1"))
})

/** What it says instead of an archive; `null`: nothing. Its words are those of a real one, its cutoff is not. */
export const refusedBasebackup = (
  fault: PageserverFault | undefined,
  known: boolean,
  lsn: string
): "not found" | `LSN ${string}` | null => {
  if (fault === "unknown timeline" || !known) return "not found"
  return fault === "collected"
    ? `LSN ${lsn} is earlier than latest GC cutoff F/0 (we might've already garbage collected needed data)`
    : null
}

/**
 * A pageserver that sends one archive, by the protocol of libpq.
 *
 * @example
 * ```ts
 * const ids = { tenant: "a".repeat(32), timeline: "b".repeat(32) }
 * const { url } = yield* makeFakePageserver({ ...ids, archive: new Uint8Array(), fault: "hang" })
 * ```
 */
export const makeFakePageserver: (
  options: PageserverOptions
) => Effect.Effect<FakePageserver, ListenFailed, Scope.Scope> = Effect.fnUntraced(function* (options) {
  const { attempts = attemptsOf(options), record = new SeenList<PageserverSeen>() } = options

  const answer = Effect.fnUntraced(function* (session: Session) {
    const { at, delay, fault: now } = attempts.next() ?? {}
    if (delay !== undefined) yield* Effect.sleep(delay)
    const startup = (name: string) => session.startup.get(name) ?? ""
    const who = { user: startup("user"), applicationName: startup("application_name"), options: startup("options") }
    if (now === "hang" || now === "starting up") record.add({ ...who, password: null, command: null })
    if (now === "hang") return yield* Effect.never
    if (now === "starting up") return yield* session.send(error("FATAL", "57P03", "the pageserver is starting up"))
    const password = options.token === undefined && now !== "wrong token" ? null : yield* session.password
    if (now === "wrong token" || (options.token !== undefined && password !== options.token)) {
      record.add({ ...who, password, command: null })
      return yield* session.send(unauthorized)
    }
    yield* session.send(loggedIn)
    const command = yield* session.query
    record.add({ ...who, password, command })
    const words = (command ?? "").split(" ")
    if (now === "another tenant's token") {
      yield* session.send(unauthorized, readyForQuery)
      return void (yield* session.query)
    }
    if (words[0] === "lease") {
      yield* grantLease(session, options, words)
      return void (yield* session.query)
    }
    if (words[0] !== "basebackup") return yield* session.send(neonError(`unsupported command ${command}`))
    const refused = refusedBasebackup(now, words[1] === options.tenant && words[2] === options.timeline, words[3] ?? "")
    if (refused !== null) {
      const said = refused === "not found" ? refused : `invalid basebackup lsn: ${refused}`
      yield* session.send(neonError(said), readyForQuery)
      return void (yield* session.query)
    }
    if (now === "ahead of the tip") yield* options.arrival ?? Effect.never
    yield* serveArchive(session, at === undefined ? options : { ...options, at }, now)
    yield* session.query
  })

  const { connections, host, port } = yield* serve(answer, { ...options.listen, gone: options.fault === "refuse" })
  return { url: `postgresql://no_user@${inUrl(host)}:${port}`, port, connections, seen: Effect.sync(() => record.all) }
})
