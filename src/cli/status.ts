/**
 * `compute_ctl status` and `compute_ctl top`: the compute's page as text, once, or on a terminal again and again.
 */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import { failed } from "../errors/policy.ts"
import { printHostPort } from "../pgwire/address.ts"
import { ask, readTarget, textIn } from "./ask.ts"
import type { Environment, Given, Read } from "./given.ts"
import type { Port } from "./portsFile.ts"

export interface StatusSettings {
  readonly port: Port
  /** `COMPUTE_CTL_TOKEN`: a variable, because flags are seen by everybody on the machine. */
  readonly token: Redacted.Redacted<string> | null
}

export const readStatus = (given: Given, env: Environment): Read<StatusSettings> =>
  Result.map(readTarget(given, env), ({ api }) => ({
    port: api,
    token: env["COMPUTE_CTL_TOKEN"] ? Redacted.make(env["COMPUTE_CTL_TOKEN"]) : null
  }))

/** The page, or why there is none. */
const look = ({ port, token }: StatusSettings): Effect.Effect<string, string> =>
  ask(port, "/", {
    accept: "text/plain",
    ...(token === null ? {} : { authorization: `Bearer ${Redacted.value(token)}` })
  }).pipe(
    Effect.mapError((why) => `no compute answers on ${printHostPort(port)}: ${why}`),
    Effect.flatMap(({ body, status }) => {
      if (status === 200) return Effect.succeed(body)
      if (status === 401) return Effect.fail("this compute asks for a token: put one into COMPUTE_CTL_TOKEN")
      return Effect.fail(textIn(body, "error") ?? `the compute answers with HTTP ${status}`)
    })
  )

export interface Terminal {
  readonly print: (text: string) => void
  readonly complain: (text: string) => void
  /** Lines that it shows; `null`: it is none. */
  readonly rows: () => number | null
}

const every = "2 seconds"

const clear = "\x1b[H\x1b[2J\x1b[3J"

/** What does not fit is cut: a screen that scrolls cannot be read. */
const screen = (text: string, rows: number): string =>
  clear +
  text
    .split("\n")
    .slice(0, Math.max(1, rows - 1))
    .join("\n")

/** The exit code. */
export const statusCommand = (settings: StatusSettings, { complain, print }: Terminal): Effect.Effect<number> =>
  look(settings).pipe(
    Effect.map((page) => {
      print(page.endsWith("\n") ? page : `${page}\n`)
      return 0
    }),
    Effect.catch((why) =>
      Effect.sync(() => {
        complain(`${why}\n`)
        return failed
      })
    )
  )

/** Until somebody ends it. A compute that is not there may come; where there is no terminal, it is asked once. */
export const topCommand = (settings: StatusSettings, terminal: Terminal): Effect.Effect<number> => {
  const rows = terminal.rows()
  if (rows === null) return statusCommand(settings, terminal)
  const show = Effect.map(
    Effect.catch(look(settings), (why) => Effect.succeed(why)),
    (page) => terminal.print(screen(page, terminal.rows() ?? rows))
  )
  return Effect.forever(Effect.andThen(show, Effect.sleep(every)))
}
