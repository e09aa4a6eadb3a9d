/**
 * What the program prints of its own tables: help, manual page, completions, and the catalogue of errors.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Result from "effect/Result"
import { execFileSync, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { parseArguments } from "../../src/cli/arguments.ts"
import { commands, environment, flags, flagsOf } from "../../src/cli/flags.ts"
import { errorCodes } from "../../src/errors/catalogue.ts"
import { errorPolicies } from "../../src/errors/policy.ts"

const root = path.resolve(import.meta.dirname, "../..")

const printed = (...argv: ReadonlyArray<string>): string => {
  const command = Result.getOrThrow(parseArguments(argv, {}))
  return command._tag === "Text" ? command.text : assert.fail(`it is ${command._tag}`)
}

describe("compute_ctl help", () => {
  it("of a command has its usage and its flags alone, and is what the command's own --help prints", () => {
    for (const command of commands) {
      const text = printed("help", command.name)
      assert.strictEqual(printed(command.name, "--help"), text)
      const own = command.name === "run" ? flagsOf(command).map(({ name }) => name) : command.flags
      assert.deepStrictEqual(
        [...text.matchAll(/^ {2}(?:-., | {4})--([\w-]+)/gm)].map(([, name = ""]) => name),
        flags.map(({ name }) => name as string).filter((name) => own.some((one) => one === name)),
        command.name
      )
    }
  })

  it("has every environment variable that the program or its launcher reads", () => {
    const folder = path.join(root, "src")
    const sources = fs
      .readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts") && file !== "cli/flags.ts")
      .map((file) => fs.readFileSync(path.join(folder, file), "utf8"))
    const read = sources.flatMap((text) => [...text.matchAll(/\benv\["(\w+)"\]/g)].map(([, name = ""]) => name))
    const launcher = fs.readFileSync(path.join(root, "bin/compute_ctl"), "utf8")
    const inShell = [...launcher.matchAll(/\$\{?([A-Z_]{4,})\b/g)].map(([, name = ""]) => name)
    const known = [...environment.flatMap(({ names }) => names), ...flags.flatMap(({ env }) => env ?? [])]
    assert.deepStrictEqual(
      [...new Set([...read, ...inShell])].filter((name) => !known.includes(name)),
      []
    )
    const text = [...sources, launcher].join("\n")
    for (const name of known) {
      assert.match(text, new RegExp(`\\b${name}\\b`), "nothing reads it")
      assert.match(printed("--help"), new RegExp(`\\b${name}\\b`))
    }
  })
})

describe("compute_ctl man", () => {
  it("is a manual page that roff reads, with every command, flag and variable", () => {
    const page = printed("man")
    for (const { name } of commands) assert.include(page, `\\fB${name}\\fR`)
    for (const { name } of flags) assert.include(page, `\\fB\\-\\-${name.replaceAll("-", "\\-")}\\fR`)
    for (const { names } of environment) for (const name of names) assert.include(page, `\\fB${name}\\fR`)
    assert.match(page, /^[\x20-\x7e\n]*$/)
    for (const line of page.split("\n")) assert.match(line, /^([^.']|\.(TH|SH|SS|TP|nf|fi)\b|$)/)
  })
})

/** What bash offers for the last word. */
const offered = (...words: ReadonlyArray<string>): ReadonlyArray<string> => {
  const line = `COMP_WORDS=(compute_ctl ${words.map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${words.length}`
  const script = `${printed("completions", "bash")}${line}\n_compute_ctl\nprintf '%s\\n' "\${COMPREPLY[@]}"`
  return execFileSync("bash", ["-c", script], { encoding: "utf8", cwd: root })
    .split("\n")
    .filter((word) => word !== "")
}

/** Types lines and tabs into an interactive zsh, whose `compadd` then says what is offered. */
const zshTyping = String.raw`
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PROMPT= ; stty -echo; source child.zsh"
while zpty -r shell said && [[ $said != *READY* ]]; do :; done
for line; do
  print -r -- "LINE $line"
  zpty -w -n shell "$line"$'\t'
  while zpty -r shell said && [[ $said != *END* ]]; do [[ $said != *OFFERED* ]] || print -r -- "$said"; done
done
`
const zshChild = String.raw`
autoload -U compinit
fpath=($PWD $fpath)
compinit -D -u
compadd() {
  if [[ \${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
  local -a hits
  builtin compadd -A hits "$@"
  (( $#hits )) && print -l -- "OFFERED "$^hits
  builtin compadd "$@"
}
complete-and-tell() { zle complete-word; print END; BUFFER=; }
zle -N complete-and-tell
bindkey '^I' complete-and-tell
print READY
`.replaceAll("\\$", "$")

/** What real shells offer for lines that begin with the program's name. */
const offeredBy = {
  zsh: (lines: ReadonlyArray<string>, folder: string): ReadonlyArray<ReadonlyArray<string>> => {
    fs.writeFileSync(path.join(folder, "_compute_ctl"), printed("completions", "zsh"))
    fs.writeFileSync(path.join(folder, "child.zsh"), zshChild)
    const said = execFileSync("zsh", ["-f", "-c", zshTyping, "zsh", ...lines], { encoding: "utf8", cwd: folder })
    const answers = said.split(/^LINE .*$/m).slice(1)
    return answers.map((answer) => [...answer.matchAll(/OFFERED (\S+)/g)].map(([, word = ""]) => word))
  },
  fish: (lines: ReadonlyArray<string>, folder: string): ReadonlyArray<ReadonlyArray<string>> => {
    fs.writeFileSync(path.join(folder, "compute_ctl.fish"), printed("completions", "fish"))
    const asked = lines.map((line) => `echo LINE; complete -C '${line}'`)
    const said = execFileSync("fish", ["-N", "-c", ["source compute_ctl.fish", ...asked].join("\n")], {
      encoding: "utf8",
      cwd: folder,
      env: { ...process.env, HOME: folder }
    })
    return said
      .split(/^LINE$/m)
      .slice(1)
      .map((answer) => [...answer.matchAll(/^([^\t\n]+)/gm)].map(([word]) => word))
  }
}

describe("compute_ctl completions", () => {
  it.each([["zsh"], ["fish"]] as const)("in %s offer the same, where it is installed", (shell) => {
    if (spawnSync(shell, ["--version"]).error !== undefined) return console.info(`${shell} is not installed here`)
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "compute-ctl-completions-"))
    try {
      fs.writeFileSync(path.join(folder, "spec.json"), "{}")
      const expected = {
        doc: ["doctor"],
        "check --": ["--pgdata", "--storage"],
        "check spec": [],
        "plan --storage v": ["volume"],
        "completions ": ["bash", "fish", "zsh"],
        "explain spec_": ["spec_conflict", "spec_invalid", "spec_unreadable"],
        "--log-f": ["--log-format"],
        "validate spec.j": ["spec.json"],
        "-S spec.j": ["spec.json"],
        "--compute-id spec": []
      }
      const lines = Object.keys(expected).map((line) => `compute_ctl ${line}`)
      const offered = offeredBy[shell](lines, folder).map((words) => [...new Set(words)].sort())
      assert.deepStrictEqual(offered, Object.values(expected))
    } finally {
      fs.rmSync(folder, { recursive: true, force: true })
    }
  })

  it("in bash offer commands, a command's own flags, and the values of a flag", () => {
    assert.deepStrictEqual(offered("doc"), ["doctor"])
    assert.deepStrictEqual(offered("check", "--"), ["--pgdata", "--storage", "--help"])
    assert.deepStrictEqual(offered("plan", "--storage", "v"), ["volume"])
    assert.deepStrictEqual(offered("completions", ""), ["bash", "zsh", "fish", "--help"])
    assert.deepStrictEqual(offered("-D", "exam"), ["examples"])
    assert.deepStrictEqual(offered("explain", "spec_"), ["spec_conflict", "spec_invalid", "spec_unreadable"])
    assert.deepStrictEqual(offered("--compute-id", "x"), [])
    assert.includeMembers([...offered("validate", "READ")], ["README.md"])
  })

  it("in zsh and fish name every command, and every flag with its meaning", () => {
    for (const shell of ["zsh", "fish"]) {
      const script = printed("completions", shell)
      for (const { name } of commands) assert.match(script, new RegExp(`['(| ]${name}\\b`), shell)
      for (const { name } of flags) assert.match(script, new RegExp(`(--|-l )${name}\\b`), `${shell}: ${name}`)
      // Every quote that is opened is closed.
      for (const line of script.split("\n").filter((one) => !one.startsWith("#")))
        assert.strictEqual((line.replaceAll("'\\''", "").replaceAll("\\'", "").split("'").length - 1) % 2, 0, line)
    }
  })
})

describe("compute_ctl explain", () => {
  it("knows every code, and says meaning, cause, remedy, HTTP status and exit code", () => {
    assert.sameMembers(
      [...errorCodes],
      Object.values(errorPolicies).map(({ code }) => code)
    )
    for (const { code, exitCode, httpStatus } of Object.values(errorPolicies)) {
      const text = printed("explain", code)
      assert.match(text, new RegExp(`^${code}\n\n {2}\\S.*\\.\n\n {2}Cause +\\S.*\\.\n {2}Remedy +\\S.*\\.\n`))
      assert.match(text, new RegExp(`HTTP status +${httpStatus}\n.*Exit code +${exitCode},`))
      for (const line of text.split("\n")) assert.isAtMost(line.length, 140)
    }
    assert.strictEqual(printed("explain", "SPEC_INVALID"), printed("explain", "spec_invalid"))
  })

  it("without a code prints docs/errors.md as it is", () => {
    assert.strictEqual(fs.readFileSync(path.join(root, "docs/errors.md"), "utf8"), printed("explain"))
  })
})
