/**
 * A real headless Chromium, spoken to over the DevTools protocol on two pipes: no port, no package. `null` on a machine
 * without one.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import type { Readable, Writable } from "node:stream"
import { programAt } from "./programs.ts"

const names = ["chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell"]

export const chromiumAt = (): string | null => names.map(programAt).find((found) => found !== null) ?? null

export interface View {
  readonly width: number
  readonly height: number
  readonly scheme: "light" | "dark"
  readonly reducedMotion?: boolean
}

/** What the browser said of a page, and what it asked the network for. */
interface Observed {
  readonly messages: ReadonlyArray<string>
  readonly requests: ReadonlyArray<string>
}

export interface Page {
  readonly observed: () => Observed
  readonly go: (url: string) => Promise<void>
  readonly look: (view: View) => Promise<void>
  /** The value of an expression, as JSON; promises are waited for. */
  readonly value: (expression: string) => Promise<unknown>
  /** Until the expression is true. */
  readonly until: (expression: string) => Promise<void>
  readonly press: (key: "Tab" | "Enter" | "Space" | "ShiftTab") => Promise<void>
  readonly type: (text: string) => Promise<void>
  /** A PNG of the whole page. */
  readonly screenshot: () => Promise<Buffer>
}

export interface Browser {
  readonly page: () => Promise<Page>
  readonly close: () => Promise<void>
}

type Params = Readonly<Record<string, unknown>>
type Answer = Readonly<Record<string, unknown>>

/** What is at a place of an answer. */
const at = (value: unknown, ...path: ReadonlyArray<string>): unknown =>
  path.reduce<unknown>(
    (inner, key) => (typeof inner === "object" && inner !== null ? Reflect.get(inner, key) : undefined),
    value
  )
const textAt = (value: unknown, ...path: ReadonlyArray<string>): string => String(at(value, ...path) ?? "")

type Listener = (method: string, params: Answer) => void

interface Message {
  readonly id?: number
  readonly sessionId?: string
  readonly method?: string
  readonly params?: Answer
  readonly result?: Answer
  readonly error?: unknown
}

/** Requests and answers of the protocol: JSON, each ended by a zero byte. */
const protocolOf = (child: ChildProcess) => {
  const [, , , out, into] = child.stdio as unknown as [unknown, unknown, unknown, Writable, Readable]
  const waiting = new Map<number, { readonly done: (answer: Answer) => void; readonly fail: (error: Error) => void }>()
  const listeners = new Map<string, Listener>()
  let rest = ""
  let last = 0
  into.setEncoding("utf8").on("data", (chunk: string) => {
    const messages = (rest + chunk).split("\0")
    rest = messages.pop() ?? ""
    for (const message of messages) {
      const { error, id, method, params, result, sessionId } = JSON.parse(message) as Message
      if (id === undefined) {
        listeners.get(sessionId ?? "")?.(method ?? "", params ?? {})
        continue
      }
      if (error === undefined) waiting.get(id)?.done(result ?? {})
      else waiting.get(id)?.fail(new Error(JSON.stringify(error)))
      waiting.delete(id)
    }
  })
  child.once("exit", () => {
    for (const { fail } of waiting.values()) fail(new Error("the browser has left"))
  })
  return {
    listen: (session: string, listener: Listener) => void listeners.set(session, listener),
    send: (method: string, params: Params = {}, sessionId?: string) =>
      new Promise<Answer>((done, fail) => {
        const id = ++last
        waiting.set(id, { done, fail })
        out.write(`${JSON.stringify({ id, method, params, sessionId })}\0`)
      })
  }
}

type Protocol = ReturnType<typeof protocolOf>

const keys = {
  Tab: { key: "Tab", code: "Tab", windowsVirtualKeyCode: 9 },
  ShiftTab: { key: "Tab", code: "Tab", windowsVirtualKeyCode: 9, modifiers: 8 },
  Enter: { key: "Enter", code: "Enter", windowsVirtualKeyCode: 13, text: "\r" },
  Space: { key: " ", code: "Space", windowsVirtualKeyCode: 32, text: " " }
} as const

const observe = (method: string, params: Answer): { readonly message?: string; readonly request?: string } => {
  switch (method) {
    case "Runtime.exceptionThrown":
      return { message: `exception: ${JSON.stringify(params["exceptionDetails"])}` }
    case "Runtime.consoleAPICalled":
      return { message: `console: ${JSON.stringify(params["args"])}` }
    case "Log.entryAdded":
      return { message: `${textAt(params, "entry", "source")}: ${textAt(params, "entry", "text")}` }
    case "Network.requestWillBeSent":
      return { request: textAt(params, "request", "url") }
    default:
      return {}
  }
}

const openPage = async ({ listen, send }: Protocol): Promise<Page> => {
  const { browserContextId } = await send("Target.createBrowserContext")
  const { targetId } = await send("Target.createTarget", { url: "about:blank", browserContextId })
  const sessionId = textAt(await send("Target.attachToTarget", { targetId, flatten: true }), "sessionId")
  const ask = (method: string, params?: Params) => send(method, params, sessionId)
  const messages: Array<string> = []
  const requests: Array<string> = []
  let loaded = () => {}
  listen(sessionId, (method, params) => {
    const { message, request } = observe(method, params)
    if (message !== undefined) messages.push(message)
    if (request !== undefined) requests.push(request)
    if (method === "Page.loadEventFired") loaded()
  })
  for (const domain of ["Page", "Runtime", "Log", "Network"]) await ask(`${domain}.enable`)

  const value = async (expression: string) => {
    const answer = await ask("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true })
    if (answer["exceptionDetails"] !== undefined)
      throw new Error(`${expression}: ${JSON.stringify(answer["exceptionDetails"])}`)
    return at(answer, "result", "value")
  }
  return {
    observed: () => ({ messages: [...messages], requests: [...requests] }),
    go: async (url) => {
      const done = new Promise<void>((resolve) => (loaded = resolve))
      await ask("Page.navigate", { url })
      await done
    },
    look: async ({ height, reducedMotion = false, scheme, width }) => {
      await ask("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 600 })
      const features = [
        { name: "prefers-color-scheme", value: scheme },
        { name: "prefers-reduced-motion", value: reducedMotion ? "reduce" : "no-preference" }
      ]
      await ask("Emulation.setEmulatedMedia", { features })
    },
    value,
    until: async (expression) => {
      // In the browser's own time: it looks again with each frame.
      const looking = `new Promise((resolve, reject) => {
        const from = performance.now()
        const look = () => {
          if (${expression}) resolve(true)
          else if (performance.now() - from > 20000) reject(new Error("waited in vain"))
          else requestAnimationFrame(look)
        }
        look()
      })`
      await value(looking)
    },
    press: async (key) => {
      await ask("Input.dispatchKeyEvent", { type: "keyDown", ...keys[key] })
      await ask("Input.dispatchKeyEvent", { type: "keyUp", ...keys[key] })
    },
    type: async (text) => void (await ask("Input.insertText", { text })),
    screenshot: async () => {
      const { cssContentSize } = await ask("Page.getLayoutMetrics")
      const [width, height] = [at(cssContentSize, "width"), at(cssContentSize, "height")]
      const clip = { x: 0, y: 0, width, height, scale: 1 }
      const { data } = await ask("Page.captureScreenshot", { format: "png", captureBeyondViewport: true, clip })
      return Buffer.from(String(data), "base64")
    }
  }
}

export const openBrowser = async (program: string): Promise<Browser> => {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-browser-"))
  const flags = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    `--user-data-dir=${profile}`,
    // Its sandbox refuses to run as root.
    ...(process.getuid?.() === 0 ? ["--no-sandbox"] : [])
  ]
  const child = spawn(program, [...flags, "about:blank"], {
    detached: true,
    stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"]
  })
  const protocol = protocolOf(child)
  await protocol.send("Browser.getVersion")
  return {
    page: () => openPage(protocol),
    close: async () => {
      const gone = once(child, "exit")
      if (child.pid !== undefined && child.exitCode === null) {
        process.kill(-child.pid, "SIGKILL")
        await gone
      }
      fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 })
    }
  }
}
