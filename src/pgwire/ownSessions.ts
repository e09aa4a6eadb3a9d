/**
 * How many sessions of ours there were in users' databases. Postgres counts sessions by database and not by role, so
 * without this a tenant's short session could not be told from our own.
 */

/** Ours: many new databases are copied from it, then it is dropped (`catalog/planTemplate.ts`). No spec may name it. */
export const templateDatabase = "template_compute_ctl"

/** No user's: whoever works there is us, or measures. */
export const systemDatabases: ReadonlyArray<string> = ["postgres", "template0", "template1", templateDatabase]

export interface OwnSessionCounts {
  /** Sessions that were tried. */
  readonly begun: number
  /** Of these, how many Postgres let in. */
  readonly opened: number
  /** How many it may have counted: those, and those about which it has not answered yet. */
  readonly atMost: number
  /** Under way, or open, now. */
  readonly open: number
}

interface OwnSession {
  readonly opened: () => void
  /** Without `opened` before it: Postgres refused it. The first call counts. */
  readonly ended: () => void
}

export interface OwnSessions {
  readonly begin: (database: string) => OwnSession
  readonly counts: () => OwnSessionCounts
}

const uncounted: OwnSession = { opened: () => undefined, ended: () => undefined }

export const makeOwnSessions = (): OwnSessions => {
  let begun = 0
  let opened = 0
  let connecting = 0
  let open = 0
  return {
    begin: (database) => {
      if (systemDatabases.includes(database)) return uncounted
      begun++
      connecting++
      open++
      let stage: "connecting" | "open" | "ended" = "connecting"
      const leave = (next: "open" | "ended") => {
        if (stage === "connecting") connecting--
        if (next === "ended" && stage !== "ended") open--
        stage = next
      }
      return {
        opened: () => {
          if (stage !== "connecting") return
          opened++
          leave("open")
        },
        ended: () => leave("ended")
      }
    },
    counts: () => ({ begun, opened, atMost: opened + connecting, open })
  }
}
