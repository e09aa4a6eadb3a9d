/**
 * Whether the safekeepers already agree, judged from what they answered (reference section 4.6). Asks nobody.
 *
 * "No" is always a safe answer: then Postgres makes them agree.
 */
import type { Lsn } from "../../spec/Lsn.ts"
import { printLsn } from "../../spec/Lsn.ts"

/** What one safekeeper knows about the timeline, or why it did not say. */
export type Reply =
  | { readonly _tag: "Known"; readonly safekeeper: string; readonly flush: Lsn; readonly commit: Lsn }
  | { readonly _tag: "Unknown"; readonly safekeeper: string }
  | { readonly _tag: "Silent"; readonly safekeeper: string; readonly because: string }

export type Judgement =
  | { readonly _tag: "Synced"; readonly lsn: Lsn }
  | { readonly _tag: "NotSynced"; readonly reason: string }

export const quorumOf = (safekeepers: number): number => Math.floor(safekeepers / 2) + 1

/** Nothing that is still to come can change the judgement: a quorum has answered, or a quorum has not. */
export const isDecided = (safekeepers: number, replies: ReadonlyArray<Reply>): boolean => {
  const silent = replies.filter((reply) => reply._tag === "Silent").length
  const quorum = quorumOf(safekeepers)
  return silent >= quorum || replies.length - silent >= quorum || replies.length >= safekeepers
}

const notSynced = (reason: string): Judgement => ({ _tag: "NotSynced", reason })

const told = (reply: Reply): string =>
  reply._tag === "Known"
    ? `${reply.safekeeper} flushed ${printLsn(reply.flush)} and committed ${printLsn(reply.commit)}`
    : reply._tag === "Unknown"
    ? `${reply.safekeeper} does not know the timeline`
    : `${reply.safekeeper}: ${reply.because}`

/** `replies` are those collected until `isDecided`. The LSN may be 0/0: a timeline that exists and is empty. */
export const judge = (safekeepers: number, replies: ReadonlyArray<Reply>): Judgement => {
  const answers = replies.filter((reply) => reply._tag !== "Silent")
  const quorum = quorumOf(safekeepers)
  if (safekeepers === 0) return notSynced("there are no safekeepers")
  if (answers.length < quorum) {
    return notSynced(`${answers.length} of ${safekeepers} safekeepers answered, ${quorum} are needed: ${replies.map(told).join("; ")}`)
  }
  const known = answers.filter((reply) => reply._tag === "Known")
  const [first] = known
  if (first === undefined || known.length < answers.length) return notSynced(answers.map(told).join("; "))
  const agreed = known.every((reply) => reply.flush === first.flush && reply.commit === first.flush)
  return agreed ? { _tag: "Synced", lsn: first.flush } : notSynced(known.map(told).join("; "))
}
