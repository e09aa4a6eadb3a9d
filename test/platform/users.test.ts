/**
 * Who Postgres runs as, for every way of being asked.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { chooseRunAs, groupsIn, resolveRunAs } from "../../src/platform/users.ts"
import { runAs } from "../support/postgres.ts"

const passwd = [
  "root:x:0:0:root:/root:/bin/bash",
  "# a comment",
  "broken line",
  "nobody:x:65534:65533::/nonexistent:/usr/sbin/nologin",
  "postgres:x:105:107::/var/lib/postgresql:/bin/bash",
  "toor:x:0:0::/root:/bin/sh",
  ""
].join("\n")
const asRoot = { uid: 0, passwd }
const asOther = { uid: 105, passwd }
const reason = (name: string | null, host: { uid: number; passwd: string }) => {
  const chosen = chooseRunAs(name, host)
  return Result.isFailure(chosen) ? chosen.failure.message : "accepted"
}

describe("root", () => {
  it("takes postgres, else nobody, else its usual number", () => {
    assert.deepStrictEqual(chooseRunAs(null, asRoot), Result.succeed({ name: "postgres", uid: 105, gid: 107 }))
    const without = passwd
      .split("\n")
      .filter((line) => !line.startsWith("postgres"))
      .join("\n")
    assert.deepStrictEqual(
      chooseRunAs(null, { uid: 0, passwd: without }),
      Result.succeed({ name: "nobody", uid: 65534, gid: 65533 })
    )
    assert.deepStrictEqual(
      chooseRunAs(null, { uid: 0, passwd: "" }),
      Result.succeed({ name: "nobody", uid: 65534, gid: 65534 })
    )
  })

  it("takes the user that was named, by name or number", () => {
    for (const name of ["nobody", "65534"]) {
      assert.deepStrictEqual(chooseRunAs(name, asRoot), Result.succeed({ name: "nobody", uid: 65534, gid: 65533 }))
    }
    assert.deepStrictEqual(chooseRunAs("1234", asRoot), Result.succeed({ name: "1234", uid: 1234, gid: 1234 }))
  })

  it("refuses root by any name, and who does not exist", () => {
    for (const name of ["root", "toor", "0", "00"]) assert.match(reason(name, asRoot), /does not run as root/, name)
    for (const name of ["ghost", "", "broken line", "-1"]) assert.match(reason(name, asRoot), /no such user/, name)
  })
})

describe("anybody else", () => {
  it("stays who they are", () => {
    assert.deepStrictEqual(chooseRunAs(null, asOther), Result.succeed(null))
    assert.deepStrictEqual(chooseRunAs("postgres", asOther), Result.succeed(null))
    assert.match(reason("nobody", asOther), /only root/)
    assert.match(reason("root", asOther), /does not run as root/)
  })
})

it.effect("resolveRunAs reads this host", () =>
  Effect.gen(function* () {
    const chosen = yield* resolveRunAs(null)
    if (runAs === null) assert.isNull(chosen)
    else assert.isAbove(chosen?.uid ?? 0, 0)
  })
)

describe("the groups of a user", () => {
  it("are those that name it, without its own", () => {
    const group = [
      "root:x:0:",
      "users:x:100:alice,postgres",
      "postgres:x:107:postgres",
      "ssl:x:108:postgresql",
      "odd",
      "x:y:z:postgres",
      "users2:x:100:postgres"
    ].join("\n")
    assert.deepStrictEqual(groupsIn(group, { name: "postgres", uid: 105, gid: 107 }), [100])
    assert.deepStrictEqual(groupsIn("", { name: "postgres", uid: 105, gid: 107 }), [])
  })
})
