/**
 * The files of the sidecars: what is changed, what is kept, and that nothing gets out of its quotes.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { isStale, logBytes } from "../../src/sidecars/auditFiles.ts"
import { flockHolders } from "../../src/sidecars/localProxy.ts"
import { pgbouncerEntries, pgbouncerPlace } from "../../src/sidecars/pgbouncer.ts"
import { fitsIni, isShown, settingsInIni, withSettings } from "../../src/sidecars/pgbouncerIni.ts"
import { auditText, exportText } from "../../src/sidecars/rsyslog.ts"

/** What pgbouncer would read: the later of two lines with one key counts. */
const readIni = (text: string, section: string): Map<string, string> => {
  const found = new Map<string, string>()
  let inside = false
  for (const line of text.split(/\r?\n/)) {
    const head = /^\s*\[([^\]]*)\]/.exec(line)?.[1]
    if (head !== undefined) inside = head === section
    const [, key, value] = /^\s*([^\s=;#%][^\s=]*)\s*=\s*(.*?)\s*$/.exec(line) ?? []
    if (inside && head === undefined && key !== undefined) found.set(key, value ?? "")
  }
  return found
}

const Key = Schema.Literals(["a", "b", "pool_size", "max_client_conn", "auth_type"])
const Value = Schema.String.check(Schema.makeFilter((text: string) => fitsIni("k", text)))
const IniLine = Schema.Union([
  Schema.Literals([
    "",
    "; comment",
    "# a = comment",
    ";a = 1",
    "[pgbouncer]",
    "[databases]",
    "[users] ; x",
    "%include other.ini",
    "  b=7  ",
    "junk"
  ]),
  Schema.TemplateLiteral([Key, " = ", Schema.Literals(["1", "x y", "'q'", ""])])
])

describe("an ini file", () => {
  it.prop(
    "has what was asked for, and everything else untouched",
    {
      lines: Schema.Array(IniLine),
      entries: Schema.Record(Key, Schema.optionalKey(Value)),
      newline: Schema.Literals(["\n", "\r\n"]),
      last: Schema.Boolean
    },
    ({ entries, last, lines, newline }) => {
      const text = ["[pgbouncer]", ...lines].join(newline) + (last ? newline : "")
      const wanted = new Map(
        Object.entries(entries).flatMap(([key, value]) => (value === undefined ? [] : [[key, value] as const]))
      )
      const after = withSettings(text, wanted) ?? assert.fail("the section is there")
      const [before, now] = [readIni(text, "pgbouncer"), readIni(after, "pgbouncer")]
      for (const [key, value] of wanted) assert.strictEqual(now.get(key), value)
      for (const [key, value] of before) if (!wanted.has(key)) assert.strictEqual(now.get(key), value)
      for (const section of ["databases", "users"])
        assert.deepStrictEqual(readIni(after, section), readIni(text, section))
      assert.deepStrictEqual([...settingsInIni(after)], [...wanted], "in the spec's order")
      assert.strictEqual(withSettings(after, wanted), after, "once is enough")
      assert.strictEqual(withSettings(text, new Map()), text)
      assert.strictEqual(withSettings(after, new Map()), text, "what is not wanted any more leaves nothing behind")
      assert.strictEqual(withSettings(withSettings(text, new Map([["c", "d"]])) ?? "", wanted), after)
    }
  )

  it("overrides what people wrote at the end of the section, without a line of theirs touched", () => {
    const text = "[pgbouncer]\n  a =  1\n; b\n\n[users]\na = 2\n"
    const after = withSettings(text, new Map([["a", "$& $1"]])) ?? ""
    assert.match(after, /^\[pgbouncer\]\n {2}a = {2}1\n; .*\na = \$& \$1\n; .*\n; b\n\n\[users\]\na = 2\n$/)
    assert.isNull(withSettings(text.replace("[pgbouncer]", "[peers]"), new Map([["a", "9"]])))
    assert.isNull(withSettings("", new Map()))
  })

  it("whose block has lost its end keeps the lines after it", () => {
    const tuned = withSettings("[pgbouncer]\na = 1\n; mine\nb = 2\n", new Map([["b", "3"]])) ?? ""
    const cut = tuned.split("\n").filter((line) => !line.endsWith("end of the spec's settings"))
    assert.strictEqual(withSettings(cut.join("\n"), new Map()), "[pgbouncer]\na = 1\n; mine\nb = 2\n")
  })

  it("is compared with what pgbouncer shows by meaning: numbers as C reads them, words in any case", () => {
    const same = [
      ["20", "20"],
      ["16", "0x10"],
      ["511", "0777"],
      ["10", "1e1"],
      ["1.5", "1.50"],
      ["0.123456", "0.123456789"],
      ["1.23457e+06", "1234567"],
      ["transaction", "TRANSACTION"],
      ["/home/p/x.log", "~p/x.log"],
      [null, ""]
    ] as const
    for (const [shown, wanted] of same) assert.isTrue(isShown(shown, wanted), `${shown} is ${wanted}`)
    const other = [
      ["20", "abc"],
      ["20", "21"],
      ["100000", "100001"],
      ["1215752191", "99999999999"],
      ["8", "10"],
      ["1", "on"],
      [null, "0"],
      ["", "0"],
      ["session", "transaction"],
      ["/tmp/x.log", "/tmp/y.log"]
    ] as const
    for (const [shown, wanted] of other) assert.isFalse(isShown(shown, wanted), `${shown} is not ${wanted}`)
  })

  it("takes no text that would be more than one value", () => {
    for (const value of ["a\nb", "a\r", "\0", " a", "a "]) assert.isFalse(fitsIni("k", value), JSON.stringify(value))
    for (const key of ["", "a b", "a=b", ";a", "[x]", "%include", "ключ"]) assert.isFalse(fitsIni(key, "v"), key)
    assert.isTrue(fitsIni("pool_size", "'a;b' # c"))
  })

  it("names the certificate when there is one", () => {
    const entries = pgbouncerEntries(new Map([["a", "1"]]), { keyPath: "/k", certPath: "/c" })
    assert.deepStrictEqual(
      [...entries],
      [
        ["a", "1"],
        ["client_tls_cert_file", "/c"],
        ["client_tls_key_file", "/k"],
        ["client_tls_sslmode", "allow"]
      ]
    )
    assert.strictEqual(pgbouncerPlace(true, null).ini, "/etc/pgbouncer.ini")
    assert.strictEqual(pgbouncerPlace(false, null).ini, "/var/db/postgres/pgbouncer/pgbouncer.ini")
  })
})

describe("/proc/locks", () => {
  it("names who holds a flock, and not who waits for one or holds another kind", () => {
    const locks = `1: FLOCK  ADVISORY  WRITE 10 08:01:131 0 EOF
1: -> FLOCK  ADVISORY  WRITE 11 08:01:131 0 EOF
2: POSIX  ADVISORY  WRITE 12 08:01:131 0 EOF
3: FLOCK  ADVISORY  READ  13 00:2d:1311 0 EOF
4: FLOCK  ADVISORY  READ  0 00:2d:131 0 EOF
`
    assert.deepStrictEqual(flockHolders(locks, 131n), [10, 0])
    assert.deepStrictEqual(flockHolders(locks, 31n), [])
    assert.deepStrictEqual(flockHolders("", 131n), [])
  })
})

describe("files of audit records", () => {
  it("go when nothing was written to them for 15 minutes", () => {
    const at = (name: string, minutes: number) => ({ name, bytes: 10, modifiedAt: -minutes * 60_000 })
    const files = [
      at("audit-1.log", 16),
      at("audit-2.log", 14),
      at("postgresql.log", 99),
      at("audit.csv", 99),
      at("xaudit.log", 99)
    ]
    assert.deepStrictEqual(
      files.filter((file) => isStale(file, 0)).map(({ name }) => name),
      ["audit-1.log"]
    )
    assert.strictEqual(logBytes(files), 40)
  })
})

describe("rsyslog's files", () => {
  it.prop(
    "keep every value on its line and in its quotes",
    { one: Schema.String, other: Schema.String },
    ({ one, other }) => {
      for (const tls of [false, true]) {
        const text = auditText({
          target: { host: "h", port: 1 },
          tls,
          logDirectory: `/p"\n${one}`,
          workDirectory: other,
          endpointId: `${one}'; action(type="omprog")\n`,
          projectId: `${other}\\`
        })
        const plain = auditText({
          target: { host: "h", port: 1 },
          tls,
          logDirectory: "",
          workDirectory: "",
          endpointId: "",
          projectId: ""
        })
        assert.strictEqual(text.split("\n").length, plain.split("\n").length)
        const outside = (file: string) => file.replaceAll(/"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/g, "_")
        assert.strictEqual(outside(text), outside(plain))
      }
    }
  )

  it("ask for TLS only where it is wanted, with the name checked", () => {
    const audit = {
      target: { host: "logs.example.com", port: 6514 },
      logDirectory: "/d",
      workDirectory: "/w",
      endpointId: "e",
      projectId: "p"
    }
    assert.include(auditText({ ...audit, tls: true }), 'streamDriverPermittedPeers="logs.example.com"')
    assert.include(auditText({ ...audit, tls: true }), 'streamDriverAuthMode="x509/name"')
    assert.notMatch(auditText({ ...audit, tls: false }), /streamDriver|CAFile/)
    assert.include(exportText({ host: "::1", port: 5 }), 'target="::1"')
  })
})
