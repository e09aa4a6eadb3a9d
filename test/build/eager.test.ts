import { expect, it } from "@effect/vitest"
import { eager } from "../../.ci/eager.ts"

const source = `
function declared(){return 1}
var arrow=(e,t=(()=>2)())=>({e,t}),short=e=>e+1,later=async e=>e,awaited=async()=>3;
var named=function inner(){return 4},generator=function*(){yield 5};
var object={method(e){return e.map(t=>t)},get getter(){return 6},property:function(){return 7}};
class Box{#field=()=>8;own(){return this.#field()}static made(){return new Box}}
switch(declared()){case 1:function inCase(){return 9}}
module.exports=()=>JSON.stringify([declared(),arrow(1),short(1),named(),[...generator()],object.method([1]),
  object.getter,object.property(),Box.made().own(),inCase()]);
`
const run = (text: string): string => {
  const module: { exports: () => string } = { exports: () => "" }
  new Function("module", text)(module)
  return module.exports()
}

/** Where V8 says that functions are: from the word `function`, else from the parameters; a method from its name. */
const ranges = [
  "function declared(){return 1}",
  "(e,t=(()=>2)())=>({e,t})",
  "()=>2",
  "e=>e+1",
  "function inner(){return 4}",
  "function*(){yield 5}",
  "method(e){return e.map(t=>t)}",
  "t=>t",
  "getter(){return 6}",
  "function(){return 7}",
  "()=>8",
  "own(){return this.#field()}",
  "function inCase(){return 9}"
].map((text) => ({ start: source.indexOf(text), end: source.indexOf(text) + text.length }))
const behindAsync = source.indexOf("e=>e,awaited")

it("marks function expressions and arrows, and leaves declarations, methods and what follows async as they are", () => {
  expect(ranges.filter(({ start }) => start < 0)).toEqual([])
  const { marked, text } = eager(source, [...ranges, { start: behindAsync, end: behindAsync + "e=>e".length }])
  expect(text).toContain("arrow=((e,t=((()=>2))())=>({e,t})),short=(e=>e+1),later=async e=>e,")
  expect(text).toContain("named=(function inner(){return 4}),generator=(function*(){yield 5});")
  expect(text).toContain("method(e){return e.map((t=>t))}")
  expect(text).toContain("property:(function(){return 7})")
  expect(text).toContain("\nfunction declared(){return 1}\n")
  expect(text).toContain("case 1:function inCase(){return 9}")
  expect(marked).toBe(8)
  expect(run(text)).toBe(run(source))
})
