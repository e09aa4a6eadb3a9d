/**
 * What a compute in a test logs: its own lines and those of its Postgres, the last of them kept for whoever asks, and
 * shown only when they are wanted.
 */
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import type { LogSink } from "../postgres/LogPipe.ts"
import type { LogOption } from "./options.ts"

export interface LogLines {
  /** Oldest first, bounded. */
  readonly lines: () => ReadonlyArray<string>
  /** In place of other loggers. */
  readonly logger: Layer.Layer<never>
  /** For the log of Postgres. */
  readonly sink: LogSink
  /** Shows them, where that is asked for: the compute has failed. */
  readonly failed: Effect.Effect<void>
}

const kept = 1000

export const logLines = (option: LogOption): LogLines => {
  const lines: Array<string> = []
  const add = (line: string) => {
    lines.push(line)
    if (lines.length > kept) lines.shift()
    if (typeof option === "function") option(line)
  }
  return {
    lines: () => [...lines],
    logger: Logger.layer([Logger.make((entry) => add(Logger.formatLogFmt.log(entry)))]),
    sink: (text) =>
      Effect.sync(() =>
        text
          .split("\n")
          .filter((line) => line !== "")
          .forEach(add)
      ),
    failed: Effect.sync(() => {
      if (option === "onFailure") process.stderr.write(lines.map((line) => `${line}\n`).join(""))
    })
  }
}
