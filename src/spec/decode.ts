/**
 * Decodes input by a schema, and says what is wrong with it in time that is linear in the input.
 *
 * The schema's own decoder stops at the first fault, or collects every one: millions of them from a body of megabytes.
 * So it decodes, and only when it refuses, the containers are gone through: what the decoder takes is passed over, what
 * it refuses is looked into until enough problems are known, and then only counted. Pure.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaAST from "effect/SchemaAST"
import * as SchemaIssue from "effect/SchemaIssue"
import { expectedMode } from "./ComputeSpec.ts"
import { type JsonPath, type Problems } from "./problems.ts"

type Decode = (input: unknown) => Result.Result<unknown, Schema.SchemaError>

/** The decoded value, or `null` after everything that is wrong was put in `problems`. */
export const decoderOf = <S extends Schema.ConstraintDecoder<unknown>>(schema: S) => {
  const decode = Schema.decodeUnknownResult(schema)
  return (input: unknown, problems: Problems, path: JsonPath = []): S["Type"] | null => {
    const decoded = decode(input)
    if (Result.isSuccess(decoded)) return decoded.success
    look(schema.ast, input, path, problems)
    return null
  }
}

// -- going through what was refused -----------------------------------------------------------------------------------

const decoders = new WeakMap<SchemaAST.AST, Decode>()

/** Of a part of a schema. */
const decoderOfAst = (ast: SchemaAST.AST): Decode => {
  const known = decoders.get(ast)
  if (known !== undefined) return known
  const made: Decode = Schema.decodeUnknownResult(Schema.make<Schema.Decoder<unknown>>(ast))
  decoders.set(ast, made)
  return made
}

/** The container that a value of this type would have to be; `null`: the value is judged as a whole. */
const containerOf = (ast: SchemaAST.AST): SchemaAST.Arrays | SchemaAST.Objects | null => {
  if (ast.encoding !== undefined) return null
  if (SchemaAST.isArrays(ast) || SchemaAST.isObjects(ast)) return ast
  if (!SchemaAST.isUnion(ast)) return null
  const others = ast.types.filter((one) => !SchemaAST.isNull(one))
  return others.length === 1 && others[0] !== undefined ? containerOf(others[0]) : null
}

const isRecord = (input: unknown): input is Readonly<Record<string, unknown>> =>
  typeof input === "object" && input !== null && !Array.isArray(input)

/** Puts what is wrong with a refused value in `problems`. */
const look = (ast: SchemaAST.AST, input: unknown, path: JsonPath, problems: Problems): void => {
  const before = problems.count
  const container = containerOf(ast)
  if (container !== null && SchemaAST.isArrays(container) && Array.isArray(input)) {
    const [item] = container.rest
    if (item !== undefined) for (const [index, one] of input.entries()) judge(item, one, path, index, problems)
  } else if (container !== null && SchemaAST.isObjects(container) && isRecord(input)) {
    lookAtObject(container, input, path, problems)
  }
  // The parts are in order, or there are none: it is the value as a whole.
  if (problems.count === before) addIssues(ast, input, path, problems, container === null ? "all" : "first")
}

const lookAtObject = (
  ast: SchemaAST.Objects,
  input: Readonly<Record<string, unknown>>,
  path: JsonPath,
  problems: Problems
): void => {
  for (const { name, type } of ast.propertySignatures) {
    const key = String(name)
    if (Object.hasOwn(input, key)) judge(type, input[key], path, key, problems)
    else if (!SchemaAST.isOptional(type)) problems.add([...path, key], missing)
  }
  for (const { type } of ast.indexSignatures)
    for (const key of Object.keys(input)) judge(type, input[key], path, key, problems)
}

const judge = (ast: SchemaAST.AST, input: unknown, path: JsonPath, step: string | number, problems: Problems): void => {
  if (Result.isSuccess(decoderOfAst(ast)(input))) return
  if (problems.isFull) problems.addMore(1)
  else look(ast, input, [...path, step], problems)
}

// -- in words ---------------------------------------------------------------------------------------------------------

const missing = "expected a value, but the key is missing"

/** A schema with an identifier (for the JSON Schema) calls itself by it in "expected ..."; people want the shape. */
const shapeName = (expected: string): string =>
  expected
    .split(" | ")
    .map((one) =>
      one === "ComputeMode"
        ? expectedMode
        : one
            .replace(/^(?:object|[A-Z][A-Za-z0-9]*)$/, "an object")
            .replace(/^array$/, "an array")
            .replace(/^(string|number|boolean)$/, "a $1")
    )
    .join(" or ")

const leaf: SchemaIssue.LeafHook = (issue) =>
  issue._tag === "MissingKey" ? missing : SchemaIssue.defaultLeafHook(issue)

const format = SchemaIssue.makeFormatterStandardSchemaV1({ leafHook: leaf })

const addIssues = (
  ast: SchemaAST.AST,
  input: unknown,
  path: JsonPath,
  problems: Problems,
  errors: "first" | "all"
): void => {
  const decoded = Schema.decodeUnknownResult(Schema.make<Schema.Decoder<unknown>>(ast), { errors })(input)
  if (Result.isSuccess(decoded)) return
  for (const issue of format(decoded.failure.issue).issues) {
    const steps = (issue.path ?? []).map((step) => (typeof step === "object" ? step.key : step))
    problems.add(
      [...path, ...steps.map((step) => (typeof step === "number" ? step : String(step)))],
      issue.message.replace(/^Expected (.*)$/s, (_, expected: string) => `expected ${shapeName(expected)}`)
    )
  }
}
