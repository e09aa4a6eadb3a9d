/**
 * What holds for every spec: no value leaves its line, the last line counts, storage has the last word.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { isSettingName, quoteConf, readConf, renderSetting } from "../../src/postgres/confText.ts"
import { localHba, localIdent, quoteHba, trustLines } from "../../src/postgres/hba.ts"
import { socketFolder } from "../../src/postgres/socketFolder.ts"
import { openFiles, planWarnings, startPlan } from "../../src/postgres/startPlan.ts"
import type { GenericOption, ParsedSpec } from "../../src/spec/ParsedSpec.ts"
import { emptySpec } from "../support/specs.ts"
import { cases, cloudSpec, neonFacts, option, osFacts, processFacts, stock } from "./cases.ts"

/**
 * An independent reader: walks the characters as the lexer does. Shares no code with the writer, and fails on any
 * line that Postgres would not take.
 */
const scan = (text: string): Map<string, string> => {
  const found = new Map<string, string>()
  for (const line of text.split("\n")) {
    const blank = /^[ \t\r]*(#.*)?$/s
    if (blank.test(line)) continue
    const start = /^[ \t\r]*([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?)[ \t\r]*(?:=[ \t\r]*)?/.exec(line)
    if (start === null) throw new Error(`no name: ${line}`)
    let at = start[0].length
    let value = ""
    if (line[at] === "'") {
      for (at++; ; at++) {
        const char = line[at]
        if (char === undefined) throw new Error(`the line ends in quotes: ${line}`)
        if (char === "\\") {
          const next = line[++at]
          if (next === undefined) throw new Error(`the line ends in an escape: ${line}`)
          value += next === "n" ? "\n" : next === "r" ? "\r" : next === "b" ? "\b" : next === "f" ? "\f" : next
        } else if (char === "'") {
          if (line[at + 1] !== "'") break
          value += "'"
          at++
        } else value += char
      }
      at++
    } else {
      while (at < line.length && !/[\s'#]/.test(line[at] ?? "")) value += line[at++]
      if (value === "") throw new Error(`no value: ${line}`)
    }
    if (!blank.test(line.slice(at))) throw new Error(`something after the value: ${line}`)
    found.set((start[1] ?? "").toLowerCase(), value)
  }
  return found
}

/** Text that likes to break out. */
const Text = Schema.Array(
  Schema.Union([
    Schema.Literals([
      "'",
      "\\",
      "\n",
      "\r",
      "\0",
      "#",
      " ",
      "=",
      "''",
      "\\'",
      "\\n",
      '"',
      "\u2028",
      ",",
      "$",
      "é",
      "\t",
      "0",
      "a"
    ]),
    Schema.String
  ])
).pipe(Schema.check(Schema.isMaxLength(12)))
const join = (parts: ReadonlyArray<string>): string => parts.join("").toWellFormed()

const confOf = (spec: ParsedSpec, inputs = osFacts, open = false): string => {
  const plan = startPlan(spec, inputs)
  return (open ? openFiles(plan) : plan.starting).find(({ name }) => name === "postgresql.conf")?.content ?? ""
}

describe("a configuration value", () => {
  it.prop("comes back as it was, from one line", { parts: Text }, ({ parts }) => {
    const value = join(parts).replaceAll("\0", "")
    const line = `cluster_name = ${quoteConf(value)}`
    assert.notMatch(line, /[\n\r\0]/)
    assert.strictEqual(scan(line).get("cluster_name"), value)
    assert.strictEqual(readConf(line)[0]?.value, value)
  })

  it.prop(
    "never gets out of its line, whatever its name, value and type",
    { name: Text, value: Text, quoted: Schema.Boolean },
    (input) => {
      const setting: GenericOption = { name: join(input.name), value: join(input.value), quoted: input.quoted }
      const spec = { ...emptySpec, settings: [option("first", "1"), setting, option("last", "2")] }
      for (const inputs of [osFacts, neonFacts]) {
        const found = scan(confOf(spec, inputs))
        assert.strictEqual(found.get("first"), "1")
        assert.strictEqual(found.get("last"), "2")
        const known = scan(confOf({ ...emptySpec, settings: [option("first", "1"), option("last", "2")] }, inputs))
        const extra = [...found.keys()].filter((key) => !known.has(key))
        assert.isAtMost(extra.length, 1)
        for (const key of extra) assert.strictEqual(key, setting.name.toLowerCase())
      }
    }
  )

  it.prop("that is bare says the same as in quotes", { parts: Text }, ({ parts }) => {
    const value = join(parts).replaceAll("\0", "").trim()
    const read = scan(renderSetting(option("name", value))).get("name")
    // What is a whole quoted string already may stay one.
    const unquoted = /^'.*'$/.test(value) && renderSetting(option("name", value)) === `name = ${value}`
    if (!unquoted) assert.strictEqual(read, value)
    else assert.isDefined(read)
  })

  it.each(["1", "-1", "0.5", "1.5e3", "128MB", "on", "0x1F", "logical", "'quoted already'", "a.b:c/d-e"])(
    "%s is written bare",
    (value) => {
      assert.strictEqual(renderSetting(option("name", value)), `name = ${value}`)
    }
  )

  it.each(["", "a b", "1e3", "1 # no", "'", "'a' 'b'", "x\ny = 1", "é"])(
    "%j is quoted although its type does not ask for it",
    (value) => {
      assert.match(renderSetting(option("name", value)), /^name = '[^\n]*'$/)
    }
  )

  it.each([
    ["a b", "1"],
    ["", "1"],
    ["a.b.c", "1"],
    ["x\nfsync", "on"],
    ["1a", "1"],
    ["name", null],
    ["name", "a\0b"]
  ])("setting %j = %j is left out, with a comment", (name, value) => {
    assert.match(renderSetting(option(name, value, true)), /^# left out: [^\n]+$/)
  })

  it("has names of one or two words", () => {
    assert.deepStrictEqual(["a", "a_1", "_a", "a.b", "neon.x", "a.", ".a", "a-b", "é"].map(isSettingName), [
      true,
      true,
      true,
      true,
      true,
      false,
      false,
      false,
      false
    ])
  })
})

describe("postgresql.conf", () => {
  it.each(cases)("of %s can be read line by line", (_name, spec, inputs) => {
    const plan = startPlan(spec, inputs)
    for (const file of [...plan.starting, ...plan.opening]) {
      if (file.name !== "postgresql.conf") continue
      const found = scan(file.content)
      const read = new Map(readConf(file.content).map((entry) => [entry.name, entry.value]))
      assert.deepStrictEqual([...read].sort(), [...found].sort(), "our own reader agrees")
      assert.isTrue(file.content.endsWith("\n"))
      assert.notInclude(file.content, "a token that must never be")
    }
  })

  it("is stable", () => {
    for (const [, spec, inputs] of cases) assert.deepStrictEqual(startPlan(spec, inputs), startPlan(spec, inputs))
  })

  it("lets the override win with Neon's storage, and storage itself with local storage", () => {
    for (const [, spec, inputs] of cases) {
      const last = confOf(spec, inputs).trimEnd().split("\n").at(-1) ?? ""
      if (inputs.storage._tag === "Neon")
        assert.strictEqual(last, "include_if_exists = 'compute_ctl_temp_override.conf'")
      else assert.match(last, /^(recovery_init_sync_method|dynamic_shared_memory_type|synchronous_standby_names) = /)
    }
  })

  const sabotage: ReadonlyArray<readonly [string, string, string]> = [
    ["fsync", "off", "on"],
    ["wal_level", "minimal", "replica"],
    ["wal_keep_size", "0", "2147483647"],
    ["wal_recycle", "on", "off"],
    ["full_page_writes", "off", "on"],
    ["restart_after_crash", "on", "off"],
    ["dynamic_shared_memory_type", "posix", "mmap"],
    ["data_directory", "/elsewhere", "/data/pgdata"],
    ["hba_file", "/elsewhere/pg_hba.conf", "/data/pgdata/pg_hba.conf"],
    ["ident_file", "/elsewhere/pg_ident.conf", "/data/pgdata/pg_ident.conf"],
    ["port", "6000", "5432"],
    ["synchronous_standby_names", "walproposer", ""],
    ["recovery_init_sync_method", "fsync", "syncfs"]
  ]
  it.each(sabotage)("%s = %s cannot take durability away, however the spec says it", (name, wish, kept) => {
    const spelled = [name, name.toUpperCase()]
    const specs: ReadonlyArray<ParsedSpec> = [
      ...spelled.map((text) => ({ ...emptySpec, settings: [option(text, wish, true)] })),
      ...spelled.map((text) => ({ ...emptySpec, postgresqlConf: `${text} '${wish}'` }))
    ]
    for (const spec of specs) assert.strictEqual(scan(confOf(spec, osFacts, true)).get(name), kept)
  })

  it("takes fsync from the durability: off while starting, then what was asked for", () => {
    assert.strictEqual(scan(confOf(emptySpec, osFacts)).get("fsync"), "off")
    assert.strictEqual(scan(confOf(emptySpec, osFacts, true)).get("fsync"), "on")
    assert.strictEqual(scan(confOf(emptySpec, processFacts, true)).get("fsync"), "off")
  })

  it.each([
    ["listen_addresses", "0.0.0.0"],
    ["synchronous_commit", "off"],
    ["max_wal_size", "4GB"],
    ["checkpoint_timeout", "1h"],
    ["wal_level", "logical"],
    ["archive_mode", "on"],
    ["synchronous_standby_names", "backup_host"]
  ])("%s = %s stays as the spec says it", (name, wish) => {
    assert.strictEqual(scan(confOf({ ...emptySpec, settings: [option(name, wish, true)] })).get(name), wish)
    assert.strictEqual(scan(confOf({ ...emptySpec, postgresqlConf: `${name}='${wish}'` })).get(name), wish)
  })

  it("loads no library of Neon's with local storage, and every other one", () => {
    const name = "shared_preload_libraries"
    const libraries = (text: string) => scan(confOf({ ...emptySpec, settings: [option(name, text, true)] })).get(name)
    assert.strictEqual(libraries("neon,pg_stat_statements"), "pg_stat_statements")
    assert.strictEqual(libraries("$libdir/neon, auto_explain, neon_rmgr"), "auto_explain")
    assert.strictEqual(libraries("neonish"), "neonish")
  })

  it("keeps what audit adds when Neon's libraries go", () => {
    const found = scan(confOf({ ...cloudSpec, auditLevel: "Full" }))
    assert.strictEqual(found.get("shared_preload_libraries"), "pg_stat_statements,pgaudit,pgauditlogtofile")
  })
})

describe("the socket folder", () => {
  const directory = "/storage"

  it("is PGDATA as long as the path fits, counted in bytes", () => {
    const of = (pgdata: string) => socketFolder({ pgdata, directory, port: 5432 })
    assert.strictEqual(of("/short"), "/short")
    assert.strictEqual(of(`/${"x".repeat(84)}`), `/${"x".repeat(84)}`)
    for (const long of [`/${"x".repeat(85)}`, `/${"é".repeat(43)}`]) {
      assert.match(of(long), /^\/storage\/sockets\/[0-9a-f]{12}$/)
      assert.strictEqual(of(long), of(long), "the next start finds it")
    }
  })

  it("is another one for another PGDATA", () => {
    const [one, other] = ["x", "y"].map((letter) =>
      socketFolder({ pgdata: `/${letter.repeat(85)}`, directory, port: 5432 })
    )
    assert.notStrictEqual(one, other)
  })

  it("is in /tmp when the storage's path is too long as well, or there is none", () => {
    const pgdata = `/${"x".repeat(85)}`
    const long = socketFolder({ pgdata, directory: `/${"d".repeat(85)}`, port: 5432 })
    assert.match(long, /^\/tmp\/compute-ctl-[0-9a-f]{12}$/)
    assert.strictEqual(socketFolder({ pgdata, port: 5432 }), long)
  })

  it("is quoted once more where it has a comma", () => {
    const inputs = { ...osFacts, storage: { _tag: "Local", durability: "os", ...stock, sockets: '/a,b"c' } } as const
    assert.strictEqual(scan(confOf(emptySpec, inputs)).get("unix_socket_directories"), '"/a,b""c"')
  })

  const wishing = { ...emptySpec, settings: [option("unix_socket_directories", "/run/postgresql", true)] }

  it("stands before those that the spec wants", () => {
    const plan = startPlan(wishing, osFacts)
    assert.strictEqual(
      scan(plan.starting[0]?.content ?? "").get("unix_socket_directories"),
      "/data/pgdata, /run/postgresql"
    )
    assert.deepStrictEqual(planWarnings(wishing, osFacts), [])
  })

  it("is the only one where the operating system has no name for whom it lets in", () => {
    const inputs = { ...osFacts, storage: { _tag: "Local", durability: "os", ...stock, osUsers: null } } as const
    assert.strictEqual(scan(confOf(wishing, inputs)).get("unix_socket_directories"), "/data/pgdata")
    assert.match(planWarnings(wishing, inputs).join(), /setting "unix_socket_directories" is overridden/)
  })
})

const linesOf = (text: string): ReadonlyArray<string> =>
  text.split("\n").filter((line) => line !== "" && !line.startsWith("#"))

describe("pg_hba.conf", () => {
  const hba = (phase: "starting" | "open", superuser: string, osUsers: ReadonlyArray<string> | null = ["postgres"]) =>
    localHba(phase, { superuser, osUsers }, "scram-sha-256", 17)

  it.prop("stays line by line whatever the superuser is called", { name: Text }, ({ name }) => {
    for (const phase of ["starting", "open"] as const) {
      const text = hba(phase, join(name))
      assert.strictEqual(text.split("\n").length, hba(phase, "admin").split("\n").length)
      for (const line of linesOf(text)) {
        const [kind, database, user, ...proof] = line.split(/\t(?=(?:[^"]*"[^"]*")*[^"]*$)/)
        assert.match(`${kind} ${database}`, /^(local|host) (all|replication)$/)
        assert.match(user ?? "", /^("(?:[^"]|"")*"|all)$/)
        assert.match(proof.join(" "), /^(all )?(peer map=compute_ctl|reject|scram-sha-256)$/)
      }
    }
  })

  it("writes a name that looks like a regular expression as one that matches only itself", () => {
    assert.strictEqual(quoteHba("/a.b", 15), '"/a.b"')
    assert.strictEqual(quoteHba("/a.b", 16), '"/^/a\\.b$"')
    assert.strictEqual(quoteHba('a"b', 17), '"a""b"')
  })

  it("lets nobody but the superuser in while starting, and the superuser over the socket alone", () => {
    assert.deepStrictEqual(linesOf(hba("starting", "admin")), [
      'local\tall\t"admin"\tpeer\tmap=compute_ctl',
      "local\tall\tall\treject",
      "host\tall\tall\tall\treject"
    ])
  })

  it("asks everybody for SCRAM over TCP once it is open", () => {
    assert.deepStrictEqual(
      linesOf(hba("open", "admin")).filter((line) => line.startsWith("host")),
      ["host\tall\tall\tall\tscram-sha-256"]
    )
  })

  it("asks roles with an md5 verifier for that when the spec brings or makes some, and says so", () => {
    const opened = (spec: ParsedSpec) =>
      openFiles(startPlan(spec, osFacts)).find(({ name }) => name === "pg_hba.conf")?.content ?? ""
    const md5 = {
      ...emptySpec,
      roles: [
        {
          name: "old",
          password: { _tag: "Verifier", verifier: Redacted.make(`md5${"0".repeat(32)}`) },
          privileged: null,
          options: []
        } as const
      ]
    }
    assert.notInclude(opened(emptySpec), "md5")
    assert.include(opened(md5), "host\tall\tall\tall\tmd5")
    assert.match(planWarnings(md5, osFacts).join(), /md5 verifiers log in, because role "old" has one/)
    assert.include(opened({ ...emptySpec, settings: [option("password_encryption", "md5", true)] }), "all\tmd5")
  })

  it("trusts the mode of the folder where the operating system has no name for a user", () => {
    assert.deepStrictEqual(trustLines(hba("open", "admin", null)), [
      'local all "admin" trust',
      'local replication "admin" trust'
    ])
    for (const phase of ["starting", "open"] as const) assert.deepStrictEqual(trustLines(hba(phase, "admin")), [])
  })
})

describe("pg_ident.conf", () => {
  it("maps each user of the operating system to the superuser, and no pattern of users", () => {
    const text = localIdent({ superuser: "admin", osUsers: ["root", "/x.*", 'a"b\n'] }, 17)
    assert.deepStrictEqual(linesOf(text), [
      'compute_ctl\t"root"\t"admin"',
      'compute_ctl\t"/^/x\\.\\*$"\t"admin"',
      'compute_ctl\t"a""b"\t"admin"'
    ])
  })
})

describe("a pg_hba.conf of somebody else's", () => {
  it("has its lines without a proof found", () => {
    const text = [
      "# local all all trust",
      "local all  all\ttrust # x",
      "host all all ::1/128 trust",
      "host a trust b md5"
    ]
    assert.deepStrictEqual(trustLines(text.join("\n")), ["local all all trust", "host all all ::1/128 trust"])
  })
})
