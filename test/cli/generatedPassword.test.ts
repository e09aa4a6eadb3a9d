/**
 * Passwords of our making: who gets one, where it is kept, and that it stays.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as fs from "node:fs"
import * as path from "node:path"
import { parseArguments } from "../../src/cli/arguments.ts"
import { generatedLogin, withLogin } from "../../src/cli/generatedPassword.ts"
import { prepare } from "../../src/cli/run.ts"
import type { ParsedSpec, Password, Role } from "../../src/spec/ParsedSpec.ts"
import { isVerifier } from "../../src/spec/names.ts"
import { temporaryFolder } from "../support/postgres.ts"
import { emptySpec } from "../support/specs.ts"

const role = (name: string, password: Password = { _tag: "Unmanaged" }): Role => ({
  name,
  password,
  privileged: null,
  options: []
})
const specWith = (...roles: ReadonlyArray<Role>): ParsedSpec => ({
  ...emptySpec,
  roles,
  databases: [{ name: "app", owner: "alice", options: [] }]
})
const spec = specWith(role("alice"), role("bob"))

const verifierIn = ({ roles }: ParsedSpec, name: string): string => {
  const password = roles.find((one) => one.name === name)?.password
  return password?._tag === "Verifier" ? Redacted.value(password.verifier) : (password?._tag ?? "no such role")
}

describe("--generate-password", () => {
  it.effect("makes one, keeps it in a password file of mode 0600, and finds it again", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryFolder, "new", "pgpass")
      const first = yield* generatedLogin(spec, "alice", file, null)
      assert.deepStrictEqual([first?.role, first?.database, first?.file], ["alice", "app", file])
      const password = first === null ? "" : Redacted.value(first.password)
      assert.isAtLeast(password.length, 32)
      assert.strictEqual(fs.readFileSync(file, "utf8"), `*:*:*:alice:${password}\n`)
      assert.strictEqual(fs.statSync(file).mode & 0o777, 0o600)
      assert.strictEqual(fs.statSync(path.dirname(file)).mode & 0o777, 0o700)

      const second = yield* generatedLogin(spec, "alice", file, null)
      assert.strictEqual(second === null ? "" : Redacted.value(second.password), password)
      assert.strictEqual(fs.readFileSync(file, "utf8"), `*:*:*:alice:${password}\n`)
      const verifier = verifierIn(withLogin(first)(spec), "alice")
      assert.isTrue(isVerifier(verifier))
      assert.strictEqual(verifierIn(withLogin(second)(spec), "alice"), verifier, "an apply has nothing to change")
      assert.strictEqual(verifierIn(withLogin(first)(spec), "bob"), "Unmanaged")
    })
  )

  it.effect("keeps what else is in the file, takes what a person put there, and closes it to others", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryFolder, "pgpass")
      const before = "# mine\nhost:5432:*:alice:x\n*:*:*:al\\:ice:my\\:own"
      fs.writeFileSync(file, before, { mode: 0o644 })
      const odd = yield* generatedLogin(specWith(role("al:ice")), "al:ice", file, null)
      assert.strictEqual(odd === null ? "" : Redacted.value(odd.password), "my:own")
      assert.strictEqual(fs.statSync(file).mode & 0o777, 0o600)
      const alice = yield* generatedLogin(spec, "alice", file, null)
      assert.strictEqual(
        fs.readFileSync(file, "utf8"),
        `${before}\n*:*:*:alice:${alice === null ? "" : Redacted.value(alice.password)}\n`
      )
    })
  )

  it.effect("leaves roles alone whose password the spec decides, and names that it does not know", () =>
    Effect.gen(function* () {
      const file = path.join(yield* temporaryFolder, "pgpass")
      const verifier = Redacted.make(`md5${"0".repeat(32)}`)
      const decided = specWith(role("alice", { _tag: "Verifier", verifier }), role("bob", { _tag: "None" }))
      for (const name of ["alice", "bob", "carol"]) assert.isNull(yield* generatedLogin(decided, name, file, null))
      assert.isNull(yield* generatedLogin(null, "alice", file, null))
      assert.isFalse(fs.existsSync(file))
      const login = yield* generatedLogin(spec, "alice", file, null)
      assert.strictEqual(verifierIn(withLogin(login)(decided), "alice"), Redacted.value(verifier), "a later spec's own")
    })
  )

  it.effect("with --require-existing it is made for a volume, and nowhere for a local storage that is not there", () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const roles = { roles: [{ name: "alice" }], databases: [] }
      const text = JSON.stringify({ format_version: 1, suspend_timeout_seconds: -1, cluster: roles })
      const loginWith = (...storage: ReadonlyArray<string>) =>
        Effect.gen(function* () {
          const words = [...storage, "-s", text, "--require-existing", "--generate-password", "alice"]
          const command = Result.getOrThrow(parseArguments(words, {}))
          if (command._tag !== "Run") return assert.fail(command._tag)
          return (yield* prepare(command.settings, {
            path: process.env["PATH"],
            home: folder,
            stateHome: path.join(folder, "state"),
            isRoot: false,
            pgbouncerPassword: null,
            auditEndpoints: { plain: null, tls: null },
            programFolder: folder
          })).login
        })
      const kept = yield* loginWith("--storage", "volume", "-D", path.join(folder, "volume"))
      assert.strictEqual(kept?.file, path.join(folder, "state/compute-ctl/pgpass"))
      assert.isNull(yield* loginWith("--storage", `local:${path.join(folder, "absent")}`))
      assert.isFalse(fs.existsSync(path.join(folder, "absent")))
    })
  )
})
