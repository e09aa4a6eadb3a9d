/**
 * The Schema of each kind of script: scripts are read by it, and their JSON Schema is printed of it. Reads no file.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import { Problem } from "../../errors/Failure.ts"
import { addDuplicates, readJsonText } from "../../spec/json.ts"
import { printPath, Problems } from "../../spec/problems.ts"
import type { FakeFaults, FakeKind, FakeScript, PageserverScript as Pageserver } from "./script.ts"

const says = (description: string) => ({ description })

/** As the HTTP API takes it: `200ms`, `2s`, `1.5m`; a bare number is seconds. */
const Time = Schema.String.check(Schema.isPattern(/^\d{1,6}(\.\d{1,3})?(ms|s|m)?$/)).annotate({
  expected: "a time such as 200ms, 2s or 1m",
  description: "200ms, 2s, 1.5m; a bare number is seconds"
})
const Times = Schema.Union([
  Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1_000_000 })),
  Schema.Literal("always")
]).annotate({ expected: "a number from 1, or always" })
const opt = Schema.optionalKey
const Id = Schema.String.check(Schema.isPattern(/^[0-9a-f]{32}$/)).annotate({ expected: "32 hex digits in lower case" })
const LsnText = Schema.String.check(Schema.isPattern(/^[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}$/)).annotate({
  expected: "a position such as 0/16B9188"
})
const Keys = Schema.Struct({ keys: Schema.Array(Schema.Unknown) }).annotate(says("a JSON Web Key Set"))
const Unit = Schema.Number.check(Schema.isBetween({ minimum: 0, maximum: 1 }))

/** How a request is answered instead of as it should be. With a delay alone it is answered well, and late. */
const RequestFault = Schema.Struct({
  at: opt(
    Schema.String.check(Schema.isPattern(/^(?:[A-Z]+ )?\/\S*$/)).annotate({
      expected: "a path such as /status, or a method and a path such as POST /configure",
      description: "which requests: a path, or METHOD /path; without it all of them"
    })
  ),
  delay: opt(Time),
  status: opt(Schema.Int.check(Schema.isBetween({ minimum: 200, maximum: 599 }))),
  body: opt(Schema.Unknown).annotate(says("with status: what is answered; text as it is, anything else as JSON")),
  fault: opt(Schema.Literals(["hang", "reset", "garbage"])).annotate(
    says("no answer; the connection is reset; 200 with a page that is no JSON")
  ),
  times: opt(Times)
}).annotate({ identifier: "RequestFault" })

const ComputeStep = Schema.Struct({
  at: Schema.Literals(["start", "configure", "terminate", "postgres"]).annotate(
    says("the first start, a later spec, the end, or Postgres leaving by itself so long after it ran")
  ),
  delay: opt(Time),
  error: opt(Schema.String).annotate(says("it fails with this; for terminate the last sync does")),
  hang: opt(Schema.Boolean).annotate(says("it is never done")),
  exitCode: opt(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 255 }))).annotate(says("for postgres; 1")),
  times: opt(Times)
}).annotate({ identifier: "ComputeStep" })

const ComputeFaults = { steps: opt(Schema.Array(ComputeStep)), requests: opt(Schema.Array(RequestFault)) }

const ComputeScript = Schema.Struct({
  $schema: opt(Schema.String),
  kind: Schema.Literal("compute"),
  apiVersion: opt(Schema.Literals(["2024", "head"])).annotate(says("which generation of the API; head")),
  computeId: opt(Schema.String).annotate(says("whom tokens are for; compute-1")),
  storage: opt(Schema.Literals(["neon", "local"])).annotate(says("by whose rules specs are read; local")),
  spec: opt(Schema.Unknown).annotate(says("there from the beginning; without it the compute waits for /configure")),
  tokens: opt(Schema.Boolean).annotate(says("ask for tokens, by a key of the fake's own; it prints tokens for it")),
  jwks: opt(Keys).annotate(says("ask for tokens, by these keys")),
  liveConfig: opt(Schema.Boolean).annotate(says("false: /configure is refused with 412, as when -S gave the spec")),
  exitDelay: opt(Time).annotate(says("how long HTTP answers after the end; as long as the real one does")),
  flushLsn: opt(LsnText).annotate(says("what /terminate answers")),
  allowedHosts: opt(Schema.Array(Schema.String)).annotate(says("names it may be asked by without tokens")),
  ...ComputeFaults
}).annotate({ identifier: "ComputeScript" })

const SpecAnswer = Schema.Struct({
  spec: opt(Schema.Unknown).annotate(says("the spec, in an answer that says attached")),
  empty: opt(Schema.Literal(true)).annotate(says("an answer that says that there is no spec yet")),
  answer: opt(Schema.Unknown).annotate(says("the whole answer, as it is")),
  times: opt(Times)
}).annotate({ identifier: "SpecAnswer" })

const ControlPlaneFaults = { requests: opt(Schema.Array(RequestFault)) }

const ControlPlaneScript = Schema.Struct({
  $schema: opt(Schema.String),
  kind: Schema.Literal("control-plane"),
  apiVersion: opt(Schema.Literals(["2024", "head"])).annotate(says("2024: an answer has no compute_ctl_config; head")),
  token: opt(Schema.String).annotate(says("asked for as the bearer's")),
  jwks: opt(Keys).annotate(says("the keys in each answer")),
  computes: Schema.Record(Schema.String, Schema.NonEmptyArray(SpecAnswer)).annotate(
    says("by compute id: its answers, one after the other; the last one stays")
  ),
  ...ControlPlaneFaults
}).annotate({ identifier: "ControlPlaneScript" })

const pageserverFaults = [
  "starting up",
  "hang",
  "wrong token",
  "another tenant's token",
  "unknown timeline",
  "collected",
  "ahead of the tip",
  "cut",
  "stall",
  "reset",
  "error mid-way",
  "error after the end",
  "corrupt gzip",
  "truncated tar",
  "slow drip"
] as const
/** What a gRPC service cannot do, or would not outlive. */
const overLibpqAlone: ReadonlyArray<string> = ["starting up", "reset", "slow drip"]

const PageserverStep = Schema.Struct({
  fault: opt(Schema.Literals(pageserverFaults)),
  at: opt(Unit).annotate(says("where in the archive; 0.5")),
  delay: opt(Time),
  times: opt(Times)
}).annotate({ identifier: "PageserverStep" })

const PageserverFaults = { attempts: opt(Schema.Array(PageserverStep)) }

const PageserverScript = Schema.Struct({
  $schema: opt(Schema.String),
  kind: Schema.Literal("pageserver"),
  protocol: opt(Schema.Literals(["libpq", "grpc"])),
  tenant: Id,
  timeline: Id,
  shard: opt(Schema.String.check(Schema.isPattern(/^[0-9a-f]{4}$/))).annotate(says("grpc: shard number and count")),
  token: opt(Schema.String).annotate(says("asked for as the password")),
  archive: opt(Schema.String).annotate(says("what a basebackup is: a gzipped tar, by its path from the script")),
  pgdata: opt(Schema.String).annotate(says("the same, made of the data directory of a Postgres that was shut down")),
  files: opt(Schema.Record(Schema.String, Schema.String)).annotate(says("the same, made of these: path and content")),
  lease: opt(Schema.Union([Time, Schema.Literal("refused")])).annotate(says("how long a lease lasts; an hour")),
  ...PageserverFaults
}).annotate({ identifier: "PageserverScript" })

const SafekeeperStep = Schema.Struct({
  fault: opt(Schema.Literals(["lag", "unknown timeline", "wrong token", "another tenant's token", "hang", "reset"])),
  delay: opt(Time),
  times: opt(Times)
}).annotate({ identifier: "SafekeeperStep" })

const SafekeeperFaults = { attempts: opt(Schema.Array(SafekeeperStep)) }

const SafekeeperScript = Schema.Struct({
  $schema: opt(Schema.String),
  kind: Schema.Literal("safekeeper"),
  tenant: Id,
  timeline: Id,
  token: opt(Schema.String).annotate(says("asked for as the password")),
  flush: LsnText,
  commit: opt(LsnText).annotate(says("as flush")),
  ...SafekeeperFaults
}).annotate({ identifier: "SafekeeperScript" })

/** The type says that each schema is what `script.ts` says. */
const scripts: { readonly [K in FakeKind]: Schema.Codec<Extract<FakeScript, { readonly kind: K }>> } = {
  compute: ComputeScript,
  "control-plane": ControlPlaneScript,
  pageserver: PageserverScript,
  safekeeper: SafekeeperScript
}
/** What `POST /_fault` takes: the part of a script that says what goes wrong. */
const faults: { readonly [K in FakeKind]: Schema.Codec<FakeFaults> } = {
  compute: Schema.Struct(ComputeFaults),
  "control-plane": Schema.Struct(ControlPlaneFaults),
  pageserver: Schema.Struct(PageserverFaults),
  safekeeper: Schema.Struct(SafekeeperFaults)
}

/**
 * A script, or what was sent to `/_fault`, is not what its schema says.
 *
 * @example
 * ```ts
 * const made = yield* Effect.result(makeFake(JSON.parse('{ "kind": "compute", "stepz": [] }')))
 * const wrong = Result.isFailure(made) && made.failure instanceof ScriptInvalid
 * ```
 */
export class ScriptInvalid extends Schema.TaggedError<ScriptInvalid>()("ScriptInvalid", {
  source: Schema.String,
  problems: Schema.Array(Problem)
}) {
  override get message(): string {
    const lines = this.problems.map(({ message, path }) => (path === "" ? message : `${path}: ${message}`))
    return `${this.source} is not valid: ${lines.join("; ")}`
  }
}

type Read<A> = Result.Result<A, ScriptInvalid>

const invalid = (source: string, path: string, message: string) =>
  Result.fail(new ScriptInvalid({ source, problems: [{ path, message }] }))

const leaf: SchemaIssue.LeafHook = (issue) =>
  issue._tag === "MissingKey"
    ? "expected a value, but the key is missing"
    : issue._tag === "UnexpectedKey"
      ? "there is no such key here"
      : SchemaIssue.defaultLeafHook(issue)

const format = SchemaIssue.makeFormatterStandardSchemaV1({ leafHook: leaf })

const decode = <A>(schema: Schema.Decoder<A>, input: unknown, source: string): Read<A> =>
  Result.mapError(
    Schema.decodeUnknownResult(schema, { errors: "all", onExcessProperty: "error" })(input),
    ({ issue }) =>
      new ScriptInvalid({
        source,
        problems: format(issue).issues.map(({ message, path = [] }) => ({
          path: printPath(path.map((step) => (typeof step === "object" ? step.key : step))),
          message: message.replace(/^Expected /, "expected ")
        }))
      })
  )

const grpcAlone = (protocol: "libpq" | "grpc" | undefined, { attempts = [] }: FakeFaults, source: string) => {
  const index = attempts.findIndex(({ fault }) => fault !== undefined && overLibpqAlone.includes(fault))
  return protocol === "grpc" && index >= 0
    ? invalid(source, `attempts[${index}].fault`, `with protocol grpc it can be none of ${overLibpqAlone.join(", ")}`)
    : Result.succeed(null)
}

const pageserverFits = (script: Pageserver, source: string): Read<Pageserver> => {
  const given = [script.archive, script.pgdata, script.files].filter((one) => one !== undefined)
  if (given.length !== 1) return invalid(source, "archive", "expected one of archive, pgdata and files")
  return Result.map(grpcAlone(script.protocol, script, source), () => script)
}

/** A script that is JSON already. `source` is named in errors. */
export const parseScript = (input: unknown, kind: FakeKind, source: string): Read<FakeScript> => {
  const said = typeof input === "object" && input !== null && "kind" in input ? input.kind : undefined
  if (said !== kind && Object.keys(scripts).some((one) => one === said))
    return invalid(source, "kind", `expected "${kind}", because this is what was asked for`)
  if (kind !== "pageserver") return decode<FakeScript>(scripts[kind], input, source)
  return Result.flatMap(decode(scripts[kind], input, source), (script) => pageserverFits(script, source))
}

const parseText = (text: string, source: string): Read<unknown> =>
  Result.flatMap(
    Result.mapError(readJsonText(text, source), ({ problems }) => new ScriptInvalid({ source, problems })),
    ({ duplicates, value }) => {
      const problems = new Problems()
      addDuplicates(duplicates, problems)
      return problems.count === 0
        ? Result.succeed(value)
        : Result.fail(new ScriptInvalid({ source, problems: problems.list() }))
    }
  )

export const parseScriptText = (text: string, kind: FakeKind, source: string): Read<FakeScript> =>
  Result.flatMap(parseText(text, source), (input) => parseScript(input, kind, source))

/** What `POST /_fault` was sent. */
export const parseFaults = (text: string, { kind, ...script }: FakeScript): Read<FakeFaults> =>
  Result.flatMap(parseText(text, "the body"), (input) =>
    Result.flatMap(decode<FakeFaults>(faults[kind], input, "the body"), (found) =>
      Result.map(grpcAlone("protocol" in script ? script.protocol : undefined, found, "the body"), () => found)
    )
  )

/** Of every script, as draft 2020-12. */
export const scriptsJsonSchema = (): unknown => {
  const all = Schema.Union(Object.values(scripts)).annotate({ identifier: "FakeScript" })
  const { definitions, schema } = Schema.toJsonSchemaDocument(all)
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "Script of compute_ctl fake",
    ...schema,
    $defs: definitions
  }
}
