/**
 * The page in a real browser, as its reader meets it: wide and narrow, light and dark, by keyboard alone, with a token
 * and without, and with text of others in it. On a machine without a Chromium this says so, and the rest of what can be
 * said of the page is in `page.wire.test.ts`.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { afterAll } from "vitest"
import { ComputeState } from "../../src/compute/ComputeState.ts"
import { verifierOf } from "../../src/http/Verifier.ts"
import { type Browser, chromiumAt, openBrowser, type Page, type View } from "../support/browser.ts"
import { busyCompute, hostile, lines } from "./pageState.ts"
import { inMemoryServices, open, reach } from "./testServer.ts"
import { edSigner, tokenOf } from "./tokens.ts"

const program = chromiumAt()
if (program === null) process.stderr.write("there is no Chromium on this machine: the page is not looked at in one\n")

let browser: Promise<Browser> | undefined
afterAll(async () => (await browser)?.close())

const wide: View = { width: 1280, height: 900, scheme: "light" }

type Services = Layer.Success<typeof inMemoryServices> | Scope.Scope

/** A test in the browser; without one there is nothing that it could look at. */
const looks = (title: string, look: (page: Page) => Effect.Effect<void, unknown, Services>) =>
  it.live(
    title,
    () =>
      program === null
        ? Effect.void
        : Effect.gen(function* () {
            const page = yield* Effect.promise(async () => (await (browser ??= openBrowser(program))).page())
            yield* Effect.promise(() => page.look(wide))
            yield* look(page)
          }).pipe(Effect.provide(inMemoryServices)),
    60_000
  )

const told = (page: Page) => page.observed().messages.filter((message) => !/status of (400|404)/.test(message))
const text = (selector: string) => `document.querySelector(${JSON.stringify(selector)}).innerText`
const isThere = `!document.querySelector("#content").hidden && document.querySelector("#log .body").hasChildNodes()`

/** Elements that lie outside of the width, or whose text is hard to read, as the browser computes it. */
const faults = `(() => {
  const luminance = ([r, g, b]) => {
    const part = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b)
  }
  const rgb = (color) => color.match(/[\\d.]+/g).map(Number)
  const ground = (element) => {
    for (let at = element; at !== null; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor)
      if (color.length === 3 || color[3] > 0.99) return color
    }
    return [255, 255, 255]
  }
  const found = []
  for (const element of document.querySelectorAll("body *")) {
    if (element.closest("script, style, noscript") !== null || !element.checkVisibility()) continue
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== "")
    if (!own) continue
    const box = element.getBoundingClientRect()
    const isHidden = element.closest(".hidden, .skip, thead") !== null
    const isOutside = box.right > innerWidth + 1 || box.left < -1
    if (!isHidden && isOutside) found.push("outside: " + element.outerHTML.slice(0, 120))
    const svg = element.ownerSVGElement ?? null
    const node = element.closest(".node rect, .node")
    const style = getComputedStyle(element)
    const back = svg === null ? ground(element) : rgb(getComputedStyle(node.querySelector("rect")).fill)
    const front = rgb(svg === null ? style.color : style.fill)
    const [light, dark] = [luminance(back), luminance(front)].sort((a, b) => b - a)
    if (!isHidden && (light + 0.05) / (dark + 0.05) < 4.5)
      found.push("contrast " + ((light + 0.05) / (dark + 0.05)).toFixed(2) + ": " + element.outerHTML.slice(0, 120))
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push("it scrolls sideways")
  return found
})()`

describe("the page in a browser", () => {
  looks("shows all of a compute, as text of others is, and asks nobody but the compute", (page) =>
    Effect.gen(function* () {
      const { port } = yield* open({ recentLog: lines })
      yield* busyCompute
      yield* Effect.promise(async () => {
        await page.go(`http://127.0.0.1:${port}/`)
        await page.until(isThere)
        const parts: ReadonlyArray<readonly [string, ReadonlyArray<string>]> = [
          ["header", ["running", "2 conditions", "1".repeat(32)]],
          ["#conditions", ["actor_failing · LSN lease", `migration 3 failed: ${hostile}`, "shared_buffers", "1GB"]],
          ["#life", ["init → running", "Postgres accepts connections and the spec is applied"]],
          ["#start", ["554 ms", "build PGDATA", "2026-01-30 08:15:00", "1662 ms"]],
          ["#activity", ["Awake: 2 client sessions are busy", "Replicas, subscribers", "Holds", "after 5 min"]],
          ["#apply", ["16 done, 1 skipped, 1 failed", "permission denied for database app", "SQLSTATE 42501"]],
          ["#log", [`a line that a tenant made: ${hostile}`, "12:00:02.000"]]
        ]
        for (const [selector, wanted] of parts) {
          const shown = String(await page.value(text(selector)))
          for (const part of wanted) assert.include(shown, part, selector)
        }
        const first = await page.value(text("#apply tbody tr"))
        assert.include(first, "failed", "failures come first")
        assert.strictEqual(await page.value("document.querySelectorAll('img, main script').length"), 0)
        assert.strictEqual(await page.value("document.title"), `running (!) · 127.0.0.1:${port}`)
        assert.deepStrictEqual(told(page), [])
        for (const url of page.observed().requests)
          assert.isTrue(url.startsWith(`http://127.0.0.1:${port}/`) || url.startsWith("data:"), url)
      })
    })
  )

  looks("follows the compute, and marks on the drawing where it is and how it came there", (page) =>
    Effect.gen(function* () {
      const state = yield* ComputeState
      const { port } = yield* open()
      const marked = (mark: string, what: string) =>
        `[...new Set([...document.querySelectorAll(".${mark}")].map((one) => one.dataset.${what}))].join()`
      const shows = (status: string) => `${text("#status-name")} === ${JSON.stringify(status)} && ${isThere}`
      yield* Effect.promise(() => page.go(`http://127.0.0.1:${port}/`))
      yield* Effect.promise(() => page.until(`${text("#status-name")} === "empty"`))
      yield* reach("running")
      yield* Effect.promise(() => page.until(`${shows("running")} && ${marked("current", "status")} === "running"`))
      assert.strictEqual(yield* Effect.promise(() => page.value(marked("edge.taken", "to"))), "running")
      assert.strictEqual(yield* Effect.promise(() => page.value(marked("previous", "status"))), "init")
      yield* state.send("Broke", { error: "Postgres died" })
      yield* Effect.promise(() => page.until(`${shows("failed")} && ${marked("current", "status")} === "failed"`))
      // One edge for all that can fail.
      assert.include(yield* Effect.promise(() => page.value(marked("edge.taken", "from"))), "running")
      assert.strictEqual(yield* Effect.promise(() => page.value(text("#error"))), "Postgres died")
      yield* state.send("TerminateFastAsked")
      yield* state.send("PostgresGone")
      yield* Effect.promise(() => page.until(`${text("#link")} === "this compute has ended"`))
      assert.strictEqual(yield* Effect.promise(() => page.value(text("#status-name"))), "terminated")
      assert.deepStrictEqual(told(page), [])
    }).pipe(Effect.orDie)
  )

  looks("fits and can be read at 1280 and 400 pixels, light and dark, with all of it open", (page) =>
    Effect.gen(function* () {
      const { port } = yield* open({ recentLog: lines })
      yield* busyCompute
      yield* Effect.promise(async () => {
        await page.go(`http://127.0.0.1:${port}/`)
        await page.until(isThere)
        await page.value("for (const one of document.querySelectorAll('details')) one.open = true")
        for (const width of [1280, 400])
          for (const scheme of ["light", "dark"] as const) {
            await page.look({ width, height: 900, scheme, reducedMotion: true })
            assert.deepStrictEqual(await page.value(faults), [], `${width} pixels, ${scheme}`)
          }
        const moving = `[...document.querySelectorAll("*")].filter((one) =>
          getComputedStyle(one).transitionDuration !== "0s" || getComputedStyle(one).animationName !== "none").length`
        assert.strictEqual(await page.value(moving), 0, "nothing moves for who asked for that")
        const drawn = `[...document.querySelectorAll(".diagram")].filter((one) => one.checkVisibility()).length`
        assert.strictEqual(await page.value(drawn), 1)
      })
    })
  )

  looks("asks for a token, keeps it in memory alone, and shows nothing after it is forgotten; by keyboard", (page) =>
    Effect.gen(function* () {
      const ed = edSigner()
      const token = tokenOf(ed, { compute_id: "compute-1" })
      yield* reach("running")
      const { port } = yield* open({ verifier: verifierOf([ed.jwk]), recentLog: lines })
      const url = `http://127.0.0.1:${port}/`
      const asksForOne = `!document.querySelector("#token-section").hidden && document.activeElement.id === "token"`
      yield* Effect.promise(async () => {
        await page.go(url)
        await page.until(asksForOne)
        await page.type("not.a.token")
        await page.press("Enter")
        await page.until(`${text("#token-why")}.includes("is refused")`)
        await page.type(token)
        await page.press("Enter")
        await page.until(isThere)
        assert.strictEqual(await page.value("document.querySelector('#token').value"), "")
        const kept = "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href])"
        assert.strictEqual(await page.value(kept), JSON.stringify([{}, {}, "", url]))
        for (const asked of page.observed().requests) assert.notInclude(asked, token)
        assert.notInclude(String(await page.value("document.documentElement.outerHTML")), token)

        // To the button that a token allows, with nothing but the keyboard, and everything on the way shows the focus.
        const focused = "document.activeElement.dataset.key ?? document.activeElement.id"
        const visible = "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        for (let n = 0; (await page.value(focused)) !== "hold"; n++) {
          assert.isBelow(n, 30, "the button is not reached")
          await page.press("Tab")
          assert.isTrue(await page.value(visible), String(await page.value(focused)))
        }
        await page.press("Enter")
        await page.until(`${text("#activity")}.includes("asked for on the compute's page")`)
        assert.strictEqual(await page.value(focused), "hold", "the focus stays where it was")
        await page.press("ShiftTab")
        assert.match(String(await page.value(focused)), /^release /)
        await page.press("Space")
        await page.until(`!${text("#activity")}.includes("asked for on the compute's page")`)

        await page.value("document.querySelector('#forget').click()")
        await page.until(asksForOne)
        assert.isFalse(await page.value("document.querySelector('#content').checkVisibility()"))
        assert.notInclude(String(await page.value("document.body.innerHTML")), "a tenant made")
      })
    })
  )

  looks("without tokens offers nothing to do, and says when the compute cannot be reached", (page) =>
    Effect.gen(function* () {
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* reach("running")
          const { port } = yield* open()
          yield* Effect.promise(async () => {
            await page.go(`http://127.0.0.1:${port}/`)
            await page.until(isThere)
            assert.strictEqual(await page.value("document.querySelectorAll('main button').length"), 1, "of the form")
            assert.isFalse(await page.value("document.querySelector('main button').checkVisibility()"))
          })
        })
      )
      yield* Effect.promise(() => page.until(`${text("#link")}.includes("connection is lost")`))
      assert.strictEqual(yield* Effect.promise(() => page.value(text("#status-name"))), "running")
    })
  )
})
