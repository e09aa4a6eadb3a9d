/**
 * The folder of our own socket, over which our sessions come: 0700, and the run-as user's.
 *
 * PGDATA itself where a socket's path is not too long for it. Another one stays when a killed compute could not take it
 * away, and the next start of the same PGDATA finds it.
 */
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import { FileFailed } from "../errors/Failure.ts"
import { attempt, makeFolder, type Owner } from "../platform/files.ts"

export interface SocketPlace {
  /** Absolute; nobody else's for as long as the compute lives. */
  readonly pgdata: string
  /** The storage's folder; absent: it has none but PGDATA. */
  readonly directory?: string
  readonly port: number
}

/** Linux takes 107 bytes and macOS 103. */
const maxSocketPath = 100

export const socketFolder = ({ directory, pgdata, port }: SocketPlace): string => {
  const fits = (folder: string) => Buffer.byteLength(`${folder}/.s.PGSQL.${port}`) < maxSocketPath
  if (fits(pgdata)) return pgdata
  const name = createHash("sha256").update(pgdata).digest("hex").slice(0, 12)
  const inStorage = directory === undefined ? [] : [`${directory}/sockets/${name}`]
  return inStorage.find(fits) ?? `/tmp/compute-ctl-${name}`
}

const foreign = (folder: string, detail: string) =>
  new FileFailed({
    operation: "use for the socket",
    path: folder,
    cause: new Error(detail),
    hint: "remove it; compute_ctl makes a folder of its own there, which nobody else may have made for it"
  })

/** What a Postgres that was killed left: it may name a process that is somebody else today. */
const isSocketFile = (name: string): boolean => name.startsWith(".s.PGSQL.")

/** Only for who has locked PGDATA: then no Postgres has a socket there. */
export const makeSocketFolder = Effect.fnUntraced(function* (folder: string, owner: Owner | null) {
  yield* makeFolder(folder, owner)
  const stat = yield* attempt("look at", folder, () => fs.lstatSync(folder))
  if (!stat.isDirectory()) return yield* foreign(folder, "it is not a folder")
  if (stat.uid !== (owner?.uid ?? process.geteuid?.() ?? stat.uid))
    return yield* foreign(folder, `it belongs to the user with id ${stat.uid}`)
  yield* attempt("empty", folder, () => {
    fs.chmodSync(folder, 0o700)
    for (const name of fs.readdirSync(folder).filter(isSocketFile)) fs.unlinkSync(`${folder}/${name}`)
  })
})

/** Postgres is gone and has taken its socket along; a folder that is not empty stays. */
export const removeSocketFolder = (folder: string): Effect.Effect<void> =>
  Effect.ignore(attempt("remove", folder, () => fs.rmdirSync(folder)))
