/**
 * The compute's page, and the one route that is there for it alone: the log's last lines. A browser gets the page
 * without data, everybody else all of it as text.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import type { HourRecorder } from "../../activity/HourRecorder.ts"
import type { ComputeState } from "../../compute/ComputeState.ts"
import { accepts } from "../answer.ts"
import type { ServerOptions } from "../options.ts"
import { shell } from "./shell.ts"
import { pageText } from "./text.ts"

/** Another answer for another `Accept`, and never from a cache. */
const textHeaders = { "cache-control": "no-store", vary: "accept", "x-content-type-options": "nosniff" }

export const pageRoutes = (
  state: ComputeState["Service"],
  { apiVersion, recentLog, version }: Pick<ServerOptions, "apiVersion" | "recentLog" | "version">,
  hour: HourRecorder
) => {
  const page = Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    if (accepts(request.headers["accept"], "text/html")) {
      const { headers, html } = shell()
      return HttpServerResponse.text(html, { headers, contentType: "text/html; charset=utf-8" })
    }
    const snapshot = yield* state.now
    const now = yield* Clock.currentTimeMillis
    const text = pageText({
      apiVersion,
      version,
      snapshot,
      minutes: hour.minutes(snapshot, now),
      log: recentLog(),
      now
    })
    return HttpServerResponse.text(text, { headers: textHeaders, contentType: "text/plain; charset=utf-8" })
  })
  return {
    page: () => page,
    log: () => Effect.sync(() => ({ lines: recentLog() }))
  }
}
