/**
 * The proof that no Postgres writes to a volume, and what is known of the one that left its postmaster.pid there.
 *
 * Whoever has the lock on the volume (`platform/lock.ts`) knows that nothing of a compute is left, in any container.
 * A Postgres that somebody started by hand holds no such lock: it is seen in `/proc`, and from another container only
 * by its postmaster.pid. Each start therefore notes which postmaster.pid is that of its own Postgres; any other one is
 * a stranger's, alive or not, and is refused. Nothing of a stranger is ever ended.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { PgdataBusy } from "../../errors/Failure.ts"
import { removeFile, replaceFile, textOrNull } from "../../platform/files.ts"
import { readBootId } from "../../platform/processes.ts"
import { endLeftovers } from "../../postgres/leftovers.ts"
import { readPidFile } from "../../postgres/pidFile.ts"
import { flush } from "../local/disk.ts"
import type { VolumeLayout } from "./layout.ts"

const Note = Schema.Struct({
  bootId: Schema.NullOr(Schema.String),
  /** The lines of postmaster.pid that no other one has; `null`: a Postgres was about to be started. */
  postmaster: Schema.NullOr(Schema.String)
})
const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Note))

/** Pid, folder and time of its start. */
const identityOf = (pidFile: string): string | null => {
  const lines = pidFile.split("\n").slice(0, 3)
  return lines.length === 3 && /^\s*\d+\s*$/.test(lines[0] ?? "") ? lines.map((line) => line.trim()).join(" ") : null
}

/** On the disk when it returns: postmaster.pid outlives a power cut, and must not be without its note then. */
const write = Effect.fnUntraced(function* (layout: VolumeLayout, postmaster: string | null) {
  const content = `${JSON.stringify({ bootId: yield* readBootId, postmaster })}\n`
  yield* replaceFile({ path: layout.postmaster, content, owner: layout.owner })
  yield* flush(layout.ours)
})

/** From now on a postmaster.pid may be ours. */
export const notePostmasterToCome = (layout: VolumeLayout) => write(layout, null)

/** The postmaster.pid that is there is ours, and any other one is not. */
export const notePostmaster = (layout: VolumeLayout) =>
  Effect.suspend(() => write(layout, identityOf(readPidFile(layout.root))))

/** Ours has left in order and has taken its postmaster.pid along. */
export const forgetPostmaster = (layout: VolumeLayout) => removeFile(layout.postmaster)

type Origin = "a compute" | "a compute that ran without the lock" | "somebody else"

/** Who started the Postgres of this postmaster.pid. */
const originOf = Effect.fnUntraced(function* (layout: VolumeLayout, pidFile: string, fenced: boolean) {
  const note = Option.getOrNull(decode((yield* textOrNull(layout.postmaster)) ?? ""))
  const isOurs = note !== null && (note.postmaster === null || note.postmaster === identityOf(pidFile))
  const origin: Origin = isOurs
    ? fenced || note.bootId !== (yield* readBootId)
      ? "a compute"
      : "a compute that ran without the lock"
    : "somebody else"
  return origin
})

const refusal = (layout: VolumeLayout, pidFile: string, origin: Origin) => {
  const pid = pidFile.split("\n")[0]?.trim()
  const file = `${layout.root}/postmaster.pid`
  return new PgdataBusy({
    directory: layout.root,
    holder: `Postgres with pid ${pid}, started by ${origin}, as ${file} says; it cannot be seen from here`,
    hint:
      `stop it where it runs: pg_ctl stop -D ${layout.root}; only when it is certain that it is gone, also from ` +
      `other containers, remove ${file} alone, and start again`
  })
}

export interface Predecessors {
  /** One died instead of letting go. */
  readonly leftBehind: boolean
  /** They had the lock, so nothing of theirs is left now that it is ours. */
  readonly fenced: boolean
}

/** Returns when no Postgres can be writing here, and has then removed the postmaster.pid of the dead. */
export const proveAlone = Effect.fn("VolumeStorage.proveAlone")(function* (
  layout: VolumeLayout,
  { fenced, leftBehind }: Predecessors,
  allowUnfenced: boolean
) {
  yield* endLeftovers(layout.root, leftBehind && !fenced)
  const pidFile = readPidFile(layout.root)
  if (pidFile !== "" && !allowUnfenced) {
    const origin = yield* originOf(layout, pidFile, fenced)
    if (origin !== "a compute") return yield* refusal(layout, pidFile, origin)
  }
  yield* removeFile(`${layout.root}/postmaster.pid`)
})
