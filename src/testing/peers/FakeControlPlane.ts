/**
 * An imitation control plane that answers the one question of a compute: what is my spec? Over real HTTP, well or
 * badly.
 *
 * Gone, with its port, when the scope ends.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type * as Http from "node:http"
import type { ListenFailed } from "../../errors/Failure.ts"
import { SeenList } from "./faults.ts"
import { serveHttp } from "./serverHttp.ts"

/**
 * `500`, `502`, `503`, `404`: it answers so. `garbage`: its answer is a page of a proxy. `hang`: it accepts and says
 * nothing. `reset`: it breaks the connection. `refuse`: nobody listens; it cannot be counted.
 */
export type ControlPlaneFault = "500" | "502" | "503" | "404" | "garbage" | "hang" | "reset" | "refuse"

export interface ControlPlaneOptions {
  readonly computeId: string
  /** Asked for as the bearer's; without it everybody is answered. */
  readonly token?: string
  /**
   * The whole answer (docs/reference/compute_ctl.md#spec-answer), as it is at the time of the question; `undefined`:
   * there is no such compute.
   */
  readonly answer: () => unknown
  readonly fault?: ControlPlaneFault
  /** Only the first so many questions meet the fault; default: all of them. */
  readonly failFirst?: number
}

export interface ControlPlaneSeen {
  readonly path: string
  readonly authorization: string | null
}

export interface FakeControlPlane {
  /** For `-p`. */
  readonly uri: string
  readonly seen: Effect.Effect<ReadonlyArray<ControlPlaneSeen>>
}

/** How one question is answered. */
export const answerQuestion =
  (options: ControlPlaneOptions, fault: ControlPlaneFault | undefined) =>
  (request: Http.IncomingMessage, response: Http.ServerResponse): void => {
    const say = (status: number, type: string, body: string) =>
      void response.writeHead(status, { "content-type": type }).end(body)
    if (fault === "hang") return
    if (fault === "reset") return void request.socket.resetAndDestroy()
    if (fault === "garbage") return say(200, "text/html", "<html>the proxy is fine</html>")
    if (fault !== undefined) return say(Number(fault), "text/plain", "not now")
    if (options.token !== undefined && request.headers.authorization !== `Bearer ${options.token}`) {
      return say(401, "text/plain", "the token is not valid")
    }
    const asked = request.url === `/compute/api/v2/computes/${encodeURIComponent(options.computeId)}/spec`
    const answer = asked ? options.answer() : undefined
    return answer === undefined
      ? say(404, "text/plain", "there is no such compute")
      : say(200, "application/json", JSON.stringify(answer))
  }

/**
 * A control plane that answers one compute's question for its spec.
 *
 * @example
 * ```ts
 * const answer = () => ({ status: "empty", compute_ctl_config: { jwks: { keys: [] } } })
 * const { uri } = yield* makeFakeControlPlane({ computeId: "compute-1", answer, fault: "503", failFirst: 2 })
 * ```
 */
export const makeFakeControlPlane: (
  options: ControlPlaneOptions
) => Effect.Effect<FakeControlPlane, ListenFailed, Scope.Scope> = Effect.fnUntraced(function* (options) {
  const seen = new SeenList<ControlPlaneSeen>()
  let asked = 0
  const { close, port } = yield* serveHttp("the imitation control plane", (request, response) => {
    seen.add({ path: request.url ?? "", authorization: request.headers.authorization ?? null })
    asked += 1
    answerQuestion(options, asked <= (options.failFirst ?? Infinity) ? options.fault : undefined)(request, response)
  })
  if (options.fault === "refuse") yield* close
  return { uri: `http://127.0.0.1:${port}`, seen: Effect.sync(() => seen.all) }
})
